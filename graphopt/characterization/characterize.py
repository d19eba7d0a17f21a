"""The characterization of a corpus: table 1 and figures 3, 4 and 5 of Park et al. (2018), from its captures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt import __version__
from graphopt.characterization.classes import OperatorClass, operator_classes
from graphopt.characterization.layers import Kind, Layer, Matrices, layers
from graphopt.characterization.liveness import liveness
from graphopt.characterization.parameters import parameter_elements
from graphopt.characterization.projection import Accelerator, Projection, schedule, sweep
from graphopt.graph import Capture, Shape
from graphopt.machine import Machine
from graphopt.roofline import operator_times
from graphopt.views import ViewName

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Intensity:
    """Arithmetic intensity of some layers: operations per element moved; multiply and add count apart.

    Attributes:
        layers: how many.
        operations: of all of them.
        weights: operations of all over elements of weights of all.
        least_weights: the same of the layer where it is least.
        whole: operations over elements of weights and activations, of all.
        least_whole: the same of the layer where it is least.
    """

    layers: int
    operations: int
    weights: float
    least_weights: float
    whole: float
    least_whole: float


@dataclass(frozen=True)
class Model:
    """One capture: a row of table 1 and a pair of curves of figure 3.

    Attributes:
        name: of the graph.
        source: path of the model.
        executions: how often it ran.
        inputs: shapes of its inputs.
        batch: see ``batch_of``; None when the graph has no input.
        parameters: elements of learned constants.
        live: most activation elements live at once.
        live_in_place: the same when element-wise operators write over their operands.
        intensity: by kind of layer, and of all layers but embeddings by the name ``all``: a lookup computes nothing.
        seconds: predicted time of one execution.
        times: predicted seconds of one execution by operator class.
        measured: measured seconds of one execution by operator class; None when it was not profiled.
        unknown_operators: operators without a predicted time.
        unknown_tensors: tensors without a known shape.
        projections: for each accelerator of the sweep.
    """

    name: str
    source: str
    executions: int
    inputs: Mapping[str, Shape]
    batch: int | None
    parameters: int
    live: int
    live_in_place: int
    intensity: Mapping[str, Intensity]
    seconds: float
    times: Mapping[OperatorClass, float]
    measured: Mapping[OperatorClass, float] | None
    unknown_operators: int
    unknown_tensors: int
    projections: Sequence[tuple[Accelerator, Projection]]


@dataclass(frozen=True, slots=True)
class MatrixShape:
    """A row of figure 5.

    Attributes:
        kind: of the layers.
        matrices: activations [m, k] times weights [k, n], ``count`` products in one layer.
        layers: how many layers of the corpus have it.
        executions: how often these layers ran.
    """

    kind: Kind
    matrices: Matrices
    layers: int
    executions: int


@dataclass(frozen=True)
class Characterization:
    """What ``characterize`` found.

    Attributes:
        view: of the captures.
        machine: name of the machine that times are predicted for.
        models: a row for each capture, in the corpus's order.
        shapes: matrix shapes, by kind and size.
    """

    view: str
    machine: str
    models: tuple[Model, ...]
    shapes: tuple[MatrixShape, ...] = field(default=())

    def shares(self, *, measured: bool = False) -> dict[OperatorClass, float]:
        """Share of the fleet's time by operator class, captures weighted by their executions; those above 0.

        Args:
            measured: from measured times, over the captures that have them.
        """
        total: dict[OperatorClass, float] = dict.fromkeys(OperatorClass, 0.0)
        for model in self.models:
            for name, seconds in ((model.measured or {}) if measured else model.times).items():
                total[name] += seconds * model.executions
        whole = sum(total.values())
        return {name: seconds / whole for name, seconds in total.items() if seconds > 0}

    def to_dict(self) -> dict[str, Any]:
        """As JSON of kind ``characterization`` (docs/file-formats.md)."""
        return {
            "kind": "characterization",
            "schema_version": SCHEMA_VERSION,
            "graphopt": __version__,
            "view": self.view,
            "machine": self.machine,
            "models": [_model(model) for model in self.models],
            "time": {
                "predicted": _named(self.shares()),
                "measured": _named(self.shares(measured=True)) if any(m.measured for m in self.models) else None,
            },
            "shapes": [
                {
                    "kind": shape.kind.value,
                    "m": shape.matrices.m,
                    "k": shape.matrices.k,
                    "n": shape.matrices.n,
                    "count": shape.matrices.count,
                    "layers": shape.layers,
                    "executions": shape.executions,
                }
                for shape in self.shapes
            ],
        }


def characterize(
    captures: Sequence[Capture],
    machine: Machine,
    *,
    view: ViewName = "executed",
    measured: Sequence[Mapping[str, float] | None] | None = None,
) -> Characterization:
    """Characterize a corpus.

    Args:
        captures: of one view.
        machine: for the predicted times.
        view: what the captures are.
        measured: for each capture, measured seconds by node name; None for one that was not profiled.

    Returns:
        Table 1, and the data of figures 3, 4 and 5.
    """
    times = measured or [None] * len(captures)
    models = []
    shapes: dict[tuple[Kind, Matrices], list[int]] = {}
    for capture, known in zip(captures, times, strict=True):
        found = layers(capture)
        models.append(_characterized(capture, found, machine, known))
        for layer in found:
            for matrices in layer.matrices:
                entry = shapes.setdefault((layer.kind, matrices), [0, 0])
                entry[0] += 1
                entry[1] += capture.executions
    kinds = list(Kind)
    order = sorted(shapes, key=lambda key: (kinds.index(key[0]), key[1].m, key[1].k, key[1].n, key[1].count))
    rows = tuple(MatrixShape(kind, matrices, *shapes[kind, matrices]) for kind, matrices in order)
    return Characterization(view, machine.name, tuple(models), rows)


def intensity(found: Iterable[Layer]) -> Intensity | None:
    """Intensity of some layers; None when there are none."""
    every = list(found)
    if not every:
        return None
    operations = sum(layer.operations for layer in every)
    weights = sum(layer.weights for layer in every)
    return Intensity(
        len(every),
        operations,
        operations / weights,
        min(layer.intensity for layer in every),
        operations / (weights + sum(layer.activations for layer in every)),
        min(layer.whole_intensity for layer in every),
    )


def batch_of(capture: Capture, found: Iterable[Layer] = ()) -> int | None:
    """The batch: of a recurrent layer, whose operands lead with the time; else the first size of the first input.

    Args:
        capture: the graph with its shapes.
        found: its layers.
    """
    recurrent = next((layer for layer in found if layer.kind is Kind.RECURRENT and len(layer.matrices) == 2), None)
    if recurrent is not None:
        return recurrent.matrices[1].m
    return next((shape[0] for shape in capture.input_shapes().values() if shape), None)


def _characterized(
    capture: Capture, found: Sequence[Layer], machine: Machine, measured: Mapping[str, float] | None
) -> Model:
    times = operator_times(capture, machine)
    live = liveness(capture)
    by_kind = {"all": intensity(layer for layer in found if layer.kind is not Kind.EMBEDDING)}
    by_kind |= {kind.value: intensity(layer for layer in found if layer.kind is kind) for kind in Kind}
    return Model(
        name=capture.graph.name,
        source=capture.source,
        executions=capture.executions,
        inputs=capture.input_shapes(),
        batch=batch_of(capture, found),
        parameters=parameter_elements(capture),
        live=live.elements,
        live_in_place=liveness(capture, in_place=True).elements,
        intensity={name: value for name, value in by_kind.items() if value is not None},
        seconds=sum(seconds for seconds in times if seconds is not None),
        times=_by_class(capture, machine),
        measured=None
        if measured is None
        else _summed(operator_classes(capture), [measured.get(node.name, 0.0) for node in capture.graph.nodes]),
        unknown_operators=sum(seconds is None for seconds in times),
        unknown_tensors=live.unknown,
        projections=sweep(schedule(capture)),
    )


def _by_class(capture: Capture, machine: Machine) -> dict[OperatorClass, float]:
    """Predicted seconds by class; what bodies of control flow do counts by its own class."""
    classes, seconds = operator_classes(capture), [known or 0.0 for known in operator_times(capture, machine)]
    for index, node in enumerate(capture.graph.nodes):
        for body in capture.bodies.get(node.name, ()) if seconds[index] else ():
            for name, inside in _by_class(body.capture, machine).items():
                classes.append(name)
                seconds.append(body.trips * inside)
                seconds[index] -= body.trips * inside
    return _summed(classes, seconds)


def _summed(classes: Sequence[OperatorClass], seconds: Sequence[float]) -> dict[OperatorClass, float]:
    total: dict[OperatorClass, float] = {}
    for name, value in zip(classes, seconds, strict=True):
        total[name] = total.get(name, 0.0) + value
    return {name: total[name] for name in OperatorClass if name in total}


def _named(values: Mapping[OperatorClass, float]) -> dict[str, float]:
    return {name.value: value for name, value in values.items()}


def _model(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "source": model.source,
        "executions": model.executions,
        "inputs": {name: list(shape) for name, shape in model.inputs.items()},
        "batch": model.batch,
        "parameters": model.parameters,
        "live_activations": model.live,
        "live_activations_in_place": model.live_in_place,
        "intensity": {
            name: {
                "layers": value.layers,
                "operations": value.operations,
                "weights_average": value.weights,
                "weights_least": value.least_weights,
                "whole_average": value.whole,
                "whole_least": value.least_whole,
            }
            for name, value in model.intensity.items()
        },
        "seconds": model.seconds,
        "predicted": _named(model.times),
        "measured": None if model.measured is None else _named(model.measured),
        "unknown_operators": model.unknown_operators,
        "unknown_tensors": model.unknown_tensors,
        "projection": [
            {
                "on_chip_bytes": device.capacity,
                "on_chip_bandwidth": device.on_chip_bandwidth,
                "operations_per_second": found.speed,
                "seconds": found.seconds,
                "bound": dict(found.bound),
                "resident_weight_bytes": found.resident,
            }
            for device, found in model.projections
        ],
    }
