"""Frames: C that computes the shape of every value and the integers of index maps, when a kernel plans."""

from collections.abc import Iterator

from graphopt.kernels import channels, convolution, integers, pooling, recurrence
from graphopt.kernels.lower import plan_values
from graphopt.kernels.places import ints
from graphopt.kernels.program import (
    ChannelWindow,
    Contraction,
    Convolution,
    Input,
    IntegerContraction,
    Lookup,
    Map,
    Pooled,
    Program,
    Recurrence,
    Reduce,
    View,
    present,
)
from graphopt.operators.lowering import (
    Concat,
    Dim,
    Expand,
    Gather,
    IndexMap,
    Pad,
    PadTo,
    Part,
    Reshape,
    Slice,
    Take,
    Transpose,
    Values,
)


def _view_fields(index: int, view: View) -> list[str]:
    """Members of the frame that a view needs besides its shape."""
    kind = view.index_map
    if isinstance(kind, Slice):
        return [f"    int64_t start{index}[MAX_RANK], step{index}[MAX_RANK];"]
    if isinstance(kind, Part):
        return [f"    int64_t start{index};"]
    if isinstance(kind, Pad):
        return [f"    int64_t before{index}[MAX_RANK];"]
    if isinstance(kind, Concat):
        return [f"    int64_t start{index}[{len(view.operands)}];"]
    if isinstance(kind, Gather):
        return [f"    const int64_t *indices{index};"]
    return []


def frame(program: Program) -> Iterator[str]:
    """The type of a program's frame."""
    yield "typedef struct {"
    yield f"    shape of[{len(program.values)}]; /* the shape of each value */"
    for index, value in enumerate(program.values):
        if isinstance(value, View):
            yield from _view_fields(index, value)
    yield f"}} {program.name}_frame;"
    yield ""
    for index, value in enumerate(program.values):
        if isinstance(value, Convolution):
            yield from convolution.description(program, index, value)
        elif isinstance(value, Pooled):
            yield from pooling.description(program, index, value)


def shapes(program: Program) -> Iterator[str]:
    """Statements that fill the frame ``f`` from the shapes ``in`` and the integers ``value`` of the inputs."""
    for index, value in enumerate(program.values):
        if isinstance(value, Input):
            yield f"f.of[{index}] = in[{value.position}];"
            if value.once:
                yield f"if (elements(&f.of[{index}]) != 1)"
                yield f'    return "input {value.position} must have one element";'
        elif isinstance(value, Map):
            yield from _map_shape(index, value)
        elif isinstance(value, Reduce):
            yield f"if (!shape_reduce(&f.of[{value.operand}], {value.axes}, &f.of[{index}]))"
            yield '    return "fewer dimensions than a reduction has axes";'
        elif isinstance(value, Convolution):
            yield from convolution.shape(program, index, value)
        elif isinstance(value, Pooled):
            yield from pooling.shape(program, index, value)
        elif isinstance(value, ChannelWindow):
            yield from channels.shape(index, value)
        elif isinstance(value, IntegerContraction):
            yield from integers.shape(index, value)
        elif isinstance(value, Recurrence):
            yield from recurrence.shape(index, value)
        elif isinstance(value, Lookup):
            yield f"if (f.of[{value.data}].rank <= {value.axis}"
            operands = f"&f.of[{value.data}], &f.of[{value.indices}]"
            yield f"    || !shape_gather({operands}, {value.axis}, &f.of[{index}]))"
            yield '    return "the shapes at a lookup contradict each other";'
        elif isinstance(value, Contraction):
            left, right = value.operands
            yield f"if (!shape_contraction(&f.of[{left}], &f.of[{right}], &f.of[{index}]))"
            yield '    return "the shapes of a matrix product contradict each other";'
        else:
            yield from _view_shape(program, index, value)


def _map_shape(index: int, value: Map) -> Iterator[str]:
    operands = present(value)
    if not operands:
        yield f"f.of[{index}].rank = 0;"
        return
    yield f"f.of[{index}] = f.of[{operands[0]}];"
    for operand in operands[1:]:
        yield f"if (!shape_broadcast(&f.of[{index}], &f.of[{operand}], &f.of[{index}]))"
        yield '    return "shapes do not broadcast";'


def _integers(program: Program, view: View, values: Values | None) -> tuple[str, str]:
    """C text of (pointer, count) for integers that the plan reads; NULL and 0 where absent."""
    if values is None:
        return "NULL", "0"
    if values.fixed is not None:
        return f"(const int64_t[]){{{ints(values.fixed)}}}", str(len(values.fixed))
    order = [v for v in plan_values(view.index_map) if v.slot >= 0]
    source = view.values[order.index(values)]
    tensor = program.values[source]
    assert isinstance(tensor, Input)
    return f"value[{tensor.position}]", f"elements(&f.of[{source}])"


