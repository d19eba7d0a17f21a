"""Lowerings of reductions, softmax and normalisations: expressions with reduced values in them."""

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.graph import Node, OperatorGraph
from graphopt.operators.blocked import known_block_size
from graphopt.operators.lowering import (
    Call,
    CannotLowerError,
    Dim,
    Expression,
    Moved,
    Reduced,
    Reshape,
    Rowwise,
    SquaresAround,
    call,
    literal,
)

Operands = Sequence[Expression | None]
Results = tuple[Expression | None, ...]


def operand(operands: Operands, slot: int) -> Expression | None:
    """The operand in a slot; None where it is absent."""
    return operands[slot] if slot < len(operands) else None


def required(operands: Operands, slot: int) -> Expression:
    """The operand in a slot.

    Raises:
        CannotLowerError: it is absent.
    """
    found = operand(operands, slot)
    if found is None:
        raise CannotLowerError(f"operand {slot} is absent")
    return found


def rank_of(graph: OperatorGraph, node: Node) -> int:
    """Rank of the first operand.

    Raises:
        CannotLowerError: it is unknown.
    """
    rank = graph.tensors[node.inputs[0]].rank
    if rank is None:
        raise CannotLowerError(f"unknown rank of {node.op_type}'s operand")
    return rank


def integer(node: Node, name: str, default: int) -> int:
    """An attribute."""
    value = node.attributes.get(name, default)
    return value if isinstance(value, int) else default


def number(node: Node, name: str, default: float) -> float:
    """An attribute; attributes are float32, defaults too."""
    value = node.attributes.get(name, default)
    return float(np.float32(value if isinstance(value, int | float) else default))


def from_axis(graph: OperatorGraph, node: Node, axis: int) -> tuple[int, ...]:
    """All axes from one on, counted from the end."""
    rank = rank_of(graph, node)
    return tuple(range(axis - rank if axis >= 0 else axis, 0))


# ------------------------------------------------------------------ reductions


def reduced_axes(graph: OperatorGraph, node: Node) -> tuple[int, ...]:
    """Axes of a Reduce operator, counted from the end; of an attribute (older opsets) or a constant operand."""
    rank = rank_of(graph, node)
    given = node.attributes.get("axes")
    if given is None and len(node.inputs) > 1 and node.inputs[1]:
        given = graph.tensors[node.inputs[1]].value
        if given is None:
            raise CannotLowerError(f"{node.op_type}: axes are not constant")
    axes = [] if given is None else np.atleast_1d(np.asarray(given)).tolist()
    if not axes:
        return () if integer(node, "noop_with_empty_axes", 0) else tuple(range(-rank, 0))
    return tuple(sorted(int(axis) - rank if axis >= 0 else int(axis) for axis in axes))


def without_axes(graph: OperatorGraph, node: Node, result: Expression, axes: Sequence[int]) -> Expression:
    """The result without dimensions that were reduced to one."""
    rank = rank_of(graph, node)
    gone = {axis + rank for axis in axes}
    sizes = tuple(Dim((axis,)) for axis in range(rank) if axis not in gone)
    return Moved(result, (Reshape(sizes=sizes),), result.dtype)


Formula = Callable[[Expression, tuple[int, ...]], Expression]
"""(operand, axes) to the reduced value."""


def plain(kind: str) -> Formula:
    """One reduction of the operand itself."""
    return lambda x, axes: Reduced(kind, x, axes, x.dtype)


def total(of: Callable[[Expression], Expression], then: str = "") -> Formula:
    """The sum of a function of the operand, and a function of the sum."""

    def formula(x: Expression, axes: tuple[int, ...]) -> Expression:
        summed = Reduced("sum", of(x), axes, x.dtype)
        return call(then, summed) if then else summed

    return formula


def log_sum_exp(x: Expression, axes: tuple[int, ...]) -> Expression:
    """The greatest element is taken out of the sum, unless it is infinite."""
    bound = Reduced("maximum", x, axes, x.dtype)
    shift = call("select", call("is_inf", bound), literal(0, x), bound)
    summed = Reduced("sum", call("exp", call("subtract", x, shift)), axes, x.dtype)
    return call("add", call("log", summed), shift)


