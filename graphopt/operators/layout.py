"""Layout operators: they move elements and compute nothing."""

from collections.abc import Callable
from math import prod

import numpy as np

from graphopt.graph import Node, OperatorGraph
from graphopt.operators.base import (
    Cost,
    CostFormula,
    FusionClass,
    Operand,
    Operands,
    Operator,
    elementwise_cost,
    no_cost,
)
from graphopt.operators.lowering import (
    CannotLowerError,
    Concat,
    Dim,
    Expand,
    IndexMap,
    Layout,
    Pad,
    Part,
    Reshape,
    Slice,
    Tile,
    Transpose,
    Values,
)

Maps = tuple[IndexMap, ...]


def _rank(graph: OperatorGraph, node: Node, slot: int = 0) -> int:
    rank = graph.tensors[node.inputs[slot]].rank
    if rank is None:
        raise CannotLowerError(f"unknown rank of {node.op_type}'s operand")
    return rank


def _ints(graph: OperatorGraph, node: Node, name: str, slot: int) -> tuple[int, ...] | None:
    """Integers of an attribute (older opsets) or of a constant operand; None when absent."""
    value = node.attributes.get(name)
    if value is None and slot < len(node.inputs) and node.inputs[slot]:
        value = graph.tensors[node.inputs[slot]].value
        if value is None:
            raise CannotLowerError(f"{node.op_type}: {name} is not constant")
    if value is None:
        return None
    return tuple(int(v) for v in np.atleast_1d(np.asarray(value)).tolist())


def _integer(node: Node, name: str, default: int) -> int:
    value = node.attributes.get(name, default)
    return value if isinstance(value, int) else default


def _values(node: Node, name: str, slot: int) -> Values | None:
    """Integers that a kernel reads when it plans, from an attribute or an operand; None when absent."""
    value = node.attributes.get(name)
    if isinstance(value, tuple):
        return Values(fixed=tuple(int(v) for v in value))
    if slot < len(node.inputs) and node.inputs[slot]:
        return Values(slot=slot)
    return None


def _required(values: Values | None, node: Node, name: str) -> Values:
    if values is None:
        raise CannotLowerError(f"{node.op_type} without {name}")
    return values


def _transpose(graph: OperatorGraph, node: Node, result: int) -> Maps:
    rank = _rank(graph, node)
    permutation = node.attributes.get("perm")
    if not isinstance(permutation, tuple):
        permutation = tuple(reversed(range(rank)))
    return (Transpose(tuple(int(p) for p in permutation)),)


def _reshape(graph: OperatorGraph, node: Node, result: int) -> Maps:
    target = _required(_values(node, "shape", 1), node, "a shape")
    return (Reshape(target=target, allow_zero=bool(node.attributes.get("allowzero", 0))),)


def _flatten(graph: OperatorGraph, node: Node, result: int) -> Maps:
    rank = _rank(graph, node)
    axis = _integer(node, "axis", 1)
    axis = axis + rank if axis < 0 else axis
    return (Reshape(sizes=(Dim(tuple(range(axis))), Dim(tuple(range(axis, rank))))),)


def _squeeze(graph: OperatorGraph, node: Node, result: int) -> Maps:
    rank = _rank(graph, node)
    axes = _ints(graph, node, "axes", 1)
    if axes is None:
        raise CannotLowerError("Squeeze without axes")
    gone = {axis % rank for axis in axes}
    return (Reshape(sizes=tuple(Dim((axis,)) for axis in range(rank) if axis not in gone)),)


def _unsqueeze(graph: OperatorGraph, node: Node, result: int) -> Maps:
    axes = _ints(graph, node, "axes", 1)
    if axes is None:
        raise CannotLowerError("Unsqueeze without axes")
    rank = _rank(graph, node) + len(axes)
    new = {axis % rank for axis in axes}
    kept = iter(range(rank))
    return (Reshape(sizes=tuple(Dim() if axis in new else Dim((next(kept),)) for axis in range(rank))),)


