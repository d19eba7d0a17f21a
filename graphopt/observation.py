"""Observing a model: the exact type and shape of every tensor, for given input shapes.

onnxruntime tells the type of every tensor when a session is made, and the shapes that follow from the input shapes
alone. Where some do not (a Reshape to computed sizes, boxes that survive a threshold), the model is run once with
seeded inputs, and a ``Shape`` node behind every tensor says how large it was: only these few integers leave the run,
so that it needs no more memory than any other run.
"""

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto, numpy_helper
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from graphopt.errors import GraphoptError
from graphopt.graph import LARGEST_KEPT_CONSTANT, OperatorGraph, Shape
from graphopt.model_files import every_graph, inline_functions, save, weight_bytes, without_weights
from graphopt.model_graphs import TensorType, declared_types, to_graph, with_ranks
from graphopt.model_inputs import Dims, Range, complete_shapes, inputs_of, seeded_inputs
from graphopt.weights import dropped

LARGEST_IN_MEMORY = 2**24
"""Bytes of weights that are handed to onnxruntime in memory. More go through a temporary file, which it maps: that
takes a third of the time, and there is no limit of 2 GB."""

# onnxruntime's names of element types, where numpy's differ.
_ORT_NAMES = {
    "float": "float32",
    "double": "float64",
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
}
_PROBE = "graphopt_shape_of_"
_FREE_AXIS = "graphopt_free_"


@dataclass(frozen=True)
class Observation:
    """What was seen of a model at certain input shapes.

    Attributes:
        graph: the operator graph, with dtypes and ranks.
        shapes: tensor name to shape: inputs and computed tensors.
        unknown: computed tensors that have no shape here; sequences and the like, which have none, are not counted.
        failure: why the model could not run, in a line; empty when it ran or did not have to.
    """

    graph: OperatorGraph
    shapes: dict[str, Shape]
    unknown: tuple[str, ...] = ()
    failure: str = ""


def observe(
    model: ModelProto,
    input_shapes: Mapping[str, Shape],
    *,
    ranges: Mapping[str, Range] | None = None,
    seed: int = 0,
    name: str = "",
) -> Observation:
    """Type and shape of every tensor at these input shapes.

    Args:
        model: a checked model; dropped weights may stay dropped.
        input_shapes: input name to shape; inputs whose shape the model declares may be left out.
        ranges: input name to (low, high) of its values, where the values decide shapes or must be valid.
        seed: of the values that are fed.
        name: what the graph is called.

    Returns:
        The observation. Where the model cannot run, shapes are inferred and some may be unknown.

    Raises:
        GraphoptError: a shape contradicts the model; the message names the input.
    """
    return Observer(model, name).observe(input_shapes, ranges=ranges, seed=seed)


