"""Models without their weights: weights replaced by their shapes, and seeded random ones put back to run.

A dropped weight is a ``ConstantOfShape`` node whose output has the weight's name and whose input is an int64
initializer ``<name>__shape``; ``graphopt.weight = dropped`` in the node's metadata marks it. Such a model is small,
valid, runs as it is, and keeps every node, edge and shape. Weights that are all one constant are no substitute for
real ones: a runtime merges equal weights and folds what real ones keep apart, so random ones are filled in before a
model is optimised, run or timed.
"""

import math
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto, numpy_helper

from graphopt import model_files
from graphopt.errors import GraphoptError, about
from graphopt.model_files import bodies, every_graph, inline_functions, without_weights

LARGEST_KEPT_WEIGHT = 256
"""Floating-point constants with at most so many elements stay in a model whose weights are dropped."""

PERIOD = 65_521
"""Random values repeat after so many. A prime, so that rows of a matrix do not repeat; it makes large weights cheap."""

SHAPE_SUFFIX = "__shape"
MARK = "graphopt.weight"
MARK_INPUT = "graphopt.weight.input"
"""In a dropped weight's metadata: the initializer also stood among the graph's inputs, at this position."""

# From the first, below the second: integer weights lie around their type's usual zero.
_INTEGERS: Mapping[int, tuple[int, int]] = {
    TensorProto.INT8: (-20, 21),
    TensorProto.UINT8: (108, 149),
    TensorProto.INT16: (-20, 21),
    TensorProto.UINT16: (32_748, 32_789),
    TensorProto.INT4: (-7, 8),
    TensorProto.UINT4: (1, 16),
}
# Large tensors of these types are indices, shapes, masks and words, which decide what is computed; all others, small
# integers included, are weights.
_KEPT_TYPES = (
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.UINT64,
    TensorProto.UINT32,
    TensorProto.BOOL,
    TensorProto.STRING,
)

# Operand slots that must not be negative (or zero): variances, scales, arguments of roots and logarithms, divisors.
_POSITIVE_SLOTS: Mapping[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 4),
    "LayerNormalization": (1,),
    "InstanceNormalization": (1,),
    "GroupNormalization": (1,),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2,),
    "SkipSimplifiedLayerNormalization": (2,),
    "EmbedLayerNormalization": (5,),
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
    "QLinearAdd": (1, 4, 6),
    "QLinearMul": (1, 4, 6),
    "QGemm": (1, 4, 7),
    "DynamicQuantizeMatMul": (2,),
    "MatMulIntegerToFloat": (2, 3),
    "DynamicQuantizeLSTM": (8, 10),
    "Sqrt": (0,),
    "Log": (0,),
    "Pow": (0,),
    "Div": (1,),
    "Reciprocal": (0,),
}
HAND_ON = frozenset(
    (
        "Cast",
        "Identity",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Slice",
        "Split",
        "Expand",
        "Tile",
        "Concat",
        "Gather",
    )
)
"""Operators that hand their first operand's values on, so that an index stays an index and a sign a sign."""

# Operators whose result is positive when their operands are.
_KEEP_SIGN = HAND_ON | frozenset(
    (
        "Add",
        "Sum",
        "Mul",
        "Max",
        "Sqrt",
        "Reciprocal",
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReorderInput",
        "ReorderOutput",
    )
)


def has_dropped_weights(model: ModelProto) -> bool:
    """Whether weights of the model are missing, so that it needs ``fill_weights`` before it runs."""
    return any(True for graph in every_graph(model.graph) for _ in dropped(graph))


def dropped(graph: GraphProto) -> Iterator[tuple[NodeProto, tuple[int, ...]]]:
    """Nodes of this graph (not of its bodies) that stand for a dropped weight, with the weight's shape."""
    shapes: dict[str, TensorProto] | None = None
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.domain not in ("", "ai.onnx") or not (node.input and node.output):
            continue
        if shapes is None:
            shapes = {tensor.name: tensor for tensor in graph.initializer}
        tensor = shapes.get(node.input[0])
        marked = any(entry.key == MARK for entry in node.metadata_props)
        if tensor is None or tensor.data_type != TensorProto.INT64 or tensor.data_location == TensorProto.EXTERNAL:
            continue
        if node.output[0] and (marked or node.input[0].lower().endswith(SHAPE_SUFFIX)):
            yield node, tuple(int(size) for size in numpy_helper.to_array(tensor).ravel())


