"""Quantization, and operators on quantized tensors.

Convention: quantizing is 4 operations per element (times 1/scale, round, add the zero point, saturate), dequantizing 2;
integer multiply-adds count like floating-point ones.
"""

from math import prod

import numpy as np

from graphopt.graph import Node, OperatorGraph
from graphopt.operators.base import Cost, CostFormula, FusionClass, Operands, Operator
from graphopt.operators.convolution import window_of
from graphopt.operators.formulas import (
    contracted,
    elements,
    integer,
    per_input,
    per_output,
    present,
    traffic,
    window_size,
)
from graphopt.operators.lowering import (
    Call,
    CannotLowerError,
    Dim,
    Expression,
    IntegerSums,
    Literal,
    Moved,
    Reduced,
    Reshape,
    Rowwise,
    call,
    cast,
    literal,
)
from graphopt.operators.rowwise import Operands as Expressions
from graphopt.operators.rowwise import Results, from_axis, operand, rank_of, required, without_axes

QUANTIZE = 4
DEQUANTIZE = 2


def matmul_cost(extra: int, *, quantize_input: bool = False) -> CostFormula:
    """Formula for an integer matrix product of operand 0 with another one.

    Args:
        extra: operations per output element after the product (requantizing, scaling, bias).
        quantize_input: whether operand 0 is quantized on the way: minimum, maximum and 4 more per element.

    Sources: ONNX MatMulInteger, QLinearMatMul; onnxruntime QGemm, MatMulIntegerToFloat, DynamicQuantizeMatMul.
    """

    def cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
        left = present(inputs, 0)
        depth = contracted(left.shape, transposed=bool(integer(node, "transA", 0))) if left is not None else 0
        flops = (2 * depth + extra) * elements(outputs, 0)
        if quantize_input:
            flops += (2 + QUANTIZE) * elements(inputs, 0)
        return traffic(inputs, outputs, flops)

    return cost


def conv_cost(weights_slot: int, extra: int) -> CostFormula:
    """Formula for an integer convolution: 2 * (input channels per group * kernel) per output element, and ``extra``.

    Sources: ONNX ConvInteger (W in slot 1), QLinearConv (W in slot 3, requantizing).
    """

    def cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
        weights = present(inputs, weights_slot)
        if weights is None or not weights.shape:
            return Cost(0, 0, 0, 0)
        groups = integer(node, "group", 1)
        depthwise = groups > 1 and groups >= weights.shape[0]
        flops = (2 * prod(weights.shape[1:]) + extra) * elements(outputs, 0)
        return traffic(inputs, outputs, flops, rate_class="conv_depthwise_int8" if depthwise else "conv_int8")

    return cost


def pool_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """One operation per element under the window, then requantizing (onnxruntime: QLinearAveragePool)."""
    return traffic(inputs, outputs, (window_size(node) + QUANTIZE) * elements(outputs, 0))


def _along(graph: OperatorGraph, node: Node, x: Expression | None, slot: int) -> Expression | None:
    """A scale or zero point: one for all elements, or one for each index along an axis."""
    if x is None or graph.tensors[node.inputs[slot]].rank == 0:
        return x
    rank = rank_of(graph, node)
    axis = integer(node, "axis", 1)
    behind = -1 - axis if axis < 0 else rank - 1 - axis  # below zero: a single scale in a list
    sizes = (Dim((0,)), *(Dim() for _ in range(behind))) if rank and behind >= 0 else ()
    return Moved(x, (Reshape(sizes=sizes),), x.dtype)


def _scale_and_zero_point(graph: OperatorGraph, node: Node, x: Expressions) -> tuple[Expression, Expression | None]:
    if integer(node, "block_size", 0) or integer(node, "precision", 0):
        raise CannotLowerError(f"{node.op_type} in blocks, or in a precision of its own")
    scale = _along(graph, node, required(x, 1), 1)
    assert scale is not None
    return scale, _along(graph, node, operand(x, 2), 2)


def dequantize(graph: OperatorGraph, node: Node, x: Expressions) -> Results:
    """ONNX DequantizeLinear: (x - zero point) * scale, the difference in int32."""
    scale, zero = _scale_and_zero_point(graph, node, x)
    value = required(x, 0)
    if value.dtype not in (*_QUANTIZED, "int32") or graph.tensors[node.outputs[0]].dtype != scale.dtype:
        raise CannotLowerError(f"DequantizeLinear from {value.dtype} with scales of {scale.dtype}")
    whole = cast(value, "int32")
    if zero is not None:
        whole = call("subtract", whole, cast(zero, "int32"))
    return (call("multiply", cast(whole, scale.dtype), scale),)


