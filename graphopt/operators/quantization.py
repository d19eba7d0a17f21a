"""Quantization, and operators on quantized tensors.

Convention: quantizing is 4 operations per element (times 1/scale, round, add the zero point, saturate), dequantizing 2;
integer multiply-adds count like floating-point ones.
"""

from math import prod

from graphopt.graph import Node
from graphopt.operators.base import Cost, CostFormula, FusionClass, Operands, Operator
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


_MS = "com.microsoft"
_ELEMENTWISE = FusionClass.ELEMENTWISE
_MATRIX = FusionClass.CONTRACTION
_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_QUANTIZE = ("axis", "block_size", "output_dtype", "precision", "saturate")
_DEQUANTIZE = ("axis", "block_size", "output_dtype")
_BINARY = 2 * DEQUANTIZE + 1 + QUANTIZE
_UNARY = DEQUANTIZE + 1 + QUANTIZE

OPERATORS: tuple[Operator, ...] = (
    Operator("QuantizeLinear", _ELEMENTWISE, per_input(QUANTIZE), "", "quantize", _QUANTIZE),
    Operator("DequantizeLinear", _ELEMENTWISE, per_input(DEQUANTIZE), "", "dequantize", _DEQUANTIZE),
    Operator("QuantizeLinear", _ELEMENTWISE, per_input(QUANTIZE), _MS, "quantize", ("axis",)),
    Operator("DequantizeLinear", _ELEMENTWISE, per_input(DEQUANTIZE), _MS, "dequantize", ("axis",)),
    # Minimum and maximum of the whole tensor, then quantizing.
    Operator("DynamicQuantizeLinear", FusionClass.REDUCTION, per_input(2 + QUANTIZE), "", "quantize"),
    Operator("MatMulInteger", _MATRIX, matmul_cost(0), "", "gemm_int8"),
    Operator("QLinearMatMul", _MATRIX, matmul_cost(QUANTIZE), "", "gemm_int8"),
    Operator("QGemm", _MATRIX, matmul_cost(1 + QUANTIZE), _MS, "gemm_int8", ("alpha", "transA", "transB")),
    Operator("MatMulIntegerToFloat", _MATRIX, matmul_cost(2), _MS, "gemm_int8"),
    Operator("DynamicQuantizeMatMul", _MATRIX, matmul_cost(2, quantize_input=True), _MS, "gemm_int8"),
    Operator("MatMulInteger16", _MATRIX, matmul_cost(0), _MS, "gemm_int8"),
    Operator("ConvInteger", _MATRIX, conv_cost(1, 0), "", "conv_int8", _WINDOW),
    Operator("QLinearConv", _MATRIX, conv_cost(3, QUANTIZE), "", "conv_int8", _WINDOW),
    Operator("QLinearConv", _MATRIX, conv_cost(3, QUANTIZE), _MS, "conv_int8", (*_WINDOW, "channels_last")),
    # A table of 256 exponentials replaces exp: table value, sum, scale and round (3).
    Operator("QLinearSoftmax", FusionClass.REDUCTION, per_input(5), _MS, "softmax_int8", ("axis", "opset")),
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