def _slice(graph: OperatorGraph, node: Node, result: int) -> Maps:
    starts = _required(_values(node, "starts", 1), node, "starts")
    ends = _required(_values(node, "ends", 2), node, "ends")
    return (Slice(starts, ends, _values(node, "axes", 3), _values(node, "steps", 4)),)


def _concat(graph: OperatorGraph, node: Node, result: int) -> Maps:
    axis = _integer(node, "axis", 0)
    return (Concat(axis + _rank(graph, node) if axis < 0 else axis),)


def _split(graph: OperatorGraph, node: Node, result: int) -> Maps:
    axis = _integer(node, "axis", 0)
    sizes = _values(node, "split", 1)
    return (Part(axis + _rank(graph, node) if axis < 0 else axis, result, len(node.outputs), sizes),)


def _expand(graph: OperatorGraph, node: Node, result: int) -> Maps:
    return (Expand(_required(_values(node, "shape", 1), node, "a shape")),)


def _tile(graph: OperatorGraph, node: Node, result: int) -> Maps:
    return (Tile(_required(_values(node, "repeats", 1), node, "repeats")),)


def _pad(graph: OperatorGraph, node: Node, result: int) -> Maps:
    if node.attributes.get("mode", "constant") not in ("constant", b"constant"):
        raise CannotLowerError("Pad other than with a constant")
    if node.version < 11:
        raise CannotLowerError("Pad with its value in an attribute")
    pads = _required(_values(node, "pads", 1), node, "pads")
    value_slot = 2 if len(node.inputs) > 2 and node.inputs[2] else -1
    return (Pad(_rank(graph, node), pads, value_slot, _values(node, "axes", 3)),)


def _depth_to_space(graph: OperatorGraph, node: Node, result: int) -> Maps:
    b = _integer(node, "blocksize", 1)
    columns_first = node.attributes.get("mode", "DCR") in ("CRD", b"CRD")
    channels = Dim((1,), divided=b * b)
    inner = (channels, Dim(times=b), Dim(times=b)) if columns_first else (Dim(times=b), Dim(times=b), channels)
    order = (0, 1, 4, 2, 5, 3) if columns_first else (0, 3, 4, 1, 5, 2)
    return (
        Reshape(sizes=(Dim((0,)), *inner, Dim((2,)), Dim((3,)))),
        Transpose(order),
        Reshape(sizes=(Dim((0,)), Dim((1,)), Dim((2, 3)), Dim((4, 5)))),
    )


def _space_to_depth(graph: OperatorGraph, node: Node, result: int) -> Maps:
    b = _integer(node, "blocksize", 1)
    return (
        Reshape(
            sizes=(Dim((0,)), Dim((1,)), Dim((2,), divided=b), Dim(times=b), Dim((3,), divided=b), Dim(times=b)),
        ),
        Transpose((0, 3, 5, 1, 2, 4)),
        Reshape(sizes=(Dim((0,)), Dim((1, 2, 3)), Dim((4,)), Dim((5,)))),
    )


def copy_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Cost of reading and writing each result element once: what Slice, Split, Expand, Tile and Gather move."""
    moved = sum(result.bytes for result in outputs if result is not None)
    data = inputs[0]
    return Cost(0, 0, moved, 0) if data is None else _moved(data, min(moved, data.bytes), moved)


def triangle_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """The kept triangle is read, the whole result is written (ONNX: Trilu; diagonal k in slot 1, 0 when absent).

    A diagonal that is computed is taken for 0.
    """
    source, result = inputs[0], outputs[0]
    if source is None or result is None or len(source.shape) < 2:
        return Cost(0, 0, 0, 0)
    given = inputs[1].tensor.value if len(inputs) > 1 and inputs[1] is not None else None
    k = int(given.ravel()[0]) if given is not None and given.size else 0
    rows, columns = source.shape[-2:]
    below = sum(min(columns, max(0, row + k)) for row in range(rows))  # strictly below the k-th diagonal
    through = sum(min(columns, max(0, row + k + 1)) for row in range(rows))
    kept = rows * columns - below if node.attributes.get("upper", 1) else through
    return _moved(source, source.bytes * kept // max(1, rows * columns), result.bytes)


def crop_or_pad_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """What lies in both is read, the whole result is written (ONNX: CenterCropPad, Pad)."""
    source, result = inputs[0], outputs[0]
    if source is None or result is None:
        return Cost(0, 0, 0, 0)
    common = prod(min(a, b) for a, b in zip(source.shape, result.shape, strict=False))
    return _moved(source, source.bytes * common // max(1, source.elements), result.bytes)


def dropout_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Nothing moves at inference but a mask that is asked for (ONNX: Dropout)."""
    mask = outputs[1] if len(outputs) > 1 else None
    return Cost(0, 0, mask.bytes if mask is not None else 0, 0)