def quantize(graph: OperatorGraph, node: Node, x: Expressions) -> Results:
    """ONNX QuantizeLinear: x / scale, rounded half to even, plus the zero point, within the type; NaN is its least."""
    scale, zero = _scale_and_zero_point(graph, node, x)
    value, to = required(x, 0), graph.tensors[node.outputs[0]].dtype or ""
    if to not in _QUANTIZED or value.dtype != scale.dtype or value.dtype not in ("float32", "float16"):
        raise CannotLowerError(f"QuantizeLinear from {value.dtype} by {scale.dtype} to {to}")
    return (_stepped(call("divide", value, scale), zero, to),)


def _stepped(value: Expression, zero: Expression | None, to: str) -> Expression:
    """A real number of steps, rounded half to even, plus the zero point, within an integer type; NaN is its least."""
    real = cast(call("round", value), "float32")
    if zero is not None:
        real = call("add", real, cast(zero, "float32"))
    return _saturated(real, to)


def _saturated(real: Expression, to: str) -> Expression:
    """A whole number in float32 within an integer type; NaN is its least."""
    bounds = np.iinfo(to)
    low, high = literal(int(bounds.min), real), literal(int(bounds.max), real)
    bounded = call("minimum", call("at_least_number", real, low), high)
    return cast(Call("truncate", (bounded,), "int32"), to)


def dynamic_quantize(graph: OperatorGraph, node: Node, x: Expressions) -> Results:
    """ONNX DynamicQuantizeLinear: quantized by a range with zero in it, its scale (1 for zeros), its zero point."""
    value = required(x, 0)
    axes = tuple(range(-rank_of(graph, node), 0))
    steps, scale, zero = _by_range(graph, node, value)
    return steps, without_axes(graph, node, scale, axes), without_axes(graph, node, zero, axes)


def _by_range(graph: OperatorGraph, node: Node, value: Expression) -> tuple[Expression, Expression, Expression]:
    """A tensor in uint8 by its range, and the scale and zero point, with all dimensions of size one."""
    axes = tuple(range(-rank_of(graph, node), 0))
    low = call("minimum", Reduced("minimum", value, axes, value.dtype), literal(0, value))
    high = call("maximum", Reduced("maximum", value, axes, value.dtype), literal(0, value))
    steps = call("divide", call("subtract", high, low), literal(255, value))
    scale = call("select", call("equal", low, high), literal(1, value), steps)
    zero = call("round", call("minimum", call("negate", call("divide", low, scale)), literal(255, value)))
    shifted = call("add", call("round", call("divide", value, scale)), zero)
    return _saturated(shifted, "uint8"), scale, cast(cast(zero, "int32"), "uint8")


def _matrix_sums(
    graph: OperatorGraph, node: Node, x: Expressions, left: int, right: int, left_zero: int, right_zero: int
) -> IntegerSums:
    """Sums of products of matrices, by the slots of operands and zero points."""
    for slot in (left, right):
        rank = graph.tensors[node.inputs[slot]].rank
        if rank is None or rank < 2:
            raise CannotLowerError(f"{node.op_type} of a vector")
    for slot in (left_zero, right_zero):
        if operand(x, slot) is not None and (graph.tensors[node.inputs[slot]].rank or 0) > 1:
            raise CannotLowerError(f"{node.op_type} with zero points of several dimensions")
    return IntegerSums(required(x, left), required(x, right), operand(x, left_zero), operand(x, right_zero))


def _window_sums(graph: OperatorGraph, node: Node, x: Expressions, weights: int, image_zero: int) -> IntegerSums:
    """Sums of products of weights and the image in slot 0; the weights' zero point stands behind the image's."""
    window = window_of(graph, node)
    if window.groups != 1 or window.same:
        raise CannotLowerError(f"{node.op_type} in groups, or with pads of its own")
    weights_zero = image_zero + 1 if node.op_type == "ConvInteger" else weights + 2
    return IntegerSums(required(x, weights), required(x, 0), operand(x, weights_zero), operand(x, image_zero), window)


def matmul_integer(graph: OperatorGraph, node: Node, x: Expressions) -> Results:
    """ONNX MatMulInteger (A, B, their zero points)."""
    return (_matrix_sums(graph, node, x, 0, 1, 2, 3),)


def conv_integer(graph: OperatorGraph, node: Node, x: Expressions) -> Results:
    """ONNX ConvInteger (x, weights, their zero points)."""
    return (_window_sums(graph, node, x, 1, 2),)