def drop_weights(model: ModelProto) -> ModelProto:
    """The model without its weights.

    What goes: initializers and Constant nodes, sparse ones too, of more than LARGEST_KEPT_WEIGHT elements that are
    ``is_weight``, also inside of bodies, and what is only of use in training. A function that holds one is inlined.

    Args:
        model: not changed. Weights may be in files that were not read.

    Returns:
        A copy that holds shapes instead.

    Raises:
        GraphoptError: the model's operator set is older than ConstantOfShape (9).
    """
    if any(_heavy_constants(function.node) for function in model.functions):
        model = inline_functions(model)
    copy = without_weights(model)
    copy.ClearField("training_info")
    version = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    for graph in every_graph(copy.graph):
        initializers = list(model.graph.initializer if graph is copy.graph else graph.initializer)
        heavy = [(t.name, t.data_type, tuple(t.dims)) for t in initializers if is_weight(t.data_type, t.dims)]
        heavy += [(s.values.name, s.values.data_type, tuple(s.dims)) for s in graph.sparse_initializer if _is_heavy(s)]
        constants = [node for node in graph.node if _heavy_constant(node) is not None]
        gone = {name for name, _, _ in heavy}
        kept = [tensor for tensor in initializers if tensor.name not in gone]
        if not heavy and not constants:
            if graph is copy.graph:
                graph.initializer.extend(kept)
            continue
        if version < 9:
            raise GraphoptError(f"weights cannot be dropped: operator set {version} is older than 9; keep them")
        positions = {value.name: index for index, value in enumerate(graph.input)}
        stand_ins = []
        for name, data_type, shape in heavy:
            kept.append(_shape_of(name, shape))
            stand_ins.append(_stand_in(name, data_type, positions.get(name)))
        for node in constants:
            data_type, shape = _heavy_constant(node) or (0, ())
            kept.append(_shape_of(node.output[0], shape))
            node.CopyFrom(_stand_in(node.output[0], data_type, None))
        inputs = [value for value in graph.input if value.name not in gone]
        sparse = [one for one in graph.sparse_initializer if one.values.name not in gone]
        graph.ClearField("sparse_initializer")
        graph.sparse_initializer.extend(sparse)
        _replace(graph, initializers=kept, nodes=[*stand_ins, *graph.node], inputs=inputs)
    return copy


def load_without_weights(path: Path) -> ModelProto:
    """Read a model without its weights; those in other files are never read, whatever their size.

    Args:
        path: the ``.onnx`` file.

    Returns:
        What ``drop_weights`` makes of the model.

    Raises:
        GraphoptError: as ``model_files.load`` does, and as ``drop_weights`` does.
    """
    path = Path(path)
    model = model_files.read(path)
    with about(path):
        model_files.load_external_data(model, path.parent, lambda tensor: not is_weight(tensor.data_type, tensor.dims))
        model_files.check(model)
        return drop_weights(model)


def fill_weights(model: ModelProto, seed: int = 0) -> ModelProto:
    """The model with seeded random weights in the places of dropped ones.

    The values of a weight depend on its name, type, shape and the seed only. Floating-point ones are normal with a
    variance of 1 / fan-in, so that values neither vanish nor explode; uniform in [0.5, 1.5) where a negative number
    would give NaN (variances, scales, roots). Integers are uniform around their usual zero: int8 in [-20, 20], uint8 in
    [108, 148].

    Args:
        model: not changed; returned as it is when nothing was dropped.
        seed: which weights.

    Returns:
        A copy with weights.

    Raises:
        GraphoptError: a weight has a size or type that no weight has, or all take more than this machine's memory.
    """
    if not has_dropped_weights(model):
        return model
    _check_dropped(model)
    copy = ModelProto()
    copy.CopyFrom(model)
    for graph in every_graph(copy.graph):
        found = {node.output[0]: (node, shape) for node, shape in dropped(graph)}
        if not found:
            continue
        positive = _must_be_positive(graph)
        weights, restored = [], []
        for name, (node, shape) in found.items():
            data_type = dropped_type(node)
            weights.append((name, shape, data_type))
            position = _input_position(node)
            if position is not None:
                restored.append((position, onnx.helper.make_tensor_value_info(name, data_type, shape)))
        nodes = [node for node in graph.node if not (len(node.output) == 1 and node.output[0] in found)]
        used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
        spent = {node.input[0] for node, _ in found.values()} - used
        initializers = [tensor for tensor in graph.initializer if tensor.name not in spent]
        inputs = [value for value in graph.input if value.name not in spent]
        for position, value in sorted(restored, key=lambda pair: pair[0]):
            inputs.insert(position, value)
        _replace(graph, initializers=initializers, nodes=nodes, inputs=inputs)
        for name, shape, data_type in weights:  # last, and in place: what is large is not copied twice
            values = random_weight(name, shape, data_type, positive=name in positive, seed=seed)
            graph.initializer.add(name=name, data_type=data_type, dims=shape, raw_data=values)
    # Before version 4, initializers had to be inputs as well, and runtimes would not take them for constants.
    copy.ir_version = max(copy.ir_version, 4)
    return copy


def _check_dropped(model: ModelProto) -> None:
    """What stands for a weight is no more than a weight can be."""
    needed = 0
    for graph in every_graph(model.graph):
        for node, shape in dropped(graph):
            name, data_type = node.output[0], dropped_type(node)
            with about(f"dropped weight {name!r}"):
                model_files.check_dims(name, shape)
                if data_type == TensorProto.STRING:
                    raise GraphoptError("it holds text")
                needed += math.prod(shape) * model_files.item_bits(data_type) // 8
    if needed > memory_bytes():
        raise GraphoptError(f"its dropped weights take {needed} bytes, and this machine has {memory_bytes()}")