def _dim(dim: Dim, operand: int) -> str:
    factors = [f"f.of[{operand}].size[{axis}]" for axis in dim.axes]
    text = " * ".join([*factors, str(dim.times)] if dim.times != 1 or not factors else factors)
    return f"{text} / {dim.divided}" if dim.divided != 1 else text


def _axes_needed(kind: IndexMap) -> int:
    """How many dimensions an operand must have for the axes that an index map names."""
    if isinstance(kind, Reshape):
        return 1 + max((axis for dim in kind.sizes or () for axis in dim.axes), default=-1)
    return 1 + kind.axis if isinstance(kind, Take | PadTo | Part | Concat | Gather) else 0


def _view_shape(program: Program, index: int, view: View) -> Iterator[str]:
    kind = view.index_map
    operand = view.operands[0]
    source, result = f"&f.of[{operand}]", f"&f.of[{index}]"
    contradiction = f'    return "the shapes at a {view.origin} contradict each other";'
    if isinstance(kind, Transpose | Pad):
        rank = kind.rank if isinstance(kind, Pad) else len(kind.permutation)
        yield f"if (f.of[{operand}].rank != {rank})"
        yield contradiction
    elif (axes_needed := _axes_needed(kind)) > 0:
        yield f"if (f.of[{operand}].rank < {axes_needed})"
        yield contradiction
    if isinstance(kind, Transpose):
        call = f"shape_transpose({source}, (const int[]){{{ints(kind.permutation)}}}, {result})"
    elif isinstance(kind, Reshape):
        if kind.sizes is not None:
            sizes = ", ".join(_dim(dim, operand) for dim in kind.sizes) or "0"
            call = f"shape_reshape({source}, (const int64_t[]){{{sizes}}}, {len(kind.sizes)}, 1, {result})"
        else:
            pointer, count = _integers(program, view, kind.target)
            call = f"shape_reshape({source}, {pointer}, {count}, {int(kind.allow_zero)}, {result})"
    elif isinstance(kind, Expand):
        pointer, count = _integers(program, view, kind.target)
        call = f"shape_expand({source}, {pointer}, {count}, {result})"
    elif isinstance(kind, Slice):
        starts, count = _integers(program, view, kind.starts)
        others = [_integers(program, view, v) for v in (kind.ends, kind.axes, kind.steps)]
        for pointer, length in others:
            if pointer != "NULL" and not (count.isdigit() and count == length):
                yield f"if ({length} != {count})"
                yield contradiction
        ends, axes, steps = (pointer for pointer, _ in others)
        bounds = f"{starts}, {ends}, {axes}, {steps}, {count}"
        call = f"shape_slice({source}, {bounds}, f.start{index}, f.step{index}, {result})"
    elif isinstance(kind, Take):
        yield f"f.of[{index}] = f.of[{operand}];"
        yield f"f.of[{index}].size[{kind.axis}] = clamp({kind.size}, 0, f.of[{operand}].size[{kind.axis}]);"
        return
    elif isinstance(kind, PadTo):
        size = f"f.of[{operand}].size[{kind.axis}]"
        yield f"f.of[{index}] = f.of[{operand}];"
        yield f"f.of[{index}].size[{kind.axis}] = ({size} + {kind.multiple - 1}) / {kind.multiple} * {kind.multiple};"
        return
    elif isinstance(kind, Part):
        sizes, count = _integers(program, view, kind.sizes)
        if sizes != "NULL":
            yield f"if ({count} != {kind.parts})"
            yield contradiction
        call = f"shape_split({source}, {kind.axis}, {sizes}, {kind.parts}, {kind.part}, &f.start{index}, {result})"
    elif isinstance(kind, Concat):
        yield f"f.start{index}[0] = 0;"
        yield f"f.of[{index}] = f.of[{operand}];"
        for position, other in enumerate(view.operands[1:], 1):
            yield f"f.start{index}[{position}] = f.of[{index}].size[{kind.axis}];"
            yield f"if (!shape_concat({result}, &f.of[{other}], {kind.axis}, {result}))"
            yield '    return "shapes do not concatenate";'
        return
    elif isinstance(kind, Pad):
        pads, count = _integers(program, view, kind.pads)
        axes, axis_count = _integers(program, view, kind.axes)
        yield f"if ({count} != 2 * {kind.rank if axes == 'NULL' else axis_count})"
        yield contradiction
        call = f"shape_pad({source}, {pads}, {count}, {axes}, f.before{index}, {result})"
    elif isinstance(kind, Gather):
        indices = program.values[view.values[0]]
        assert isinstance(indices, Input)
        yield f"f.indices{index} = value[{indices.position}];"
        call = f"shape_gather({source}, &f.of[{view.values[0]}], {kind.axis}, {result})"
    else:
        pointer, count = _integers(program, view, kind.repeats)
        call = f"shape_tile({source}, {pointer}, {count}, {result})"
    yield f"if (!{call})"
    yield contradiction