def square(x: Expression) -> Expression:
    """The operand times itself."""
    return call("multiply", x, x)


def reduce(formula: Formula, cost: int = 1) -> Rowwise:
    """Lowering of an operator of ONNX's Reduce family."""

    def expressions(graph: OperatorGraph, node: Node, x: Operands) -> Results:
        axes = reduced_axes(graph, node)
        value = required(x, 0)
        if value.dtype == "bool":
            raise CannotLowerError("reduces booleans")
        result = formula(value, axes)
        return (result if integer(node, "keepdims", 1) else without_axes(graph, node, result, axes),)

    return Rowwise(expressions, cost)


def position(kind: str) -> Rowwise:
    """Lowering of ArgMax and ArgMin: where the ``greatest`` or ``least`` element along an axis stands."""

    def expressions(graph: OperatorGraph, node: Node, x: Operands) -> Results:
        value, rank = required(x, 0), rank_of(graph, node)
        axis = integer(node, "axis", 0)
        axes = (axis - rank if axis >= 0 else axis,)
        end = "last" if integer(node, "select_last_index", 0) else "first"
        result = Reduced(f"{end}_{kind}", value, axes, "int64")
        return (result if integer(node, "keepdims", 1) else without_axes(graph, node, result, axes),)

    return Rowwise(expressions, 1)


def global_pool(kind: str) -> Rowwise:
    """Lowering of pooling over all positions: every axis but batch and channels."""

    def expressions(graph: OperatorGraph, node: Node, x: Operands) -> Results:
        value = required(x, 0)
        return (Reduced(kind, value, tuple(range(2 - rank_of(graph, node), 0)), value.dtype),)

    return Rowwise(expressions, 1)


def blocked_global_pool(kind: str) -> Rowwise:
    """The same of a tensor in blocks of channels, whose storage is [N, C / B, H, W, B]."""

    def expressions(graph: OperatorGraph, node: Node, x: Operands) -> Results:
        value, block = required(x, 0), known_block_size()
        if rank_of(graph, node) != 4:
            raise CannotLowerError(f"blocked {node.op_type} of other than four dimensions")
        storage = Reshape(sizes=(Dim((0,)), Dim((1,), divided=block), Dim((2,)), Dim((3,)), Dim(times=block)))
        pooled = Reduced(kind, Moved(value, (storage,), value.dtype), (-3, -2), value.dtype)
        shape = Reshape(sizes=(Dim((0,)), Dim((1, 4)), Dim(), Dim()))
        return (Moved(pooled, (shape,), value.dtype),)

    return Rowwise(expressions, 1)


# ------------------------------------------------------------------ softmax


def _softmax_axes(graph: OperatorGraph, node: Node) -> tuple[int, ...]:
    if node.version < 13:  # all axes from one on were one
        return from_axis(graph, node, integer(node, "axis", 1))
    axis = integer(node, "axis", -1)
    return (axis - rank_of(graph, node) if axis >= 0 else axis,)


def softmax(graph: OperatorGraph, node: Node, x: Operands) -> Results:
    """exp(x - max) / sum of it."""
    value, axes = required(x, 0), _softmax_axes(graph, node)
    bound = Reduced("maximum", value, axes, value.dtype)
    # What all are scaled by cancels; 16-bit floats do not reach that far.
    power = call("exp_scaled" if value.dtype == "float32" else "exp_down", call("subtract", value, bound))
    inverse = call("divide", literal(1, value), Reduced("sum", power, axes, value.dtype))
    return (call("multiply", power, inverse),)


def log_softmax(graph: OperatorGraph, node: Node, x: Operands) -> Results:
    """X - max - log(sum of exp(x - max))."""
    value, axes = required(x, 0), _softmax_axes(graph, node)
    shifted = call("subtract", value, Reduced("maximum", value, axes, value.dtype))
    summed = Reduced("sum", call("exp_down", shifted), axes, value.dtype)
    return (call("subtract", shifted, call("log", summed)),)


# ------------------------------------------------------------------ normalisations


