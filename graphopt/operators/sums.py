"""Reductions as generated kernels walk them: along rows, or down columns of rows that lie on top of each other.

Axes of one do not count. The formulas follow ``kernels/columns.py`` and ``kernels/c/columns.h``.
"""

from dataclasses import dataclass
from itertools import groupby
from math import ceil, prod

from graphopt.graph import Node, OperatorGraph, Shape
from graphopt.operators.blocked import DOMAIN
from graphopt.operators.plan_numbers import PLAN
from graphopt.operators.products import LANES


@dataclass(frozen=True, slots=True)
class Sums:
    """A reduction of outer x depth x width elements to outer x width; along rows where the width is one."""

    outer: int
    depth: int
    width: int

    @property
    def down_columns(self) -> bool:
        """Whether rows are added up element by element, and not the elements of a row."""
        return self.width > 1

    @property
    def lanes(self) -> int:
        """Elements with the idle lanes of vectors."""
        return self.outer * self.depth * (ceil(self.width / LANES) * LANES if self.down_columns else self.width)

    @property
    def counts(self) -> dict[str, int]:
        """What a kernel works through besides elements: blocks of rows and rows; or rows, by how they end."""
        if self.down_columns:
            strips = self.outer * ceil(self.width / PLAN.strip)
            blocks = strips * ceil(self.depth / PLAN.stacked_rows)
            return {"": blocks, "rows": strips * self.depth, "results": self.outer * self.width}
        ragged, long = self.depth % LANES, self.depth > 4 * LANES
        return {"": self.outer, "ragged": self.outer if ragged else 0, "long": self.outer if long else 0}


def sums(graph: OperatorGraph, node: Node, source: Shape, result: Shape) -> Sums | None:
    """How a kernel walks a reduction; None for operators that reduce and give as many elements as they read.

    Args:
        graph: of the node; the values of its constants tell the axes.
        node: the operator.
        source: shape of its first operand.
        result: shape of its first result.
    """
    if prod(result) >= prod(source) or not prod(result):
        return None
    if sums_positions(node, source, result) and _leaves_blocks(graph, node):
        return Sums(source[0] * ceil(source[1] / LANES), prod(source[2:]), LANES)
    axes = _axes(graph, node, source, result)
    kinds = ((axis in axes, size) for axis, size in enumerate(source) if size > 1)
    groups = [(reduced, prod(size for _, size in group)) for reduced, group in groupby(kinds, lambda kind: kind[0])]
    width = groups[-1][1] if groups and not groups[-1][0] else 1
    depth = prod(size for reduced, size in groups if reduced)
    return Sums(prod(source) // max(1, depth * width), depth, width)


def sums_positions(node: Node, source: Shape, result: Shape) -> bool:
    """Whether a reduction takes all positions of an image, of which only channels are left."""
    kept = result[: 2 if len(result) == 2 else None]
    return len(source) > 2 and prod(kept) == prod(source[:2]) and tuple(result[:2]) == tuple(source[:2])


def _leaves_blocks(graph: OperatorGraph, node: Node) -> bool:
    """Whether a reduction reads the blocked layout, itself or behind what leaves it."""
    producer = graph.producers.get(node.inputs[0])
    before = graph.nodes[producer[0]] if producer is not None else node
    return node.domain == DOMAIN or (
        before.op_type == "ReorderOutput" and not before.attributes.get("channels_last", 0)
    )


def _axes(graph: OperatorGraph, node: Node, source: Shape, result: Shape) -> frozenset[int]:
    """The axes that a reduction takes."""
    if node.op_type.startswith("Global"):
        return frozenset(range(2, len(source)))
    tensor = graph.tensors.get(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    found = node.attributes.get("axes", node.attributes.get("axis"))
    if tensor is not None and tensor.value is not None:
        found = tuple(int(axis) for axis in tensor.value.reshape(-1))
    known = found if isinstance(found, tuple) else (found,)
    axes = [axis % len(source) for axis in known if isinstance(axis, int)]
    if axes:
        return frozenset(axes)
    if len(result) == len(source):
        return frozenset(axis for axis, size in enumerate(source) if result[axis] != size)
    return frozenset(range(len(source)))
