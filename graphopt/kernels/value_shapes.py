"""Shapes of a program's values in the executions that it was made for."""

from collections.abc import Mapping, Sequence
from math import prod

from graphopt.graph import Shape
from graphopt.kernels.program import (
    ChannelWindow,
    Computed,
    Contraction,
    Convolution,
    Input,
    IntegerContraction,
    Lookup,
    Map,
    Pooled,
    Recurrence,
    Reduce,
    Value,
    present,
)
from graphopt.operators.lowering import Concat, PadTo, Pool, Reshape, Slice, Take, Transpose, Window


def value_shapes(
    values: Sequence[Value], index: Mapping[str, int], example: Mapping[str, Shape]
) -> tuple[Shape | None, ...]:
    """The shape of every value in an example: observed where a value is a tensor, else computed where it can be."""
    found: list[Shape | None] = [None] * len(values)
    for tensor, value in index.items():
        if tensor in example:
            found[value] = example[tensor]
    for number, what in enumerate(values):
        if found[number] is None and not isinstance(what, Input):
            shapes = [found[operand] for operand in present(what)]
            known = [shape for shape in shapes if shape is not None]
            found[number] = _computed_shape(what, known) if len(known) == len(shapes) else None
    return tuple(found)


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True))


def _computed_shape(
    value: Computed,
    operands: Sequence[Shape],
) -> Shape | None:
    if isinstance(value, IntegerContraction) and value.window is not None:
        return _convolved_shape(value.window, operands[1], operands[0])
    if isinstance(value, Convolution):
        return _convolved_shape(value.window, operands[0], operands[1])
    if isinstance(value, Recurrence):
        return (operands[0][0] + value.cells, len(value.inputs), operands[0][1], value.layer.hidden)
    if isinstance(value, Map):
        return _broadcast(operands)
    first = operands[0]
    if isinstance(value, ChannelWindow):
        return first
    if isinstance(value, Pooled):
        return _pooled_shape(value.pool, first)
    if isinstance(value, Reduce):
        kept = len(first) - value.axes
        return (*first[:kept], *(1,) * value.axes)
    if isinstance(value, Lookup):
        return (*first[: value.axis], *operands[1], *first[value.axis + 1 :])
    if isinstance(value, Contraction | IntegerContraction):
        second = operands[1]
        batch = _broadcast([first[:-2], second[:-2]])
        return (*batch, first[-2], second[-1])
    kind = value.index_map
    if isinstance(kind, Transpose):
        return tuple(first[axis] for axis in kind.permutation)
    if isinstance(kind, Reshape) and kind.sizes is not None:
        return tuple(dim.times * prod(first[axis] for axis in dim.axes) // dim.divided for dim in kind.sizes)
    if isinstance(kind, Take):
        return (*first[: kind.axis], min(kind.size, first[kind.axis]), *first[kind.axis + 1 :])
    if isinstance(kind, Slice) and kind.axes is not None and kind.axes.fixed and kind.steps is None:
        return _cut_shape(kind, first)
    if isinstance(kind, PadTo):
        size = -(-first[kind.axis] // kind.multiple) * kind.multiple
        return (*first[: kind.axis], size, *first[kind.axis + 1 :])
    if isinstance(kind, Concat):
        return (*first[: kind.axis], sum(shape[kind.axis] for shape in operands), *first[kind.axis + 1 :])
    return None


def _cut_shape(kind: Slice, shape: Shape) -> Shape | None:
    """The shape of a slice along one axis with known bounds."""
    starts, ends, axes = kind.starts.fixed, kind.ends.fixed, kind.axes.fixed if kind.axes else None
    if starts is None or ends is None or axes is None or len(axes) != 1 or axes[0] < 0:
        return None
    size = len(range(*slice(starts[0], ends[0]).indices(shape[axes[0]])))
    return (*shape[: axes[0]], size, *shape[axes[0] + 1 :])


def _convolved_shape(window: Window, image: Shape, weights: Shape) -> Shape:
    sizes = []
    for axis in range(2 - window.dimensions, 2):
        at = axis - 2
        span = (weights[at] - 1) * window.dilations[axis] + 1
        padded = image[at] + window.before[axis] + window.after[axis]
        positions = (
            -(-image[at] // window.strides[axis]) if window.same else (padded - span) // window.strides[axis] + 1
        )
        sizes.append(max(positions, 0))
    return (image[0], weights[0], *sizes)


def _pooled_shape(pool: Pool, image: Shape) -> Shape:
    window, sizes = pool.window, []
    for axis in range(2 - window.dimensions, 2):
        size, stride = image[axis - 2], window.strides[axis]
        padded = size + window.before[axis]
        rest = padded + window.after[axis] - (pool.kernel[axis] - 1) * window.dilations[axis] - 1
        count = -(-size // stride) if window.same else int(rest / stride) + 1
        more = pool.rounds_up and not window.same and rest > 0 and rest % stride and count * stride < padded
        sizes.append(max(count + bool(more), 0))
    return (*image[:2], *sizes)
