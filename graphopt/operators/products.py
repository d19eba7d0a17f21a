"""Products: what contractions do besides their multiplications, and which of them run apart from the others.

Matrix products and convolutions are worked through in blocks. A runtime pays for each sum that it writes, for each
element of the right operand that it brings into the order of its blocks, for each matrix that it begins, and for the
lanes of its vectors that a narrow matrix leaves idle; a blocked convolution pays for each row of its image, too.
"""

from collections.abc import Sequence
from math import prod

from graphopt.graph import Node, Shape
from graphopt.operators.blocked import DOMAIN as BLOCKED
from graphopt.operators.formulas import integer

LANES = 16
"""Columns of a block that is computed at once: the float32 elements of a vector of 512 bits."""

FAR = 1 << 18
"""Elements of a right operand, in float32, that no longer stay in a second-level cache with all else."""
SET = 64
"""Output channels of a blocked convolution that share what is read of its input."""

FACTORS = {
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
    "QLinearMatMul": (0, 3),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3),
}
"""Slots of what products and convolutions of integers of eight bits multiply."""

_PLAIN_ACTIVATIONS = ("", "Relu")
"""Activations that a convolution applies to sums while they are in registers."""

Shapes = Sequence[Shape | None]


def factor_slots(node: Node) -> tuple[int, int]:
    """Slots of the operands that a contraction multiplies; weights are the second one."""
    return FACTORS.get(node.op_type, (0, 1))


def factor_shapes(node: Node, inputs: Shapes) -> tuple[Shape | None, Shape | None]:
    """Shapes of the operands that a contraction multiplies."""
    left, right = (inputs[slot] if slot < len(inputs) else None for slot in factor_slots(node))
    return left, right


def product_counts(node: Node, inputs: Shapes, result: Shape) -> dict[str, int]:
    """What a contraction works through, by name; the empty name counts its sums.

    Args:
        node: the operator.
        inputs: shapes of the operands by slot.
        result: shape of the first result.

    Returns:
        ``weights``: elements of the right operand, of the unfolded image for a convolution in the plain layout;
        ``far``: the same of a right operand beyond FAR; ``matrices``: products of two matrices after the first;
        ``lanes``: multiply-adds that idle lanes could have done; ``rows``: rows of the image by blocks of channels;
        ``sets``: elements of windows that are spread over the lanes, once for each SET of output channels;
        ``activations``: results that an activation computes from again; ``scaled``: sums of integers that are scaled.
    """
    left, right = factor_shapes(node, inputs)
    found = {"": prod(result)}
    if not left or not right:
        return found
    if node.op_type in FACTORS:
        found["scaled"] = 0 if node.op_type in ("MatMulInteger", "ConvInteger") else prod(result)
    if node.op_type in FACTORS and "Conv" in node.op_type:
        return found | {"weights": result[0] * prod(right[1:]) * prod(result[2:])}
    if "Conv" in node.op_type:
        return found | _convolution(node, left, right, result)
    depth = left[-2] if integer(node, "transA", 0) and len(left) > 1 else left[-1]
    columns = result[-1] if result else 1
    return found | {
        "weights": prod(right),
        "far": prod(right) if prod(right) > FAR else 0,
        "matrices": prod(result[:-2]) - 1 if len(right) > 2 else 0,
        "lanes": prod(result[:-1]) * depth * (-columns % LANES),
    }


def _convolution(node: Node, image: Shape, weights: Shape, result: Shape) -> dict[str, int]:
    if len(image) < 3 or len(weights) < 3 or len(result) < 3 or node.op_type.startswith("ConvTranspose"):
        return {}
    groups = max(1, integer(node, "group", 1))
    activation = node.attributes.get("activation", "")
    found = {"activations": 0 if activation in _PLAIN_ACTIVATIONS else prod(result)}
    positions, depth = prod(result[2:]), prod(weights[1:])
    if node.domain == BLOCKED:
        blocks = -(-weights[0] // LANES) * max(1, -(-weights[1] // LANES))
        sets = -(-weights[0] // groups // SET) * groups if weights[1] > 1 else 0
        return found | {
            "rows": prod(result[:1]) * prod(result[2:-1]) * blocks,
            "sets": result[0] * positions * depth * sets,
            "weights": result[0] * prod(weights),
        }
    products = result[0] * groups
    return found | {
        "weights": products * depth * positions,
        "matrices": products - 1,
        "lanes": result[0] * weights[0] * depth * (-positions % LANES),
    }


def product_regime(node: Node, inputs: Shapes, result: Shape, *, computed: bool, unsigned: bool = False) -> str:
    """A special case of contractions with a rate of its own; empty for the common one.

    Args:
        node: the operator.
        inputs: shapes of the operands by slot.
        result: shape of the first result.
        computed: whether the right operand is no constant.
        unsigned: whether it is of integers of eight bits without a sign.

    Returns:
        ``unsigned``: of integers, by such a right operand: processors multiply unsigned integers by signed ones;
        ``row``: a matrix product of one row, or a blocked convolution of one position, which is the same;
        ``computed``: a matrix product by what no session can prepare; ``strided``: a convolution that leaves positions
        out; ``pointwise``: one of windows of one element.
    """
    if node.op_type in FACTORS:
        return "unsigned" if unsigned else ""
    weights = inputs[1] if len(inputs) > 1 else None
    if "Conv" not in node.op_type:
        return "row" if prod(result[:-1]) == 1 else "computed" if computed else ""
    if not weights or len(weights) < 3:
        return ""
    if prod(weights[2:]) == 1 and (weights[1] > 1 or integer(node, "group", 1) == 1):
        return "row" if node.domain == BLOCKED and prod((result[0], *result[2:])) == 1 else "pointwise"
    strides = node.attributes.get("strides")
    return "strided" if isinstance(strides, tuple) and any(step != 1 for step in strides) else ""
