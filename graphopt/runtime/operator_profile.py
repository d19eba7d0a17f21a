"""The log per operator: measured beside predicted time of every node (Park et al., 2018, section 3.1).

onnxruntime's profiler says how long each node took, not what it read and wrote; the operator graph knows that. Both are
joined by node name. The profiler itself takes longer than a small operator: what it adds is found from runs without it
and taken off every node.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import onnx

from graphopt import captures_file, models, operators, roofline, views, weights
from graphopt.capture import Execution, capture_executions
from graphopt.errors import GraphoptError, about
from graphopt.graph import Capture, Shape
from graphopt.machine import Machine
from graphopt.model_graphs import with_unique_names
from graphopt.runtime import deployment
from graphopt.runtime.feeds import Feeds, seeded_inputs
from graphopt.runtime.profile import NodeProfile, profile
from graphopt.runtime.session import one_line, open_session
from graphopt.views import ViewName

SCHEMA_VERSION = 1
SECONDS = 1.0
"""About how long a model is profiled at each set of shapes."""
MOST_RUNS = 50
LEAST_RUNS = 3

Progress = Callable[[int, int, str], None]
"""Called with (models done, all models, the model)."""


@dataclass(frozen=True)
class OperatorTime:
    """One node of one capture.

    Attributes:
        node: its name.
        operator: domain and type.
        shapes: of its operands and results that are there, as (name, dtype, shape).
        flops: operations.
        bytes: read and written, constants included.
        ideal: seconds by peak arithmetic and stated bandwidths alone: the roof.
        predicted: seconds by the machine's rates; None when unknown.
        measured: seconds per execution.
    """

    node: str
    operator: str
    shapes: tuple[tuple[str, str, Shape], ...]
    flops: int
    bytes: int
    ideal: float | None
    predicted: float | None
    measured: float

    @property
    def fraction_of_roofline(self) -> float | None:
        """How close it comes to peak arithmetic and bandwidth."""
        return min(1.0, self.ideal / self.measured) if self.ideal is not None and self.measured else None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "node": self.node,
            "operator": self.operator,
            "tensors": [{"name": name, "dtype": dtype, "shape": list(shape)} for name, dtype, shape in self.shapes],
            "flops": self.flops,
            "bytes": self.bytes,
            "predicted_seconds": self.predicted,
            "measured_seconds": self.measured,
            "bytes_per_second": self.bytes / self.measured if self.measured else None,
            "flops_per_second": self.flops / self.measured if self.measured else None,
            "fraction_of_roofline": self.fraction_of_roofline,
        }


@dataclass(frozen=True)
class CaptureProfile:
    """One model at one set of shapes.

    Attributes:
        model: its file.
        inputs: input shapes.
        executions: how often it ran with them.
        operators: in graph order; those that onnxruntime's profiler did not see are left out.
        predicted: seconds of a whole run, as far as operators are known.
        measured: seconds of a whole run, without the profiler.
        profiler: seconds per node that the profiler added, taken off every node.
        unknown: operators whose time cannot be predicted.
        runs: runs behind the figures.
    """

    model: str
    inputs: Mapping[str, Shape]
    executions: int
    operators: tuple[OperatorTime, ...]
    predicted: float
    measured: float
    profiler: float
    unknown: int
    runs: int

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "model": self.model,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "executions": self.executions,
            "predicted_seconds": self.predicted,
            "measured_seconds": self.measured,
            "profiler_seconds_per_node": self.profiler,
            "operators_unknown": self.unknown,
            "runs": self.runs,
            "operators": [operator.to_dict() for operator in self.operators],
        }


@dataclass(frozen=True)
class FleetProfile:
    """Everything that was profiled.

    Attributes:
        machine: name of the machine behind the predictions.
        view: of the models.
        threads: threads of onnxruntime within an operator.
        captures: in the order of files and shapes.
        problems: models that could not be profiled, a line each.
    """

    machine: str
    view: ViewName
    threads: int
    captures: tuple[CaptureProfile, ...]
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """For JSON; times in seconds of one execution."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "profile",
            "machine": self.machine,
            "view": self.view,
            "threads": self.threads,
            "captures": [capture.to_dict() for capture in self.captures],
            "problems": list(self.problems),
        }


def profile_files(
    path: Path,
    machine: Machine,
    *,
    shapes: Mapping[str, Shape] | None = None,
    ranges: Mapping[str, models.Range] | None = None,
    view: ViewName = "executed",
    threads: int = 1,
    seconds: float = SECONDS,
    seed: int = 0,
    progress: Progress | None = None,
) -> FleetProfile:
    """Profile a model, or every model of a folder, at the shapes that it was captured with.

    Args:
        path: a model, or a folder of models (with or without a ``captures.toml``).
        machine: what predictions are made for.
        shapes: of inputs, for a single model; the captured ones when left out.
        ranges: of input values, for a single model.
        view: the graph that is run.
        threads: of onnxruntime within an operator.
        seconds: to spend on each set of shapes, about.
        seed: of inputs and dropped weights.
        progress: told before each model.

    Raises:
        GraphoptError: the path is not there, or a single model cannot be profiled. In a folder, a model that fails is a
            problem, not an error.
    """
    files = _models(path)
    captures: list[CaptureProfile] = []
    problems: list[str] = []
    for index, file in enumerate(files):
        if progress is not None:
            progress(index, len(files), file.stem)
        try:
            with about(file):
                captures += _profiled(file, machine, shapes, ranges, view, threads, seconds, seed)
        except GraphoptError as error:
            if path.is_file():
                raise
            problems.append(str(error))
    return FleetProfile(machine.name, view, threads, tuple(captures), tuple(problems))