def normalised(
    x: Expression, axes: tuple[int, ...], epsilon: float, scale: Expression | None, bias: Expression | None
) -> tuple[Expression, Expression, Expression]:
    """(result, mean, inverse of the deviation) of a normalisation by mean and variance."""
    mean = Reduced("mean", x, axes, x.dtype)
    centred = call("subtract", x, mean)
    inverse = inverse_root(Reduced("mean", square(centred), axes, x.dtype), epsilon)
    return scaled(call("multiply", centred, inverse), scale, bias), mean, inverse


def inverse_root(mean_square: Expression, epsilon: float) -> Call:
    """1 / sqrt(mean square + epsilon)."""
    root = call("sqrt", call("add", mean_square, literal(epsilon, mean_square)))
    return call("divide", literal(1, mean_square), root)


def scaled(x: Expression, scale: Expression | None, bias: Expression | None) -> Expression:
    """X * scale + bias, of which each may be absent."""
    x = x if scale is None else call("multiply", x, scale)
    return x if bias is None else call("add", x, bias)


def root_mean_square(
    x: Expression, axes: tuple[int, ...], epsilon: float, scale: Expression | None
) -> tuple[Expression, Expression]:
    """(result, inverse root of the mean square)."""
    inverse = inverse_root(Reduced("mean", square(x), axes, x.dtype), epsilon)
    return scaled(call("multiply", x, inverse), scale, None), inverse


def layer_normalization(graph: OperatorGraph, node: Node, x: Operands) -> Results:
    """ONNX LayerNormalization: result, mean, inverse of the deviation."""
    axes = from_axis(graph, node, integer(node, "axis", -1))
    return normalised(required(x, 0), axes, number(node, "epsilon", 1e-5), operand(x, 1), operand(x, 2))


def rms_normalization(graph: OperatorGraph, node: Node, x: Operands) -> Results:
    """ONNX RMSNormalization, onnxruntime SimplifiedLayerNormalization: result, inverse root of the mean square."""
    axes = from_axis(graph, node, integer(node, "axis", -1))
    return root_mean_square(required(x, 0), axes, number(node, "epsilon", 1e-5), operand(x, 1))


def _sum_of(first: Expression, *others: Expression | None) -> Expression:
    for other in others:
        first = first if other is None else call("add", first, other)
    return first


def skip_layer_normalization(graph: OperatorGraph, node: Node, x: Operands) -> Results:
    """Onnxruntime SkipLayerNormalization (input, skip, gamma, beta, bias): result, mean, inverse deviation, sum."""
    summed = _sum_of(required(x, 0), required(x, 1), operand(x, 4))
    results = normalised(summed, (-1,), number(node, "epsilon", 1e-12), operand(x, 2), operand(x, 3))
    return (*results, summed)


def skip_rms_normalization(graph: OperatorGraph, node: Node, x: Operands) -> Results:
    """Onnxruntime SkipSimplifiedLayerNormalization (input, skip, gamma, bias): result, -, inverse root, sum."""
    summed = _sum_of(required(x, 0), required(x, 1), operand(x, 3))
    result, inverse = root_mean_square(summed, (-1,), number(node, "epsilon", 1e-12), operand(x, 2))
    return result, None, inverse, summed


def _per_channel(x: Expression | None, positions: int) -> Expression | None:
    """A value per channel with a dimension of one for each position behind it."""
    if x is None:
        return None
    return Moved(x, (Reshape(sizes=(Dim((0,)), *(Dim() for _ in range(positions)))),), x.dtype)


def instance_normalization(graph: OperatorGraph, node: Node, x: Operands) -> Results:
    """ONNX InstanceNormalization (X, scale, bias per channel)."""
    positions = rank_of(graph, node) - 2
    scale, bias = _per_channel(operand(x, 1), positions), _per_channel(operand(x, 2), positions)
    axes = tuple(range(-positions, 0))
    return (normalised(required(x, 0), axes, number(node, "epsilon", 1e-5), scale, bias)[0],)