def memory_bytes() -> int:
    """Bytes of this machine's memory: what takes more than that is not begun."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def dropped_type(node: NodeProto) -> int:
    """ONNX's number of the element type of a dropped weight, by the node that stands for it."""
    return next((a.t.data_type for a in node.attribute if a.name == "value"), int(TensorProto.FLOAT))


def _input_position(node: NodeProto) -> int | None:
    """Where a dropped weight stood among the graph's inputs; None for nowhere."""
    text = next((entry.value for entry in node.metadata_props if entry.key == MARK_INPUT), "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


def random_weight(name: str, shape: tuple[int, ...], data_type: int, *, positive: bool = False, seed: int = 0) -> bytes:
    """A weight by its name: the same for the same arguments, different from every other name's.

    Args:
        name: the tensor's name; with the seed it decides the values.
        shape: its dimensions.
        data_type: ``onnx.TensorProto`` element type.
        positive: whether values must be positive.
        seed: which weights.

    Returns:
        The values, as a tensor's raw data.
    """
    generator = np.random.default_rng(zlib.crc32(f"{seed}{name}".encode()))
    dtype = onnx.helper.tensor_dtype_to_np_dtype(data_type)
    size = min(math.prod(shape), PERIOD)
    values: np.ndarray
    if data_type in _INTEGERS:
        low, high = _INTEGERS[data_type]
        values = generator.integers(low, high, shape)
    elif positive:
        values = np.resize(0.5 + generator.random(size, np.float32), shape)
    else:
        fan_in = max(1, math.prod(shape[1:])) if len(shape) > 1 else 4
        values = np.resize(generator.standard_normal(size, np.float32) / np.float32(np.sqrt(fan_in)), shape)
    values = np.asarray(values).astype(dtype, copy=False)
    if model_files.item_bits(data_type) < 8:
        return numpy_helper.from_array(values).raw_data  # several to a byte
    return (values if sys.byteorder == "little" else values.byteswap()).tobytes()


def is_weight(data_type: int, shape: Sequence[int]) -> bool:
    """Whether a constant is a weight: large, and of a type whose values do not decide what is computed.

    Args:
        data_type: ``onnx.TensorProto`` element type.
        shape: its dimensions.
    """
    return data_type not in _KEPT_TYPES and math.prod(shape) > LARGEST_KEPT_WEIGHT


def _is_heavy(sparse: SparseTensorProto) -> bool:
    return is_weight(sparse.values.data_type, sparse.dims)


def _heavy_constants(nodes: Iterable[NodeProto]) -> bool:
    """Whether one of the nodes, or of those in their bodies, holds a weight."""
    return any(
        _heavy_constant(node) is not None
        or any(
            _heavy_constants(graph.node) or any(is_weight(t.data_type, t.dims) for t in graph.initializer)
            for graph in bodies(node)
        )
        for node in nodes
    )


def _heavy_constant(node: NodeProto) -> tuple[int, tuple[int, ...]] | None:
    """Type and shape of the weight that a Constant node holds; None for any other node."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or not node.attribute:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        data_type, shape = attribute.t.data_type, tuple(attribute.t.dims)
    elif attribute.name == "sparse_value":
        data_type, shape = attribute.sparse_tensor.values.data_type, tuple(attribute.sparse_tensor.dims)
    elif attribute.name == "value_floats":
        data_type, shape = TensorProto.FLOAT, (len(attribute.floats),)
    else:
        return None
    return (data_type, shape) if is_weight(data_type, shape) else None


def _shape_of(name: str, shape: Sequence[int]) -> TensorProto:
    return numpy_helper.from_array(np.asarray(shape, np.int64), name + SHAPE_SUFFIX)


def _stand_in(name: str, data_type: int, position: int | None) -> NodeProto:
    value = numpy_helper.from_array(np.zeros(1, onnx.helper.tensor_dtype_to_np_dtype(data_type)))
    node = onnx.helper.make_node("ConstantOfShape", [name + SHAPE_SUFFIX], [name], name=name + "__weight", value=value)
    node.metadata_props.add(key=MARK, value="dropped")
    if position is not None:
        node.metadata_props.add(key=MARK_INPUT, value=str(position))
    return node


def _replace(
    graph: GraphProto, *, initializers: list[TensorProto], nodes: list[NodeProto], inputs: list[ValueInfoProto]
) -> None:
    kept = GraphProto()
    kept.initializer.extend(initializers)
    kept.node.extend(nodes)
    kept.input.extend(inputs)
    for field in ("initializer", "node", "input"):
        graph.ClearField(field)
    graph.MergeFrom(kept)


def _must_be_positive(graph: GraphProto) -> set[str]:
    """Tensors that must be positive: operands of _POSITIVE_SLOTS, and whatever those are computed from."""
    needed = {
        node.input[slot]
        for node in graph.node
        for slot in _POSITIVE_SLOTS.get(node.op_type, ())
        if slot < len(node.input)
    }
    for node in reversed(graph.node):  # nodes stand in topological order, or nearly so
        if node.op_type in _KEEP_SIGN and any(name in needed for name in node.output):
            needed.update(node.input)
    return needed