def _models(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    listing = path / captures_file.NAME
    if listing.is_file():
        return [path / name for name in sorted({entry.model for entry in captures_file.read(listing)})]
    found = sorted(file for file in path.rglob("*.onnx") if not file.name.startswith("."))
    if not found:
        raise GraphoptError(f"{path}: no models in it" if path.is_dir() else f"{path}: no such file or folder")
    return found


def _profiled(
    path: Path,
    machine: Machine,
    shapes: Mapping[str, Shape] | None,
    ranges: Mapping[str, models.Range] | None,
    view: ViewName,
    threads: int,
    seconds: float,
    seed: int,
) -> list[CaptureProfile]:
    known = deployment.captured(path, shapes, ranges)
    original = weights.fill_weights(models.load(path), seed)
    viewed = with_unique_names(models.inline_functions(views.to_view(original, view)))
    complete = [models.default_shapes(original, given) for given in known.shapes]
    executions = [
        Execution(given, count, known.ranges) for given, count in zip(complete, known.executions, strict=True)
    ]
    found = []
    for seen, given in zip(capture_executions(viewed, path.stem, executions, "raw"), complete, strict=True):
        feeds = seeded_inputs(original, given, ranges=known.ranges, seed=seed)
        found.append(profile_capture(viewed, seen.capture, feeds, machine, threads=threads, seconds=seconds, view=view))
    return found


def profile_capture(
    model: onnx.ModelProto,
    capture: Capture,
    feeds: Feeds,
    machine: Machine,
    *,
    threads: int = 1,
    seconds: float = SECONDS,
    view: ViewName = "executed",
) -> CaptureProfile:
    """Profile a model at one set of shapes.

    Args:
        model: the model as it is run; node names are unique.
        capture: its graph with shapes.
        feeds: inputs of these shapes.
        machine: what predictions are made for.
        threads: of onnxruntime within an operator.
        seconds: to spend, about.
        view: of the model: what onnxruntime may still change is switched off for the executed view.

    Raises:
        GraphoptError: the model does not run.
    """
    plain = _plain_seconds(model, feeds, threads, seconds / 2)
    runs = int(min(MOST_RUNS, max(LEAST_RUNS, seconds / 2 / plain)))
    measured = profile(model, feeds, optimization="none", runs=runs, warmup=1, threads=threads)
    profiler = _added_by_profiler(measured, plain, machine)
    times = roofline.operator_times(capture, machine)
    rows = [
        _row(capture, index, machine, times[index], max(measured.nodes[node.name] - profiler, 0.0))
        for index, node in enumerate(capture.graph.nodes)
        if node.name in measured.nodes
    ]
    known = [value for value in times if value is not None]
    call = machine.per_call.value if machine.per_call is not None else 0.0
    return CaptureProfile(
        model=capture.graph.name,
        inputs=capture.input_shapes(),
        executions=capture.executions,
        operators=tuple(rows),
        predicted=sum(known) + call,
        measured=plain,
        profiler=profiler,
        unknown=len(times) - len(known),
        runs=runs,
    )


def _plain_seconds(model: onnx.ModelProto, feeds: Feeds, threads: int, seconds: float) -> float:
    """Seconds of a run without the profiler: the middle one of as many as fit."""
    session = open_session(model, optimization="none", threads=threads)
    names = {value.name for value in session.get_inputs()}
    own = {name: array for name, array in feeds.items() if name in names}
    samples: list[float] = []
    end = 0.0
    while len(samples) < LEAST_RUNS + 1 or (time.perf_counter() < end and len(samples) < 4 * MOST_RUNS):
        start = time.perf_counter()
        try:
            session.run(None, own)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise GraphoptError(f"the model does not run: {one_line(error)}") from None
        samples.append(time.perf_counter() - start)
        end = end or time.perf_counter() + seconds  # the first run is not counted
    return median(samples[1:])


def _added_by_profiler(measured: NodeProfile, plain: float, machine: Machine) -> float:
    """Seconds per node that the profiler added: what its events sum up to beyond a run without it."""
    events = [*measured.nodes.values(), *measured.others.values()]
    call = machine.per_call.value if machine.per_call is not None else 0.0
    excess = sum(events) - max(0.0, plain - call)
    return max(0.0, excess / len(events)) if events else 0.0


def _row(capture: Capture, index: int, machine: Machine, predicted: float | None, measured: float) -> OperatorTime:
    node = capture.graph.nodes[index]
    cost = operators.cost(capture, index)
    tensors = tuple(
        (name, capture.graph.tensors[name].dtype, shape)
        for name in (*node.inputs, *node.outputs)
        if name and (shape := capture.shape(name)) is not None
    )
    flops = cost.flops if cost is not None else 0
    moved = cost.bytes_read + cost.bytes_written + cost.parameter_bytes if cost is not None else 0
    dtype = next((dtype for _, dtype, _ in tensors), "float32")
    ideal = max(flops / machine.peak_of(dtype), machine.seconds_to_move(moved)) if cost is not None else None
    return OperatorTime(node.name, node.operator, tensors, flops, moved, ideal, predicted, measured)