def _moved(source: Operand, read: int, written: int) -> Cost:
    return Cost(0, 0, written, read) if source.tensor.constant else Cost(0, read, written, 0)


def _row(
    op_type: str,
    maps: Callable[[OperatorGraph, Node, int], Maps] | None,
    cost: CostFormula = copy_cost,
    *,
    attributes: tuple[str, ...] = (),
    structural: tuple[int, ...] = (),
    labelled: tuple[int, ...] = (),
    rate: str = "copy",
    domain: str = "",
) -> Operator:
    return Operator(
        op_type,
        FusionClass.LAYOUT,
        cost,
        domain,
        rate_class=rate,
        attributes=attributes,
        structural=structural,
        labelled=labelled,
        lowering=None if maps is None else Layout(maps),
    )


_MS = "com.microsoft"

OPERATORS: tuple[Operator, ...] = (
    _row("Transpose", _transpose, elementwise_cost(0), attributes=("perm",), rate="transpose"),
    _row("Reshape", _reshape, no_cost, attributes=("shape", "allowzero"), structural=(1,), rate="view"),
    _row("Flatten", _flatten, no_cost, attributes=("axis",), rate="view"),
    _row("Squeeze", _squeeze, no_cost, attributes=("axes",), structural=(1,), labelled=(1,), rate="view"),
    _row("Unsqueeze", _unsqueeze, no_cost, attributes=("axes",), structural=(1,), labelled=(1,), rate="view"),
    _row("Slice", _slice, attributes=("starts", "ends", "axes"), structural=(1, 2, 3, 4), labelled=(3, 4)),
    _row("Concat", _concat, elementwise_cost(0), attributes=("axis",)),
    _row("Split", _split, attributes=("axis", "split", "num_outputs"), structural=(1,)),
    _row("Expand", _expand, structural=(1,)),
    _row("Tile", _tile, structural=(1,)),
    _row("Pad", _pad, crop_or_pad_cost, attributes=("mode", "pads", "value"), structural=(1, 3), labelled=(3,)),
    _row("Pad", None, crop_or_pad_cost, attributes=("mode",), structural=(1,), domain=_MS),
    _row("CenterCropPad", None, crop_or_pad_cost, attributes=("axes",), structural=(1,)),
    _row("Trilu", None, triangle_cost, attributes=("upper",), structural=(1,), labelled=(1,)),
    _row("Trilu", None, triangle_cost, attributes=("upper",), structural=(1,), labelled=(1,), domain=_MS),
    _row("DepthToSpace", _depth_to_space, attributes=("blocksize", "mode"), rate="transpose"),
    _row("SpaceToDepth", _space_to_depth, attributes=("blocksize",), rate="transpose"),
    _row("Dropout", None, dropout_cost, structural=(1, 2), rate="view"),
    _row("BitmaskDropout", None, dropout_cost, structural=(1, 2), rate="view", domain=_MS),
    _row("BitCast", None, no_cost, attributes=("to",), rate="view"),
    _row("ExpandDims", None, no_cost, structural=(1,), labelled=(1,), rate="view", domain=_MS),
    _row("SampleOp", None, no_cost, rate="view", domain=_MS),
    # windows overlap: an element is read once and written into every window that holds it
    _row("UnfoldTensor", None, attributes=("dim", "size", "step"), domain=_MS),
)
