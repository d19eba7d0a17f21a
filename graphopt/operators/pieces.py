"""Pieces: how many contiguous stretches of memory, rows or sums an operator works through one after the other.

A runtime pays a little for each piece besides the elements in it: a copy of rows of 16 elements takes longer than one
of rows of 1,000, a softmax over short rows longer than one over long rows. The roofline multiplies the number of pieces
with a machine's price of a piece, where it has one. What a piece is depends on the fusion class:

- layout and lookup: the longest stretch that stays together in operand and result;
- element-wise: the innermost stretch along which each operand is read in order, or is one value;
- reduction: a row that is summed, or a row of sums when the last axis stays;
- contraction and window: an element of the result, which is a sum of its own; contractions count more than that
  (``products``).

Some operators are fast or slow by a property that no count expresses. Such a regime has a rate of its own.
"""

from collections.abc import Sequence
from math import prod

from graphopt.graph import Node, OperatorGraph, Shape
from graphopt.operators.base import FusionClass, Operator, element_bytes
from graphopt.operators.products import LANES, factor_slots, product_counts, product_regime

Shapes = Sequence[Shape | None]
"""Shapes by slot; None where an operand is absent or its shape unknown."""


CACHE_ALIAS = 512
"""Bytes: addresses that are many times this far apart fall into few sets of a first-level cache."""

NARROW = 8
"""Elements of a row below which a transpose of single elements fills no vector."""

UNROLLED = 4 * LANES
"""Elements of a row whose loops compilers unroll, so that it stays in registers."""