class Observer:
    """Observes one model at several shapes; what does not depend on them is done once."""

    def __init__(self, model: ModelProto, name: str = "") -> None:
        """Prepare to observe a checked model; its graph will have this name."""
        self.model = inline_functions(model)
        self.inputs = inputs_of(self.model)
        light = _light(self.model)
        computed = _computed(self.model)
        self._dims: dict[str, Dims] = {}
        try:
            self._types, _, self._dims = _inferred(_with_named_axes(light), computed, ())
            self._known_to_runtime = True
        except Exception:  # an operator that onnxruntime does not have: onnx may still know types of some
            self._types = declared_types(self.model)
            self._known_to_runtime = False
        self._types.update({i.name: (i.dtype, None if i.dims is None else len(i.dims)) for i in self.inputs})
        self.graph = to_graph(self.model, name, self._types)
        self._tensors = [t for t in computed if self._types.get(t, ("", None))[0]]
        self._light = light
        # onnxruntime says the same of a scalar and of a tensor of unknown rank: no dimensions.
        self._scalars = [t for t in self._tensors if self._types[t][1] is None] if self._known_to_runtime else []
        self._runner: _Runner | None = None
        self._axes = {value.name: _dims_of(value) for value in _with_named_axes(light).graph.input}
        self._formulas: dict[str, Dims] | None = None

    def observe(
        self,
        input_shapes: Mapping[str, Shape],
        *,
        ranges: Mapping[str, Range] | None = None,
        seed: int = 0,
        run: bool = False,
        ran: bool = False,
    ) -> Observation:
        """Like the function ``observe``.

        Args:
            input_shapes: as there.
            ranges: as there.
            seed: as there.
            run: run the model even where all shapes follow from the input shapes.
            ran: the model did run with these shapes, so that nothing can be wrong with them. Where all shapes are input
                sizes, as seen at the first of these shapes, the runtime is not asked again.
        """
        given = complete_shapes(self.inputs, input_shapes)
        shapes: dict[str, Shape] = dict(given)
        failure = refused = ""
        try:
            shapes.update((self._substituted(given) if ran else None) or self._infer(given))
        except Exception as error:
            refused = one_line(error)
        if ran and self._formulas is None:
            self._formulas = self._found_formulas(given, shapes)
        if run or any(name not in shapes for name in self._tensors):
            try:
                shapes.update(self._run(given, ranges, seed))
            except GraphoptError:
                raise
            except Exception as error:
                failure = one_line(error)
        if failure and refused and self._known_to_runtime:
            # It loads with free shapes, but neither loads nor runs with these.
            text = ", ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in given.items())
            raise GraphoptError(f"input shapes {text} contradict the model: {refused}")
        self.graph = with_ranks(self.graph, shapes)
        unknown = tuple(
            t
            for t, tensor in self.graph.tensors.items()
            if not tensor.constant and t not in shapes and self._countable(t)
        )
        return Observation(self.graph, shapes, unknown, failure)

    def check(self, input_shapes: Mapping[str, Shape], ranges: Mapping[str, Range] | None = None) -> dict[str, Shape]:
        """Shapes of all inputs, held against the model; it is run only where inference finds a contradiction.

        Args:
            input_shapes: as for ``observe``.
            ranges: as there.

        Returns:
            Input name to shape.

        Raises:
            GraphoptError: as there.
        """
        given = complete_shapes(self.inputs, input_shapes)
        try:
            self._infer(given)
        except Exception:  # a run tells whether the shapes are wrong or the inference is
            self.observe(input_shapes, ranges=ranges)
        return given

    def _countable(self, tensor: str) -> bool:
        """Whether a tensor has a shape at all; what the runtime calls neither a tensor nor unknown is a sequence."""
        return not self._known_to_runtime or bool(self._types.get(tensor, ("", None))[0])

    def _infer(self, given: Mapping[str, Shape]) -> dict[str, Shape]:
        """Shapes that follow from the input shapes."""
        fixed = ModelProto()
        fixed.CopyFrom(self._light)
        for value in fixed.graph.input:
            if value.name in given:
                _set_shape(value, given[value.name])
        if self._known_to_runtime:
            return _inferred(fixed, self._tensors, self._scalars)[1]
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
        values = (*inferred.graph.value_info, *inferred.graph.output)
        return {value.name: shape for value in values if (shape := _fixed_shape(value)) is not None}

    def _found_formulas(self, given: Mapping[str, Shape], shapes: Mapping[str, Shape]) -> dict[str, Dims]:
        """Dimensions of all computed tensors as sizes and symbols of the inputs; none, where one is something else."""
        symbols = self._symbols(given)
        found: dict[str, Dims] = {}
        for name in self._tensors if symbols is not None else ():
            dims = self._dims.get(name, () if shapes.get(name) == () else (None,))
            if symbols is None or _substitute(dims, symbols) != shapes.get(name):
                return {}
            found[name] = dims
        return found

    def _substituted(self, given: Mapping[str, Shape]) -> dict[str, Shape] | None:
        """Shapes of all computed tensors by their formulas; None where they do not tell."""
        symbols = self._symbols(given) if self._formulas else None
        if symbols is None or self._formulas is None:
            return None
        shapes = {name: _substitute(dims, symbols) for name, dims in self._formulas.items()}
        return {name: shape for name, shape in shapes.items() if shape is not None}

    def _symbols(self, given: Mapping[str, Shape]) -> dict[str, int] | None:
        """What the symbols of the inputs stand for; None where one has two sizes, or a rank is free."""
        symbols: dict[str, int] = {}
        for name, shape in given.items():
            dims = self._axes.get(name)
            if dims is None or len(dims) != len(shape):
                return None
            for dim, size in zip(dims, shape, strict=True):
                if isinstance(dim, str) and symbols.setdefault(dim, size) != size:
                    return None
        return symbols

    def _run(self, given: Mapping[str, Shape], ranges: Mapping[str, Range] | None, seed: int) -> dict[str, Shape]:
        """Shapes of all computed tensors in one run."""
        feeds = seeded_inputs(self.model, given, ranges=ranges, seed=seed)
        if self._runner is None:
            self._runner = _Runner(self.model, self._light, self._tensors)
        return self._runner.shapes(feeds)


