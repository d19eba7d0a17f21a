"""Pieces that cost formulas of several families share: traffic of whole operands, sizes, matrix products.

Conventions (docs/operators.md states them for readers): a multiply-add is two operations; every other arithmetic step,
comparison or elementary function (exp, erf, a division) is one, because its price belongs to the machine's rate for its
class; a tensor is read once, however many slots it stands in, and a result is written once.
"""

from collections.abc import Collection
from math import prod

from graphopt.graph import Node, Shape
from graphopt.operators.base import Cost, CostFormula, Operand, Operands, distinct


def present(operands: Operands, slot: int) -> Operand | None:
    """The operand in a slot; None when it is absent."""
    return operands[slot] if slot < len(operands) else None


def traffic(
    inputs: Operands, outputs: Operands, flops: int, *, host: Collection[int] = (), rate_class: str = ""
) -> Cost:
    """Cost of an operator that reads each tensor once and writes each result once.

    Args:
        inputs: operands by slot.
        outputs: results by index.
        flops: operations.
        host: slots that the host reads to plan (axes, sizes, a scalar depth); they move nothing.
        rate_class: see Cost.rate_class.
    """
    read = parameters = 0
    for operand in distinct([None if slot in host else operand for slot, operand in enumerate(inputs)]):
        if operand.tensor.constant:
            parameters += operand.bytes
        else:
            read += operand.bytes
    written = sum(result.bytes for result in outputs if result is not None)
    return Cost(flops, read, written, parameters, rate_class)


def per_output(flops_per_element: int, *, host: Collection[int] = ()) -> CostFormula:
    """Formula: so many operations per element of the first result; every operand read, every result written once."""

    def cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
        return traffic(inputs, outputs, flops_per_element * elements(outputs, 0), host=host)

    return cost


def per_input(flops_per_element: int, *, host: Collection[int] = ()) -> CostFormula:
    """Formula: so many operations per element of the first operand; every operand read, every result written once."""

    def cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
        return traffic(inputs, outputs, flops_per_element * elements(inputs, 0), host=host)

    return cost


def elements(operands: Operands, slot: int) -> int:
    """Elements of the operand in a slot; 0 when it is absent."""
    operand = present(operands, slot)
    return 0 if operand is None else operand.elements


def integer(node: Node, name: str, default: int) -> int:
    """An integer attribute; the default when the node does not set it."""
    value = node.attributes.get(name, default)
    return int(value) if isinstance(value, int | float) else default


def text(node: Node, name: str, default: str) -> str:
    """A string attribute; the default when the node does not set it."""
    value = node.attributes.get(name, default)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else default


def integers(node: Node, name: str) -> tuple[int, ...]:
    """An attribute that lists integers; empty when the node does not set it."""
    value = node.attributes.get(name, ())
    return tuple(int(v) for v in value if isinstance(v, int)) if isinstance(value, tuple) else ()


def contracted(shape: Shape, *, transposed: bool = False, batch_transposed: bool = False) -> int:
    """Length of the dimension that a matrix product sums over, seen from its left operand.

    Args:
        shape: shape of the left operand: [K] or [..., M, K].
        transposed: whether its last two dimensions change places ([..., K, M]).
        batch_transposed: whether its first dimension moves behind the batch dimensions (``transBatchA``).
    """
    if not shape:
        return 1
    if not transposed or len(shape) == 1:
        return shape[-1]
    return shape[0] if batch_transposed else shape[-2]


def attention_flops(batch: int, heads: int, queries: int, keys: int, head_size: int, value_size: int) -> int:
    """Operations of scaled dot-product attention: two matrix products, the scale and a softmax over the keys.

    Per score: 2 * head_size (query times key), 1 (scale), 5 (softmax), 2 * value_size (weights times values).
    """
    return batch * heads * queries * keys * (2 * head_size + 6 + 2 * value_size)


def window_size(node: Node) -> int:
    """Elements under one position of a sliding window: the product of ``kernel_shape``; 1 where there is none."""
    return prod(integers(node, "kernel_shape"))
