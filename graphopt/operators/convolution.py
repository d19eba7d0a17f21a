"""Convolutions, plain and in onnxruntime's blocked layout.

Convention: 2 * (input channels per group) * (kernel elements) operations per output element, padding counted like data
as the definition does; a bias, an added tensor (slot 3 of the fused forms) and an activation cost one operation per
output element each. In the blocked layout channels are padded to whole blocks, and what runs is counted.
"""

from math import prod

from graphopt.graph import Node
from graphopt.operators.base import Cost, FusionClass, Operands, Operator
from graphopt.operators.formulas import elements, integer, present, traffic


def rate_class(node: Node, input_channels: int, output_channels: int) -> str:
    """The machine rate that bounds a convolution: groups of one channel leave no sum over channels to block.

    Args:
        node: the operator; its ``group`` attribute decides.
        input_channels: channels of the whole input.
        output_channels: channels of the whole output.
    """
    groups = integer(node, "group", 1)
    depthwise = groups > 1 and (groups >= input_channels or groups >= output_channels)
    plain = node.domain != "com.microsoft.nchwc"
    return ("conv_depthwise" if depthwise else "conv") + ("_plain" if plain else "")


def conv_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Direct convolution (ONNX: Conv; onnxruntime: FusedConv, NhwcConv, com.microsoft.nchwc.Conv).

    Slots: X, W [out, in / group, kernel...], B, tensor to add. W holds in / group * kernel products per output channel.
    """
    weights = present(inputs, 1)
    if weights is None or not weights.shape:
        return Cost(0, 0, 0, 0)
    products = prod(weights.shape[1:])
    extra = sum(present(inputs, slot) is not None for slot in (2, 3)) + ("activation" in node.attributes)
    channels = weights.shape[1] * integer(node, "group", 1)
    flops = (2 * products + extra) * elements(outputs, 0)
    return traffic(inputs, outputs, flops, rate_class=rate_class(node, channels, weights.shape[0]))


def transposed_conv_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Each input element meets out / group * kernel weights (ONNX: ConvTranspose; W [in, out / group, kernel...]).

    Slots: X, W, B; onnxruntime's ConvTransposeWithDynamicPads puts the pads in slot 2 and the bias in slot 3.
    """
    weights = present(inputs, 1)
    if weights is None or not weights.shape:
        return Cost(0, 0, 0, 0)
    dynamic = node.op_type == "ConvTransposeWithDynamicPads"
    bias = present(inputs, 3 if dynamic else 2) is not None
    flops = 2 * prod(weights.shape[1:]) * elements(inputs, 0) + bias * elements(outputs, 0)
    return traffic(inputs, outputs, flops, host=(2,) if dynamic else (), rate_class="conv_transpose")


def deform_conv_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """A convolution whose samples are interpolated: 8 more operations (4 weighted neighbours) per sample.

    Source: ONNX operator DeformConv (X, W, offset, B, mask). Each input channel is sampled once per kernel element and
    output position; the mask multiplies once.
    """
    weights, output = present(inputs, 1), present(outputs, 0)
    if weights is None or output is None or len(output.shape) < 2:
        return Cost(0, 0, 0, 0)
    positions = output.shape[0] * prod(output.shape[2:])
    samples = positions * weights.shape[1] * integer(node, "group", 1) * prod(weights.shape[2:])
    bias = present(inputs, 3) is not None
    mask = present(inputs, 4) is not None
    flops = (2 * prod(weights.shape[1:]) + bias) * output.elements + (8 + mask) * samples
    return traffic(inputs, outputs, flops)


_CONV = FusionClass.CONTRACTION
_MS = "com.microsoft"
_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_ACTIVATION = ("activation", "activation_params")
_TRANSPOSED = (*_WINDOW, "output_padding", "output_shape")

OPERATORS: tuple[Operator, ...] = (
    Operator("Conv", _CONV, conv_cost, rate_class="conv", attributes=_WINDOW),
    Operator("FusedConv", _CONV, conv_cost, _MS, "conv", (*_WINDOW, *_ACTIVATION)),
    Operator("NhwcConv", _CONV, conv_cost, _MS, "conv", _WINDOW),
    Operator("NhwcFusedConv", _CONV, conv_cost, _MS, "conv", (*_WINDOW, *_ACTIVATION)),
    Operator("Conv", _CONV, conv_cost, "com.microsoft.nchwc", "conv", (*_WINDOW, *_ACTIVATION)),
    # A causal convolution over time that also hands on its last inputs: X, W, B, state.
    Operator("CausalConvWithState", _CONV, conv_cost, rate_class="conv", attributes=("activation",)),
    Operator("CausalConvWithState", _CONV, conv_cost, _MS, "conv", ("activation", "channels_last", "dilation", "ndim")),
    Operator("ConvTranspose", _CONV, transposed_conv_cost, rate_class="conv_transpose", attributes=_TRANSPOSED),
    Operator(
        "ConvTransposeWithDynamicPads",
        _CONV,
        transposed_conv_cost,
        _MS,
        "conv_transpose",
        ("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "strides"),
        structural=(2,),
    ),
    Operator(
        "DeformConv",
        _CONV,
        deform_conv_cost,
        rate_class="conv_transpose",
        attributes=("dilations", "group", "kernel_shape", "offset_group", "pads", "strides"),
    ),
)