class _Runner:
    """Runs a model for the shapes of its tensors."""

    def __init__(self, model: ModelProto, light: ModelProto, tensors: Sequence[str]) -> None:
        self.model, self._tensors = model, tensors
        # Large weights are fed, not stored in the session: that takes one copy of them in place of four.
        self._session = self._open(light)
        fed = {value.name for value in light.graph.input}
        self._weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in fed}

    def _open(self, model: ModelProto) -> InferenceSession:
        probed = ModelProto()
        probed.CopyFrom(model)
        _forget_shapes(probed)
        del probed.graph.output[:]
        _add_probes(probed, self._tensors)
        return open_session(probed, entries={"session.disable_prepacking": "1"})

    def shapes(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Shape]:
        """Tensor name to shape."""
        try:
            results = self._session.run(None, {**self._weights, **feeds})
        except Exception:
            if not self._weights:
                raise
            # Some kernels want weights that are constant.
            self._session, self._weights = self._open(self.model), {}
            results = self._session.run(None, dict(feeds))
        return {t: tuple(int(size) for size in shape) for t, shape in zip(self._tensors, results, strict=True)}


def open_session(
    model: ModelProto,
    level: GraphOptimizationLevel = GraphOptimizationLevel.ORT_DISABLE_ALL,
    *,
    entries: Mapping[str, str] | None = None,
    saved_as: Path | None = None,
) -> InferenceSession:
    """A session on one thread of the CPU.

    Args:
        model: may be larger than one message: then it goes through a temporary file.
        level: optimisations.
        entries: session configuration entries.
        saved_as: where the runtime saves the model that it optimised.

    Raises:
        Exception: what onnxruntime raises; see ``one_line``.
    """
    options = SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures are raised; nothing else is news
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    if saved_as is not None:
        options.optimized_model_filepath = str(saved_as)
    providers = ["CPUExecutionProvider"]
    if weight_bytes(model) <= LARGEST_IN_MEMORY:
        return InferenceSession(model.SerializeToString(), options, providers=providers)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "model.onnx"
        save(model, path, largest=0)
        return InferenceSession(str(path), options, providers=providers)


