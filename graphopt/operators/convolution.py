"""Convolutions, plain and in onnxruntime's blocked layout.

Convention: 2 * (input channels per group) * (kernel elements) operations per output element, padding counted like data
as the definition does; a bias, an added tensor (slot 3 of the fused forms) and an activation cost one operation per
output element each. In the blocked layout channels are padded to whole blocks, and what runs is counted.
"""

from dataclasses import replace
from math import inf, prod

from graphopt.graph import Node, OperatorGraph
from graphopt.operators import elementwise
from graphopt.operators.base import Cost, FusionClass, Operands, Operator
from graphopt.operators.blocked import DOMAIN, block_size
from graphopt.operators.formulas import elements, integer, present, text, traffic
from graphopt.operators.lowering import CannotLowerError, Convolving, Elementwise, Expression, Window


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


def causal_conv_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """A depthwise convolution over time that hands on its last operands; Swish is 2 operations.

    Source: ONNX operator CausalConvWithState: X [batch, channels, length], W [channels, 1, kernel], B, state;
    onnxruntime's VarlenCausalConvWithState has its bias in slot 3, behind the lengths.
    """
    weights = present(inputs, 1)
    if weights is None or not weights.shape:
        return Cost(0, 0, 0, 0)
    bias = present(inputs, 3 if node.op_type.startswith("Varlen") else 2) is not None
    swish = 2 if text(node, "activation", "none") not in ("", "none") else 0
    flops = (2 * prod(weights.shape[1:]) + bias + swish) * elements(outputs, 0)
    return traffic(inputs, outputs, flops, rate_class="conv_depthwise_plain")


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


def _pair(node: Node, name: str, default: int, dimensions: int) -> tuple[int, int]:
    """An attribute along height and width."""
    given = node.attributes.get(name)
    values = tuple(int(value) for value in given) if isinstance(given, tuple) and given else (default,) * dimensions
    if len(values) != dimensions:
        raise CannotLowerError(f"{node.op_type}: {name} of {len(values)} numbers for {dimensions} dimensions")
    return values[-2:] if dimensions == 2 else (default, values[0])  # type: ignore[return-value]


def _window(graph: OperatorGraph, node: Node) -> Window:
    for slot in (0, 1):
        if graph.tensors[node.inputs[slot]].dtype != "float32":
            raise CannotLowerError(f"{node.op_type} of other than float32")
    return window_of(graph, node)


def window_of(graph: OperatorGraph, node: Node) -> Window:
    """The window of a convolution of operand 0.

    Raises:
        CannotLowerError: it has other than one or two dimensions, or attributes that no kernel knows.
    """
    rank = graph.tensors[node.inputs[0]].rank
    if rank not in (3, 4):
        raise CannotLowerError(f"{node.op_type} of other than one or two dimensions")
    dimensions = rank - 2
    blocked = node.domain == DOMAIN
    if blocked and not block_size():
        raise CannotLowerError("this onnxruntime has no blocked layout")
    auto_pad = text(node, "auto_pad", "NOTSET") or "NOTSET"
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise CannotLowerError(f"{node.op_type}: auto_pad {auto_pad}")
    given = node.attributes.get("pads")
    pads = tuple(int(p) for p in given) if isinstance(given, tuple) and given else (0,) * (2 * dimensions)
    if len(pads) != 2 * dimensions:
        raise CannotLowerError(f"{node.op_type}: pads of {len(pads)} numbers for {dimensions} dimensions")
    if auto_pad != "NOTSET":
        pads = (0,) * (2 * dimensions)
    before, after = ((0, *pads[:1]), (0, *pads[1:])) if dimensions == 1 else (pads[:2], pads[2:])
    low, high = _bounds(node)
    return Window(
        dimensions,
        block_size() if blocked else 0,
        integer(node, "group", 1),
        _pair(node, "strides", 1, dimensions),
        _pair(node, "dilations", 1, dimensions),
        before,  # type: ignore[arg-type]
        after,  # type: ignore[arg-type]
        {"SAME_UPPER": "upper", "SAME_LOWER": "lower"}.get(auto_pad, ""),
        low,
        high,
    )


def _bounds(node: Node) -> tuple[float, float]:
    kind, parameters = _activation(node)
    if kind == "Relu":
        return 0.0, inf
    if kind == "Clip":
        return parameters[0], parameters[1]
    return -inf, inf


def _activation(node: Node) -> tuple[str, tuple[float, ...]]:
    given = node.attributes.get("activation_params")
    return text(node, "activation", ""), tuple(float(p) for p in given) if isinstance(given, tuple) else ()


_PARAMETERS: dict[str, tuple[str, ...]] = {
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Sigmoid": (),
    "Tanh": (),
    "HardSwish": (),
}
"""Attributes that the numbers of ``activation_params`` stand for, by activation."""


def _activated(node: Node, x: Expression) -> Expression:
    """The activation of a fused operator, where it is no bound: an element-wise operator by name."""
    kind, parameters = _activation(node)
    if kind in ("", "Relu", "Clip"):
        return x
    row = next((row for row in elementwise.OPERATORS if row.op_type == kind and not row.domain), None)
    if row is None or not isinstance(row.lowering, Elementwise) or kind not in _PARAMETERS:
        raise CannotLowerError(f"{node.op_type} with activation {kind}")
    attributes = dict(zip(_PARAMETERS[kind], parameters, strict=False))
    return row.lowering.expression(replace(node, op_type=kind, attributes=attributes), (x,))


_CONVOLVING = Convolving(_window, _activated)

_CONV = FusionClass.CONTRACTION
_MS = "com.microsoft"
_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_ACTIVATION = ("activation", "activation_params")
_TRANSPOSED = (*_WINDOW, "output_padding", "output_shape")

OPERATORS: tuple[Operator, ...] = (
    Operator("Conv", _CONV, conv_cost, rate_class="conv", attributes=_WINDOW, lowering=_CONVOLVING),
    Operator("FusedConv", _CONV, conv_cost, _MS, "conv", (*_WINDOW, *_ACTIVATION), lowering=_CONVOLVING),
    Operator("NhwcConv", _CONV, conv_cost, _MS, "conv", _WINDOW),
    Operator("NhwcFusedConv", _CONV, conv_cost, _MS, "conv", (*_WINDOW, *_ACTIVATION)),
    Operator("Conv", _CONV, conv_cost, DOMAIN, "conv", (*_WINDOW, *_ACTIVATION), lowering=_CONVOLVING),
    Operator("CausalConvWithState", _CONV, causal_conv_cost, rate_class="conv", attributes=("activation",)),
    Operator(
        "CausalConvWithState",
        _CONV,
        causal_conv_cost,
        _MS,
        "conv",
        ("activation", "channels_last", "dilation", "ndim"),
    ),
    Operator("VarlenCausalConvWithState", _CONV, causal_conv_cost, _MS, "conv", ("activation", "dilation")),
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