def matmul_quantized(graph: OperatorGraph, node: Node, x: Expressions) -> Results:
    """ONNX QLinearMatMul (a, its scale and zero point; b, …; the result's): sums in steps of the result."""
    sums = _matrix_sums(graph, node, x, 0, 3, 2, 5)
    if any((graph.tensors[node.inputs[slot]].rank or 0) > 1 for slot in (1, 4, 6)):
        raise CannotLowerError("QLinearMatMul with scales of several dimensions")
    scale = call("divide", call("multiply", required(x, 1), required(x, 4)), required(x, 6))
    zero = required(x, 7)
    return (_stepped(call("multiply", cast(sums, scale.dtype), scale), zero, zero.dtype),)


def conv_quantized(graph: OperatorGraph, node: Node, x: Expressions) -> Results:
    """ONNX QLinearConv (x, its scale and zero point; weights, …; the result's; a bias), also by channels."""
    sums: Expression = _window_sums(graph, node, x, 3, 2)
    positions = rank_of(graph, node) - 2
    weights_scale = _channel(required(x, 4), positions) if graph.tensors[node.inputs[4]].rank else required(x, 4)
    scale = call("divide", call("multiply", required(x, 1), weights_scale), required(x, 6))
    bias, zero = operand(x, 8), required(x, 7)
    if bias is not None:
        sums = call("add", sums, _channel(bias, positions))
    return (_stepped(call("multiply", cast(sums, scale.dtype), scale), zero, zero.dtype),)


def _channel(x: Expression, positions: int) -> Expression:
    """A value for each channel, with a dimension of one for each position behind it."""
    return Moved(x, (Reshape(sizes=(Dim((0,)), *(Dim() for _ in range(positions)))),), x.dtype)


def matmul_to_float(graph: OperatorGraph, node: Node, x: Expressions) -> Results:
    """Onnxruntime MatMulIntegerToFloat (A, B, their scales, their zero points, a bias)."""
    sums = _matrix_sums(graph, node, x, 0, 1, 4, 5)
    return (_scaled_sums(sums, call("multiply", required(x, 2), required(x, 3)), operand(x, 6)),)


def matmul_dynamic(graph: OperatorGraph, node: Node, x: Expressions) -> Results:
    """Onnxruntime DynamicQuantizeMatMul (A, B, B's scale and zero point, a bias): A is quantized by its range."""
    left, scale, zero = _by_range(graph, node, required(x, 0))
    if (graph.tensors[node.inputs[0]].rank or 0) < 2 or graph.tensors[node.inputs[1]].rank != 2:
        raise CannotLowerError("DynamicQuantizeMatMul of other than rows and a matrix")
    sums = IntegerSums(left, required(x, 1), zero, operand(x, 3))
    return (_scaled_sums(sums, call("multiply", scale, required(x, 2)), operand(x, 4)),)


def _scaled_sums(sums: Expression, scale: Expression, bias: Expression | None) -> Expression:
    product = call("multiply", cast(sums, scale.dtype), scale)
    return product if bias is None else call("add", product, bias)


def quantized_softmax(graph: OperatorGraph, node: Node, x: Expressions) -> Results:
    """Onnxruntime QLinearSoftmax (x, its scale, its zero point, the result's scale and zero point).

    exp(scale * (x - max)) / sum of it, times the whole part of 1 / the result's scale, rounded half to even, plus the
    zero point. What is over 255 is 255, and signed results are the lowest eight bits. onnxruntime reads exponentials
    from a table and adds them one by one: where that decides how to round, results may be one step apart.
    """
    value, scale, result_scale, zero = required(x, 0), required(x, 1), required(x, 3), operand(x, 4)
    later = integer(node, "opset", 13) >= 13
    axis = integer(node, "axis", -1 if later else 1)
    axes = from_axis(graph, node, axis)[: 1 if later else None]
    real = cast(value, scale.dtype)
    below = call("subtract", real, Reduced("maximum", real, axes, real.dtype))
    power = call("exp_scaled", call("multiply", below, scale))
    one = Literal(1, scale.dtype)
    steps = call("divide", call("floor", call("divide", one, result_scale)), Reduced("sum", power, axes, power.dtype))
    whole = cast(call("round", call("multiply", power, steps)), "int32")
    if zero is not None:
        whole = call("add", whole, cast(zero, "int32"))
    return (cast(call("minimum", whole, literal(255, whole)), value.dtype),)


_QUANTIZED = ("int8", "uint8", "int16", "uint16")
_MS = "com.microsoft"
_ELEMENTWISE = FusionClass.ELEMENTWISE
_MATRIX = FusionClass.CONTRACTION
_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_QUANTIZE = ("axis", "block_size", "output_dtype", "precision", "saturate")
_DEQUANTIZE = ("axis", "block_size", "output_dtype")
_QUANTIZING, _DEQUANTIZING = Rowwise(quantize, 6), Rowwise(dequantize, 2)
_BINARY = 2 * DEQUANTIZE + 1 + QUANTIZE
_UNARY = DEQUANTIZE + 1 + QUANTIZE