def one_line(error: BaseException, longest: int = 200) -> str:
    """An onnxruntime error without its code, source location and line breaks, at most ``longest`` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/onnxruntime_src/\S+:\d+ .*?\) (?=[A-Z\[])", "", text).rstrip(". ")
    return text if len(text) <= longest else text[: longest - 1] + "…"


# ---------------------------------------------------------------------------------------------- types and shapes


def _computed(model: ModelProto) -> list[str]:
    """Names of all results of nodes of the main graph that are not constants."""
    stand_ins = {node.output[0] for node, _ in dropped(model.graph)}
    return [
        name
        for node in model.graph.node
        if node.op_type != "Constant"
        for name in node.output
        if name and name not in stand_ins
    ]


def _light(model: ModelProto) -> ModelProto:
    """The model with its large initializers turned into inputs: all that inference needs, without the weights."""
    light = without_weights(model)
    declared = {value.name for value in light.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= LARGEST_KEPT_CONSTANT:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    _forget_shapes(light)
    return light


def _forget_shapes(model: ModelProto) -> None:
    """Remove declared shapes of everything but inputs: they can be wrong, and the runtime would believe them."""
    for graph in every_graph(model.graph):
        graph.ClearField("value_info")
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")


def _inferred(
    light: ModelProto, tensors: Sequence[str], perhaps_scalars: Sequence[str]
) -> tuple[dict[str, TensorType], dict[str, Shape], dict[str, Dims]]:
    """Onnxruntime's types of the tensors, shapes of those that it can tell, and dimensions of those that have some.

    Args:
        light: the model; not changed.
        tensors: results of its nodes.
        perhaps_scalars: those of them that must be told apart from tensors of unknown rank: the shape of a scalar has
            no elements, which is known where the rank is.

    Raises:
        Exception: onnxruntime does not load the model.
    """
    probed = ModelProto()
    probed.CopyFrom(light)
    del probed.graph.output[:]
    for tensor in tensors:
        probed.graph.output.add(name=tensor)
    _add_probes(probed, perhaps_scalars)
    session = open_session(probed, entries={"session.disable_prepacking": "1"})
    types: dict[str, TensorType] = {}
    shapes: dict[str, Shape] = {}
    known: dict[str, Dims] = {}
    for value in session.get_outputs():
        kind, dims = re.fullmatch(r"tensor\((\w+)\)", value.type), value.shape
        if value.name.startswith(_PROBE):
            if dims == [0]:
                shapes[perhaps_scalars[int(value.name.removeprefix(_PROBE))]] = ()
        elif kind is not None:
            types[value.name] = (_ORT_NAMES.get(kind[1], kind[1]), len(dims) or None)
            if dims:
                known[value.name] = tuple(dims)
            # A window that is larger than its input is inferred to give a negative size.
            if dims and all(isinstance(size, int) and size >= 0 for size in dims):
                shapes[value.name] = tuple(dims)
    return types, shapes, known


def _with_named_axes(model: ModelProto) -> ModelProto:
    """The model with a symbol for every free axis of an input that has none."""
    named = ModelProto()
    named.CopyFrom(model)
    for place, value in enumerate(named.graph.input):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.dim_param and (not dim.HasField("dim_value") or dim.dim_value < 0):
                dim.dim_param = f"{_FREE_AXIS}{place}_{axis}"
    return named


def _dims_of(value: ValueInfoProto) -> Dims | None:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)


def _substitute(dims: Dims, symbols: Mapping[str, int]) -> Shape | None:
    sizes = [dim if isinstance(dim, int) else symbols.get(dim or "") for dim in dims]
    return None if None in sizes else tuple(size for size in sizes if size is not None)


def _add_probes(model: ModelProto, tensors: Sequence[str]) -> None:
    """Add the shapes of tensors to the model's outputs."""
    for index, tensor in enumerate(tensors):
        model.graph.node.add(op_type="Shape", input=[tensor], output=[f"{_PROBE}{index}"])
        model.graph.output.add(name=f"{_PROBE}{index}")


def _set_shape(value: ValueInfoProto, shape: Shape) -> None:
    tensor = value.type.tensor_type
    tensor.ClearField("shape")
    tensor.shape.SetInParent()
    for size in shape:
        tensor.shape.dim.add(dim_value=size)


def _fixed_shape(value: ValueInfoProto) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    if any(dim.dim_value < 0 for dim in tensor.shape.dim):
        return None  # see _inferred
    return tuple(dim.dim_value for dim in tensor.shape.dim)