def counts(graph: OperatorGraph, node: Node, row: Operator, inputs: Shapes, outputs: Shapes) -> dict[str, int]:
    """What one execution works through besides its elements or operations, by name; the empty name counts pieces.

    The arguments are those of ``pieces``.

    Returns:
        Of element-wise operators ``repeated``: results for which an operand repeats; of reductions ``ragged``: rows
        that end in the middle of a vector, and ``long``: rows of more than UNROLLED; of a Concat its
        ``operands``; of a ReorderInput ``partial``: elements of blocks that are filled up with zeros; of recurrent
        layers their steps, ``layers`` (one) and ``gates``; of contractions see ``product_counts``.
    """
    result = outputs[0] if outputs else None
    if not result or not prod(result):
        return {}
    if row.fusion_class is FusionClass.CONTRACTION:
        return product_counts(node, inputs, result)
    if row.fusion_class is FusionClass.SEQUENTIAL:
        return _steps(inputs)
    found = {"": pieces(graph, node, row, inputs, outputs)}
    if row.fusion_class is FusionClass.ELEMENTWISE:
        return found | {"repeated": prod(result) if found[""] > 1 else 0}
    if row.fusion_class is FusionClass.REDUCTION:
        size = (inputs[0] or (1,))[-1] if inputs else 1
        return found | {"ragged": found[""] if size % LANES else 0, "long": found[""] if size > UNROLLED else 0}
    if node.op_type == "Concat":
        return found | {"operands": sum(shape is not None for shape in inputs)}
    if node.op_type == "ReorderInput" and inputs and inputs[0] is not None:
        channels = inputs[0][-1 if node.attributes.get("channels_last", 0) else 1]
        return found | {"partial": prod(result) // result[1] * LANES if channels % LANES else 0}
    return found


def regimes(graph: OperatorGraph, node: Node, row: Operator, inputs: Shapes, outputs: Shapes) -> tuple[str, ...]:
    """Special cases that an execution belongs to and that have rates of their own where a machine knows them.

    Returns:
        The most special first: ``aliased`` (single elements are taken at distances that a cache holds few of),
        ``narrow`` (single elements of short rows move), ``elements`` (single elements move), ``axis`` (a transpose
        moves one axis alone), ``uneven`` (images of a reorder end in the middle of a block), ``last`` (its channels
        come last), ``wide`` (64-bit elements), and those of ``product_regime``.
    """
    result = outputs[0] if outputs else None
    if not result or not prod(result):
        return ()
    kind = row.fusion_class
    if kind is FusionClass.CONTRACTION:
        slot = factor_slots(node)[1]
        right = graph.tensors.get(node.inputs[slot]) if len(node.inputs) > slot else None
        computed, unsigned = right is not None and not right.constant, right is not None and right.dtype == "uint8"
        regime = product_regime(node, inputs, result, computed=computed, unsigned=unsigned)
        return (regime,) if regime else ()
    if kind in (FusionClass.LAYOUT, FusionClass.LOOKUP):
        if node.op_type == "ReorderOutput":
            if node.attributes.get("channels_last", 0):
                return ("last",)
            return ("uneven",) if prod(result[2:]) % LANES else ()
        if pieces(graph, node, row, inputs, outputs) < prod(result) or prod(result) == 1:
            return ("axis",) if _moves_one_axis(node) else ()
        if node.op_type == "Transpose" and min(_row(inputs[0] or (1,)), _row(result)) < NARROW:
            return ("narrow", "elements")
        if kind is FusionClass.LOOKUP and _picks_from_a_list(graph, node, inputs):
            return ()  # rows that are single elements: the price of a piece says it
        return ("aliased", "elements") if _is_aliased(node, graph, inputs) else ("elements",)
    name = next((name for name in (*node.inputs, *node.outputs) if name), "")
    tensor = graph.tensors.get(name)
    moves = kind in (FusionClass.ELEMENTWISE, FusionClass.REDUCTION)
    return ("wide",) if moves and tensor is not None and element_bytes(tensor.dtype) == 8 else ()


def _picks_from_a_list(graph: OperatorGraph, node: Node, inputs: Shapes) -> bool:
    """Whether a lookup picks elements of a table that is one list, by indices that are no constants."""
    table, indices = inputs[0] if inputs else None, graph.tensors.get(node.inputs[1]) if len(node.inputs) > 1 else None
    axis = node.attributes.get("axis", 0)
    if node.op_type != "Gather" or not table or indices is None or indices.constant or not isinstance(axis, int):
        return False
    return axis % len(table) == 0


def _steps(inputs: Shapes) -> dict[str, int]:
    """Steps of a recurrent layer in all directions, and elements of gates."""
    source, weights = (inputs[slot] if slot < len(inputs) else None for slot in (0, 1))
    if source is None or weights is None or len(source) != 3 or len(weights) != 3:
        return {}
    return {"": source[0] * weights[0], "layers": 1, "gates": prod(source[:2]) * prod(weights[:2])}


def _moves_one_axis(node: Node) -> bool:
    """Whether a transpose takes one axis to another place and leaves the others in their order."""
    perm = node.attributes.get("perm")
    if node.op_type != "Transpose" or not isinstance(perm, tuple):
        return False
    return any(
        [axis for axis in perm if axis != moved] == [axis for axis in range(len(perm)) if axis != moved]
        for moved in perm
    )


def _row(shape: Shape) -> int:
    """The last length of a shape that is not one."""
    return next((length for length in reversed(shape) if length != 1), 1)


def _is_aliased(node: Node, graph: OperatorGraph, inputs: Shapes) -> bool:
    """Whether a transpose reads single elements at distances of whole CACHE_ALIAS."""
    source = inputs[0] if inputs else None
    if node.op_type != "Transpose" or not source:
        return False
    return _row(source) * element_bytes(graph.tensors[node.inputs[0]].dtype) % CACHE_ALIAS == 0


def pieces(graph: OperatorGraph, node: Node, row: Operator, inputs: Shapes, outputs: Shapes) -> int:
    """Number of pieces of one execution.

    Args:
        graph: the graph of the node: the values of its constants tell the steps of a Slice.
        node: the operator.
        row: its row in the table.
        inputs: shapes of the operands by slot.
        outputs: shapes of the results.

    Returns:
        0 where nothing moves or the shapes are unknown.
    """
    results = [shape for shape in outputs if shape is not None]
    if not results or not prod(results[0]):
        return 0
    kind = row.fusion_class
    if kind is FusionClass.ELEMENTWISE:
        return _runtime_spans(results[0], [shape for shape in inputs if shape is not None])
    if kind is FusionClass.LAYOUT:
        return _stretches(graph, node, inputs, results)
    if kind is FusionClass.LOOKUP:
        return _picked(node, inputs, results[0])
    if kind is FusionClass.REDUCTION:
        return _rows(graph, node, inputs, results[0])
    if kind in (FusionClass.CONTRACTION, FusionClass.WINDOW):
        return prod(results[0])
    return 0


def spans(result: Shape, operands: Sequence[Shape]) -> int:
    """Stretches of an element-wise operator: axes merge while every operand has all of them or none of them."""
    inner, pattern = 1, None
    for back in range(1, len(result) + 1):
        size = result[-back]
        if size == 1:
            continue
        has = tuple(back <= len(shape) and shape[-back] == size for shape in operands)
        if pattern is not None and has != pattern:
            break
        pattern = has
        inner *= size
    return prod(result) // max(1, inner)


def _runtime_spans(result: Shape, operands: Sequence[Shape]) -> int:
    """The same in onnxruntime, whose stretches end at an axis of one where an operand of lower rank begins.

    A list of one element by an image of one position is one element after the other.
    """
    rank = max(1, min(map(len, operands), default=len(result)))
    first = next((size for size in reversed(result[-rank:]) if size > 1), 1)
    return prod(result) if first == 1 and rank < len(result) else spans(result, operands)


def _stretches(graph: OperatorGraph, node: Node, inputs: Shapes, results: Sequence[Shape]) -> int:
    """Stretches of a copy; elements that change their order one by one are pieces of their own."""
    first = next((shape for shape in inputs if shape is not None), None)
    if first is None:
        return 0
    if node.op_type.startswith("Reorder"):
        return 0  # blocks of 8 or 16 elements everywhere: a rate per element says it all
    if node.op_type == "Transpose":
        perm = node.attributes.get("perm")
        order = tuple(p for p in perm if isinstance(p, int)) if isinstance(perm, tuple) else ()
        return _transposed(first, order or tuple(reversed(range(len(first)))))
    if node.op_type == "Concat":
        return sum(_copied(shape, results[0]) for shape in inputs if shape is not None)
    stepped = _stepped_axis(graph, node, len(first)) if node.op_type == "Slice" else None
    if stepped is not None:
        return prod(results[0][: stepped + 1])
    return sum(_copied(shape, first) for shape in results)


def _stepped_axis(graph: OperatorGraph, node: Node, rank: int) -> int | None:
    """The last axis along which a Slice leaves elements out between those it takes; None when there is none."""
    values = [graph.tensors[name].value if name else None for name in node.inputs[3:5]]
    if len(values) < 2 or values[1] is None:
        return None
    steps = values[1].tolist()
    axes = range(len(steps)) if values[0] is None else values[0].tolist()
    return max((axis % rank for axis, step in zip(axes, steps, strict=True) if step != 1), default=None)


def _transposed(shape: Shape, perm: Sequence[int]) -> int:
    order = [axis for axis in perm if axis < len(shape) and shape[axis] != 1]
    kept = [axis for axis in range(len(shape)) if shape[axis] != 1]
    inner = 1
    while order and order[-1] == kept[-1]:
        inner *= shape[kept.pop()]
        order.pop()
    return prod(shape) // max(1, inner)


def _copied(part: Shape, whole: Shape) -> int:
    """Stretches of ``part`` that lie together in ``whole`` too: the axes from the last that differs on."""
    if len(part) != len(whole):
        return 1
    inner = 1
    for own, other in zip(reversed(part), reversed(whole), strict=True):
        inner *= min(own, other)
        if own != other:
            break
    return max(1, prod(part) // max(1, inner))


def _picked(node: Node, inputs: Shapes, result: Shape) -> int:
    """Rows that a lookup picks; elements, where it picks single ones."""
    table = inputs[0] if inputs else None
    if node.op_type != "Gather" or not table:
        return prod(result)
    axis = node.attributes.get("axis", 0)
    axis = axis if isinstance(axis, int) else 0
    inner = prod(table[axis + len(table) if axis < 0 else axis :][1:])
    return prod(result) // max(1, inner)


def _rows(graph: OperatorGraph, node: Node, inputs: Shapes, result: Shape) -> int:
    """Rows of the operand along its last axis, or of all axes from the first reduced one where those are the last."""
    source = inputs[0] if inputs else None
    if not source:
        return 1
    total, kept = prod(source), prod(result)
    if kept < total:  # a reduction: its result has an element for each row
        return max(1, kept) if _sums_last(graph, node, source, result) else total // source[-1]
    if node.op_type in ("InstanceNormalization", "GroupNormalization", "GroupNorm", "LRN"):
        return prod(source[:2])
    axis = node.attributes.get("axis", -1)
    axis = axis if isinstance(axis, int) else -1
    whole = "LayerNormalization" in node.op_type or "RMSNormalization" in node.op_type
    if axis in (-1, len(source) - 1) or not whole:
        size = source[axis] if -len(source) <= axis < len(source) else source[-1]
        return total // max(1, size)
    return prod(source[: axis + len(source) if axis < 0 else axis])


def _sums_last(graph: OperatorGraph, node: Node, source: Shape, result: Shape) -> bool:
    """Whether a reduction sums along the last axis."""
    if len(result) == len(source):
        return source[-1] != result[-1] or source[-1] == 1
    tensor = graph.tensors.get(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = node.attributes.get("axes", node.attributes.get("axis"))
    if tensor is not None and tensor.value is not None:
        axes = tuple(tensor.value.reshape(-1).tolist())
    known = axes if isinstance(axes, tuple) else (axes,)
    if all(isinstance(axis, int) for axis in known):
        return any(axis in (-1, len(source) - 1) for axis in known)
    return not result or source[-1] != result[-1]
