"""Normalisations: layer, root-mean-square, group, instance, batch and local response."""

from collections.abc import Callable

from graphopt.graph import Node, OperatorGraph
from graphopt.operators import rowwise
from graphopt.operators.base import Cost, CostFormula, FusionClass, Operands, Operator
from graphopt.operators.formulas import elements, integer, per_input, present, traffic
from graphopt.operators.lowering import Rowwise


def layer_normalization_flops(*, scale: bool, bias: bool) -> int:
    """Operations per element: sum, centre, square and add (2), times 1/deviation; then the scale and the bias.

    Source: ONNX operator LayerNormalization, stage one and stage two. The few operations per row are left out.
    """
    return 5 + scale + bias


def rms_normalization_flops(*, scale: bool) -> int:
    """Operations per element: square and add (2), times 1/root; then the scale (ONNX: RMSNormalization)."""
    return 3 + scale


def layer_normalization_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Layer normalisation of X with scale and optional bias (ONNX: LayerNormalization)."""
    each = layer_normalization_flops(scale=True, bias=present(inputs, 2) is not None)
    return traffic(inputs, outputs, each * elements(inputs, 0))


def rms_normalization_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Root-mean-square normalisation with scale (ONNX: RMSNormalization; onnxruntime: SimplifiedLayerNormalization)."""
    return traffic(inputs, outputs, rms_normalization_flops(scale=present(inputs, 1) is not None) * elements(inputs, 0))


def skip_layer_normalization_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Input + skip (+ bias, slot 4), then layer normalisation with gamma and optional beta.

    Source: onnxruntime contrib operator SkipLayerNormalization. A skip that is broadcast over the batch is read once.
    """
    each = (
        1
        + (present(inputs, 4) is not None)
        + layer_normalization_flops(scale=True, bias=present(inputs, 3) is not None)
    )
    return traffic(inputs, outputs, each * elements(inputs, 0))


def skip_rms_normalization_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Input + skip (+ bias, slot 3), then root-mean-square normalisation with gamma.

    Source: onnxruntime contrib operator SkipSimplifiedLayerNormalization.
    """
    each = 1 + (present(inputs, 3) is not None) + rms_normalization_flops(scale=True)
    return traffic(inputs, outputs, each * elements(inputs, 0))


def batch_normalization_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """One multiply-add per element: scale and shift follow from four numbers per channel (4 operations each).

    In training mode the statistics come first: 4 more per element (sum, centre, square and add).
    Source: ONNX operator BatchNormalization.
    """
    each = 6 if integer(node, "training_mode", 0) else 2
    return traffic(inputs, outputs, each * elements(inputs, 0) + 4 * elements(inputs, 1))


def skip_group_normalization_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Input + skip (+ bias), then group normalisation: 7 operations per element and the additions.

    Source: onnxruntime contrib operators GroupNorm, SkipGroupNorm (slots: X, gamma, beta, skip, bias).
    """
    each = 7 + (present(inputs, 3) is not None) + (present(inputs, 4) is not None)
    return traffic(inputs, outputs, each * elements(inputs, 0))


def local_response_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Per element: square, sum over ``size`` channels, scale and bias (2), power, divide (ONNX: LRN)."""
    return traffic(inputs, outputs, (integer(node, "size", 1) + 5) * elements(inputs, 0))


_MS = "com.microsoft"
_LAYER = ("axis", "epsilon", "stash_type")
_SEVEN = per_input(7)  # sum, centre, square and add (2), times 1/deviation, scale, bias


def _row(
    op_type: str,
    cost: CostFormula,
    attributes: tuple[str, ...],
    domain: str = "",
    lowering: Callable[[OperatorGraph, Node, rowwise.Operands], rowwise.Results] | None = None,
) -> Operator:
    return Operator(
        op_type,
        FusionClass.REDUCTION,
        cost,
        domain,
        rate_class="layernorm",
        attributes=attributes,
        lowering=None if lowering is None else Rowwise(lowering, 6),
    )


OPERATORS: tuple[Operator, ...] = (
    _row("LayerNormalization", layer_normalization_cost, _LAYER, lowering=rowwise.layer_normalization),
    _row("RMSNormalization", rms_normalization_cost, _LAYER, lowering=rowwise.rms_normalization),
    _row("SimplifiedLayerNormalization", rms_normalization_cost, _LAYER, "", rowwise.rms_normalization),
    _row("SimplifiedLayerNormalization", rms_normalization_cost, _LAYER, _MS, rowwise.rms_normalization),
    _row(
        "SkipLayerNormalization",
        skip_layer_normalization_cost,
        ("epsilon",),
        _MS,
        rowwise.skip_layer_normalization,
    ),
    _row(
        "SkipSimplifiedLayerNormalization",
        skip_rms_normalization_cost,
        ("epsilon",),
        _MS,
        rowwise.skip_rms_normalization,
    ),
    # Opset 21 has a scale per channel, 18 had one per group.
    Operator(
        "GroupNormalization",
        FusionClass.REDUCTION,
        _SEVEN,
        rate_class="layernorm",
        attributes=("epsilon", "num_groups", "stash_type"),
        changed=(21,),
        lowering=Rowwise(rowwise.group_normalization, 6),
    ),
    _row("GroupNorm", _SEVEN, ("epsilon", "groups", "activation", "channels_last"), "com.microsoft"),
    _row(
        "SkipGroupNorm",
        skip_group_normalization_cost,
        ("epsilon", "groups", "activation", "channels_last"),
        "com.microsoft",
    ),
    _row("InstanceNormalization", _SEVEN, ("epsilon",), lowering=rowwise.instance_normalization),
    # Sum, centre, square and add (2), divide: ONNX function MeanVarianceNormalization.
    _row("MeanVarianceNormalization", per_input(5), ("axes",), lowering=rowwise.mean_variance_normalization),
    # Square (or absolute value) and add, divide: ONNX operator LpNormalization.
    _row("LpNormalization", per_input(3), ("axis", "p"), lowering=rowwise.lp_normalization),
    Operator(
        "LRN",
        FusionClass.REDUCTION,
        local_response_cost,
        rate_class="lrn",
        attributes=("size", "alpha", "beta", "bias"),
        lowering=Rowwise(rowwise.local_response, 2),
    ),
    # At inference every element depends on itself and on numbers of its channel only.
    Operator(
        "BatchNormalization",
        FusionClass.ELEMENTWISE,
        batch_normalization_cost,
        rate_class="mul",
        attributes=("epsilon", "training_mode", "spatial"),
        lowering=Rowwise(rowwise.batch_normalization, 2),
    ),
)