def batch_normalization(graph: OperatorGraph, node: Node, x: Operands) -> Results:
    """ONNX BatchNormalization (X, scale, bias, mean, variance per channel) at inference."""
    if len([name for name in node.outputs if name]) > 1 or integer(node, "training_mode", 0):
        raise CannotLowerError("batch normalisation in training")
    positions = rank_of(graph, node) - 2
    scale, bias, mean, variance = (_per_channel(required(x, slot), positions) for slot in range(1, 5))
    if any(v is None or v.dtype != required(x, 0).dtype for v in (scale, bias, mean, variance)):
        raise CannotLowerError("statistics of another element type")
    assert mean is not None and variance is not None
    inverse = inverse_root(variance, number(node, "epsilon", 1e-5))
    return (scaled(call("multiply", call("subtract", required(x, 0), mean), inverse), scale, bias),)


def group_normalization(graph: OperatorGraph, node: Node, x: Operands) -> Results:
    """ONNX GroupNormalization: the channels of a group are normalised together."""
    value, rank, groups = required(x, 0), rank_of(graph, node), integer(node, "num_groups", 1)
    positions = rank - 2
    apart = (Dim((0,)), Dim(times=groups), Dim((1,), divided=groups), *(Dim((axis,)) for axis in range(2, rank)))
    together = (Dim((0,)), Dim((1, 2)), *(Dim((axis + 1,)) for axis in range(2, rank)))
    grouped = Moved(value, (Reshape(sizes=apart),), value.dtype)
    scale, bias = _per_channel(operand(x, 1), positions), _per_channel(operand(x, 2), positions)
    axes, epsilon = tuple(range(-1 - positions, 0)), number(node, "epsilon", 1e-5)
    if node.version < 21:  # scale and bias are per group
        scale, bias = _per_channel(operand(x, 1), positions + 1), _per_channel(operand(x, 2), positions + 1)
        result = normalised(grouped, axes, epsilon, scale, bias)[0]
        return (Moved(result, (Reshape(sizes=together),), value.dtype),)
    result = normalised(grouped, axes, epsilon, None, None)[0]
    return (scaled(Moved(result, (Reshape(sizes=together),), value.dtype), scale, bias),)


def mean_variance_normalization(graph: OperatorGraph, node: Node, x: Operands) -> Results:
    """ONNX MeanVarianceNormalization: (x - mean) / (deviation + 1e-9)."""
    value, rank = required(x, 0), rank_of(graph, node)
    given = np.atleast_1d(np.asarray(node.attributes.get("axes", (0, 2, 3)))).tolist()
    axes = tuple(sorted(axis - rank if axis >= 0 else axis for axis in given))
    centred = call("subtract", value, Reduced("mean", value, axes, value.dtype))
    deviation = call("sqrt", Reduced("mean", square(centred), axes, value.dtype))
    return (call("divide", centred, call("add", deviation, literal(1e-9, value))),)


def lp_normalization(graph: OperatorGraph, node: Node, x: Operands) -> Results:
    """ONNX LpNormalization: x divided by the sum of absolute values, or the root of the sum of squares."""
    value, rank = required(x, 0), rank_of(graph, node)
    axis = integer(node, "axis", -1)
    axes = (axis - rank if axis >= 0 else axis,)
    one = integer(node, "p", 2) == 1
    norm = Reduced("sum", call("absolute", value) if one else square(value), axes, value.dtype)
    length = norm if one else call("sqrt", norm)
    quotient = call("divide", value, length)
    return (call("select", call("equal", length, literal(0, value)), literal(0, value), quotient),)


def local_response(graph: OperatorGraph, node: Node, x: Operands) -> Results:
    """ONNX LRN: x / (bias + alpha / size * sum of squares of the channels around)^beta; beyond the ends are zeros."""
    value, size = required(x, 0), integer(node, "size", 1)
    if value.dtype != "float32":
        raise CannotLowerError("LRN of other than float32")
    scale = literal(number(node, "alpha", 1e-4) / size, value)
    bias, beta = literal(number(node, "bias", 1.0), value), number(node, "beta", 0.75)
    total = call("add", bias, call("multiply", scale, SquaresAround(value, size)))
    if beta == 0.75:
        return (call("multiply", value, call("inverse_three_quarters", total)),)
    return (call("divide", value, call("power", total, literal(beta, value))),)