OPERATORS: tuple[Operator, ...] = (
    Operator("QuantizeLinear", _ELEMENTWISE, per_input(QUANTIZE), "", "quantize", _QUANTIZE, lowering=_QUANTIZING),
    Operator(
        "DequantizeLinear", _ELEMENTWISE, per_input(DEQUANTIZE), "", "dequantize", _DEQUANTIZE, lowering=_DEQUANTIZING
    ),
    Operator("QuantizeLinear", _ELEMENTWISE, per_input(QUANTIZE), _MS, "quantize", ("axis",), lowering=_QUANTIZING),
    Operator(
        "DequantizeLinear", _ELEMENTWISE, per_input(DEQUANTIZE), _MS, "dequantize", ("axis",), lowering=_DEQUANTIZING
    ),
    # Minimum and maximum of the whole tensor, then quantizing.
    Operator(
        "DynamicQuantizeLinear",
        FusionClass.REDUCTION,
        per_input(2 + QUANTIZE),
        "",
        "quantize",
        lowering=Rowwise(dynamic_quantize, 6),
    ),
    Operator("MatMulInteger", _MATRIX, matmul_cost(0), "", "gemm_int8", lowering=Rowwise(matmul_integer, 1)),
    Operator("QLinearMatMul", _MATRIX, matmul_cost(QUANTIZE), "", "gemm_int8", lowering=Rowwise(matmul_quantized, 6)),
    Operator("QGemm", _MATRIX, matmul_cost(1 + QUANTIZE), _MS, "gemm_int8", ("alpha", "transA", "transB")),
    Operator("MatMulIntegerToFloat", _MATRIX, matmul_cost(2), _MS, "gemm_int8", lowering=Rowwise(matmul_to_float, 2)),
    Operator(
        "DynamicQuantizeMatMul",
        _MATRIX,
        matmul_cost(2, quantize_input=True),
        _MS,
        "gemm_int8",
        lowering=Rowwise(matmul_dynamic, 6),
    ),
    Operator("MatMulInteger16", _MATRIX, matmul_cost(0), _MS, "gemm_int8"),
    Operator("ConvInteger", _MATRIX, conv_cost(1, 0), "", "conv_int8", _WINDOW, lowering=Rowwise(conv_integer, 1)),
    Operator(
        "QLinearConv", _MATRIX, conv_cost(3, QUANTIZE), "", "conv_int8", _WINDOW, lowering=Rowwise(conv_quantized, 6)
    ),
    Operator("QLinearConv", _MATRIX, conv_cost(3, QUANTIZE), _MS, "conv_int8", (*_WINDOW, "channels_last")),
    # A table of 256 exponentials replaces exp: table value, sum, scale and round (3).
    Operator(
        "QLinearSoftmax",
        FusionClass.REDUCTION,
        per_input(5),
        _MS,
        "softmax_int8",
        ("axis", "opset"),
        lowering=Rowwise(quantized_softmax),
    ),
    Operator("QLinearAdd", _ELEMENTWISE, per_output(_BINARY), _MS, "quantize"),
    Operator("QLinearMul", _ELEMENTWISE, per_output(_BINARY), _MS, "quantize"),
    Operator("QLinearSigmoid", _ELEMENTWISE, per_output(_UNARY), _MS, "quantize"),
    Operator("QLinearLeakyRelu", _ELEMENTWISE, per_output(_UNARY), _MS, "quantize", ("alpha",)),
    Operator("QLinearWhere", _ELEMENTWISE, per_output(DEQUANTIZE + QUANTIZE), _MS, "quantize"),
    # Requantized copies: not a pure layout operator, since scales may differ.
    Operator("QLinearConcat", _ELEMENTWISE, per_output(DEQUANTIZE + QUANTIZE), _MS, "quantize", ("axis",)),
    Operator(
        "QLinearAveragePool",
        FusionClass.WINDOW,
        pool_cost,
        _MS,
        "pool",
        ("auto_pad", "ceil_mode", "channels_last", "count_include_pad", "kernel_shape", "pads", "strides"),
    ),
    Operator("QLinearGlobalAveragePool", FusionClass.REDUCTION, per_input(1), _MS, "reduce", ("channels_last",)),
    Operator("QLinearReduceMean", FusionClass.REDUCTION, per_input(1), _MS, "reduce", ("axes", "keepdims")),
)
