"""Models without their weights: weights replaced by their shapes, and seeded random ones put back to run.

A dropped weight is a ``ConstantOfShape`` node whose output has the weight's name and whose input is an int64
initializer ``<name>__shape``; ``graphopt.weight = dropped`` in the node's metadata marks it. Such a model is small,
valid, runs as it is, and keeps every node, edge and shape. Weights that are all one constant are no substitute for
real ones: a runtime merges equal weights and folds what real ones keep apart, so random ones are filled in before a
model is optimised, run or timed.
"""

import math
import sys
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.model_files import every_graph

LARGEST_KEPT_WEIGHT = 256
"""Floating-point constants with at most so many elements stay in a model whose weights are dropped."""

PERIOD = 65_521
"""Random values repeat after so many. A prime, so that rows of a matrix do not repeat; it makes large weights cheap."""

SHAPE_SUFFIX = "__shape"
MARK = "graphopt.weight"
MARK_INPUT = "graphopt.weight.input"
"""In a dropped weight's metadata: the initializer also stood among the graph's inputs, at this position."""

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Integers of eight bits are quantized weights, never indices or shapes.
_DROPPED_TYPES = (*_FLOATS, TensorProto.INT8, TensorProto.UINT8)

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
# Operators whose result is positive when their operands are.
_KEEP_SIGN = frozenset(
    (
        "Identity",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Cast",
        "Expand",
        "Tile",
        "Slice",
        "Gather",
        "Concat",
        "Split",
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
        if node.op_type != "ConstantOfShape" or node.domain not in ("", "ai.onnx"):
            continue
        if shapes is None:
            shapes = {tensor.name: tensor for tensor in graph.initializer}
        tensor = shapes.get(node.input[0])
        marked = any(entry.key == MARK for entry in node.metadata_props)
        if tensor is not None and (marked or node.input[0].lower().endswith(SHAPE_SUFFIX)):
            yield node, tuple(int(size) for size in numpy_helper.to_array(tensor).ravel())


def drop_weights(model: ModelProto) -> ModelProto:
    """The model without its weights.

    What goes: initializers and Constant nodes of floating-point or 8-bit integer type with more than
    LARGEST_KEPT_WEIGHT elements, also inside of bodies. Integers of other types stay: they are indices and shapes.

    Args:
        model: not changed.

    Returns:
        A copy that holds shapes instead.

    Raises:
        GraphoptError: the model's operator set is older than ConstantOfShape (9).
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    version = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    for graph in every_graph(copy.graph):
        heavy = [tensor for tensor in graph.initializer if _is_weight(tensor)]
        constants = [(node, value) for node in graph.node if (value := _constant(node)) and _is_weight(value)]
        if not heavy and not constants:
            continue
        if version < 9:
            raise GraphoptError(f"weights cannot be dropped: operator set {version} is older than 9; keep them")
        positions = {value.name: index for index, value in enumerate(graph.input)}
        stand_ins = []
        for tensor in heavy:
            graph.initializer.append(_shape_of(tensor, tensor.name))
            stand_ins.append(_stand_in(tensor, tensor.name, positions.get(tensor.name)))
        for node, value in constants:
            name = node.output[0]
            graph.initializer.append(_shape_of(value, name))
            replacement = _stand_in(value, name, None)
            node.CopyFrom(replacement)
        gone = {tensor.name for tensor in heavy}
        kept = [tensor for tensor in graph.initializer if tensor.name not in gone]
        inputs = [value for value in graph.input if value.name not in gone]
        nodes = [*stand_ins, *graph.node]
        _replace(graph, initializers=kept, nodes=nodes, inputs=inputs)
    return copy


def fill_weights(model: ModelProto, seed: int = 0) -> ModelProto:
    """The model with seeded random weights in the places of dropped ones.

    The values of a weight depend on its name, type, shape and the seed only. Floating-point ones are normal with a
    variance of 1 / fan-in, so that values neither vanish nor explode; uniform in [0.5, 1.5) where a negative number
    would give NaN (variances, scales, roots). int8 is uniform in [-20, 20], uint8 in [108, 148], other integers are 1.

    Args:
        model: not changed; returned as it is when nothing was dropped.
        seed: which weights.

    Returns:
        A copy with weights.
    """
    if not has_dropped_weights(model):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    for graph in every_graph(copy.graph):
        found = {node.output[0]: (node, shape) for node, shape in dropped(graph)}
        if not found:
            continue
        positive = _must_be_positive(graph)
        weights, restored = [], []
        for name, (node, shape) in found.items():
            data_type = next((a.t.data_type for a in node.attribute if a.name == "value"), TensorProto.FLOAT)
            weights.append((name, shape, data_type))
            position = next((int(entry.value) for entry in node.metadata_props if entry.key == MARK_INPUT), None)
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
    if data_type not in _FLOATS:
        if data_type == TensorProto.INT8:
            values = generator.integers(-20, 21, shape)
        elif data_type == TensorProto.UINT8:
            values = generator.integers(108, 149, shape)
        else:
            values = np.ones(shape, np.int64)
    elif positive:
        values = np.resize(0.5 + generator.random(size, np.float32), shape)
    else:
        fan_in = max(1, math.prod(shape[1:])) if len(shape) > 1 else 4
        values = np.resize(generator.standard_normal(size, np.float32) / np.float32(np.sqrt(fan_in)), shape)
    values = np.asarray(values).astype(dtype, copy=False)
    return (values if sys.byteorder == "little" else values.byteswap()).tobytes()


def _is_weight(tensor: TensorProto) -> bool:
    return tensor.data_type in _DROPPED_TYPES and math.prod(tensor.dims) > LARGEST_KEPT_WEIGHT


def _constant(node: NodeProto) -> TensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    return next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)


def _shape_of(tensor: TensorProto, name: str) -> TensorProto:
    return numpy_helper.from_array(np.asarray(tensor.dims, np.int64), name + SHAPE_SUFFIX)


def _stand_in(tensor: TensorProto, name: str, position: int | None) -> NodeProto:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    value = numpy_helper.from_array(np.zeros(1, dtype))
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
