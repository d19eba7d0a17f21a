"""From the operators of a pattern to a loop program."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from graphopt.graph import Node, OperatorGraph, Shape
from graphopt.kernels.program import MAX_RANK, Input, Map, Program, Value, View, check
from graphopt.kernels.scalar import STORAGE, simplified
from graphopt.operators import find
from graphopt.operators.lowering import (
    Call,
    CannotLowerError,
    Concat,
    Dim,
    Elementwise,
    Expand,
    Expression,
    Gather,
    IndexMap,
    Layout,
    Literal,
    Operand,
    Pad,
    Part,
    Reshape,
    Slice,
    Tile,
    Values,
)


def lower(name: str, body: OperatorGraph, shapes: Sequence[Mapping[str, Shape]] = ()) -> Program:
    """Lower the body of a fused operator.

    Args:
        name: C identifier.
        body: its operators; ``body.inputs`` and ``body.outputs`` in the order of the call.
        shapes: observed shapes of the body's tensors, one mapping for each occurrence and capture.

    Raises:
        CannotLowerError: when an operator or a use of it has no lowering; the message says which and why.
    """
    values: list[Value] = []
    index: dict[str, int] = {}  # tensor to value
    structural = _structural_inputs(body)
    for position, tensor in enumerate(body.inputs):
        known = body.tensors[tensor]
        observed = [example[tensor] for example in shapes if tensor in example]
        loaded = known.constant and tensor not in structural
        once = loaded and bool(observed) and all(_count(shape) == 1 for shape in observed)
        index[tensor] = len(values)
        values.append(Input(position, known.dtype, tensor in structural, once))
    for node in body.nodes:
        _lower_node(body, node, values, index)
    outputs = tuple(index[tensor] for tensor in body.outputs)
    groups = _groups(body, shapes, tuple(values), outputs)
    program = Program(name, tuple(values), outputs, groups, -1, _comment(body, shapes))
    program = replace(program, overwrites=_overwritten(program, body, shapes))
    wrong = check(program)
    if wrong:
        raise CannotLowerError(wrong[0])
    return program


def _lower_node(body: OperatorGraph, node: Node, values: list[Value], index: dict[str, int]) -> None:
    operator = find(node)
    if operator is None:
        raise CannotLowerError(f"{node.operator} is unknown")
    if operator.lowering is None:
        raise CannotLowerError(f"{node.operator} has no lowering")
    for tensor in (*node.inputs, *node.outputs):
        rank = body.tensors[tensor].rank if tensor else 0
        if rank is None or rank > MAX_RANK:
            raise CannotLowerError(f"{node.operator}: rank {'unknown' if rank is None else f'over {MAX_RANK}'}")
    if isinstance(operator.lowering, Elementwise):
        operands = [_operand(body, slot, tensor) for slot, tensor in enumerate(node.inputs)]
        expression = simplified(operator.lowering.expression(node, operands))
        used = _slots(expression)
        slots = tuple(index.get(tensor, -1) if slot in used else -1 for slot, tensor in enumerate(node.inputs))
        result = node.outputs[0]
        index[result] = len(values)
        values.append(Map(expression, slots, body.tensors[result].dtype, operator.lowering.cost))
        _add_leading_ones(body, node, used, values, index)
        return
    assert isinstance(operator.lowering, Layout)
    for position, result in enumerate(node.outputs):
        if result:
            index[result] = _lower_layout(body, node, operator.lowering, position, values, index)


def _add_leading_ones(
    body: OperatorGraph, node: Node, used: set[int], values: list[Value], index: dict[str, int]
) -> None:
    """Where an operand that became a literal had more dimensions than all others, the result has them too."""
    result = node.outputs[0]
    rank = max((body.tensors[node.inputs[slot]].rank or 0 for slot in used), default=0)
    missing = (body.tensors[result].rank or 0) - rank
    if missing > 0:
        sizes = (*(Dim() for _ in range(missing)), *(Dim((axis,)) for axis in range(rank)))
        values.append(View(Reshape(sizes=sizes), (index[result],), (), body.tensors[result].dtype, node.op_type))
        index[result] = len(values) - 1


def _lower_layout(
    body: OperatorGraph, node: Node, lowering: Layout, result: int, values: list[Value], index: dict[str, int]
) -> int:
    data = node.inputs if any(isinstance(m, Concat) for m in lowering.maps(body, node, result)) else node.inputs[:1]
    operands = tuple(_value(index, tensor, node) for tensor in data)
    dtype = body.tensors[node.outputs[result]].dtype
    for index_map in _resolved_maps(body, node, lowering, result):
        if isinstance(index_map, Pad) and index_map.value_slot >= 0:
            operands = (*operands, _value(index, node.inputs[index_map.value_slot], node))
        needed = tuple(_value(index, node.inputs[v.slot], node) for v in plan_values(index_map) if v.slot >= 0)
        if isinstance(index_map, Gather):
            needed = (_value(index, node.inputs[index_map.indices_slot], node),)
        values.append(View(index_map, operands, needed, dtype, node.op_type))
        operands = (len(values) - 1,)
    return operands[0]


def plan_values(index_map: IndexMap) -> tuple[Values, ...]:
    """The integers that an index map reads when the kernel plans, in a fixed order."""
    found: tuple[Values | None, ...] = ()
    if isinstance(index_map, Reshape | Expand):
        found = (index_map.target,)
    elif isinstance(index_map, Slice):
        found = (index_map.starts, index_map.ends, index_map.axes, index_map.steps)
    elif isinstance(index_map, Part):
        found = (index_map.sizes,)
    elif isinstance(index_map, Pad):
        found = (index_map.pads, index_map.axes)
    elif isinstance(index_map, Tile):
        found = (index_map.repeats,)
    return tuple(v for v in found if v is not None)


def _value(index: dict[str, int], tensor: str, node: Node) -> int:
    if tensor not in index:
        raise CannotLowerError(f"{node.operator}: constant {tensor!r} inside of the pattern has no lowering")
    return index[tensor]


def _operand(body: OperatorGraph, slot: int, tensor: str) -> Expression | None:
    if not tensor:
        return None
    known = body.tensors[tensor]
    inside = known.constant and tensor not in body.inputs
    if inside:
        if known.value is None or known.value.size != 1:
            raise CannotLowerError("a constant of several elements inside of the pattern")
        return Literal(known.value.reshape(-1)[0].item(), known.dtype)
    return Operand(slot, known.dtype)


def _slots(expression: Expression) -> set[int]:
    if isinstance(expression, Operand):
        return {expression.slot}
    if isinstance(expression, Call):
        return set().union(*(_slots(argument) for argument in expression.arguments))
    return set()


def _structural_inputs(body: OperatorGraph) -> set[str]:
    """Inputs whose integers the plan reads: structural operands of layout operators."""
    found = set()
    for node in body.nodes:
        operator = find(node)
        if operator is None or not isinstance(operator.lowering, Layout):
            continue
        maps = _resolved_maps(body, node, operator.lowering, 0)
        slots = {v.slot for m in maps for v in plan_values(m) if v.slot >= 0}
        slots |= {m.indices_slot for m in maps if isinstance(m, Gather)}
        for slot in slots:
            tensor = node.inputs[slot]
            if tensor not in body.inputs:
                if tensor in body.producers:
                    raise CannotLowerError(f"{node.operator}: operand {slot} is computed inside of the pattern")
                continue
            if body.tensors[tensor].dtype not in ("int64", "int32"):
                raise CannotLowerError(f"{node.operator}: operand {slot} is not of integers")
            found.add(tensor)
    return found


def _resolved_maps(body: OperatorGraph, node: Node, lowering: Layout, result: int) -> tuple[IndexMap, ...]:
    """The node's index maps, with integers that are constants of the body written out."""

    def resolve(values: Any) -> Any:
        if not isinstance(values, Values) or values.slot < 0:
            return values
        tensor = node.inputs[values.slot]
        known = body.tensors[tensor]
        if tensor in body.inputs or not known.constant or known.value is None:
            return values
        return Values(fixed=tuple(int(v) for v in known.value.reshape(-1).tolist()))

    return tuple(
        replace(m, **{f.name: resolve(getattr(m, f.name)) for f in fields(m)})
        for m in lowering.maps(body, node, result)
    )


def _count(shape: Shape) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _groups(
    body: OperatorGraph, shapes: Sequence[Mapping[str, Shape]], values: Sequence[Value], outputs: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Outputs that one nest computes well: the same shape in every example, and inputs walked in the same order."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, tensor in enumerate(body.outputs):
        sizes: tuple[object, ...] = tuple(example.get(tensor, position) for example in shapes) or (position,)
        paths = frozenset(path for path in _paths(values, outputs[position]).values())
        groups.setdefault((sizes, paths), []).append(position)
    return tuple(tuple(group) for group in groups.values())


def _paths(values: Sequence[Value], output: int) -> dict[int, frozenset[str]]:
    """For each input, the views on the ways from an output to it, a letter each.

    ``i`` and ``o`` stand for reorders into and out of the blocked layout, of which ``io`` cancels out; ``x`` for any
    other view. Reshapes move nothing and are left out.
    """
    found: dict[int, set[str]] = {}
    seen: set[tuple[int, str]] = set()

    def visit(index: int, path: str) -> None:
        if (index, path) in seen:
            return
        seen.add((index, path))
        value = values[index]
        if isinstance(value, Input):
            found.setdefault(value.position, set()).add(path.replace("io", ""))
            return
        if isinstance(value, View):
            step = {"ReorderInput": "i", "ReorderOutput": "o"}.get(value.origin, "x")
            moves = step != "x" or not isinstance(value.index_map, Reshape)
            if moves and not path.endswith(step) and len(path) < 16:  # a reorder is a chain of several views
                path += step
        for operand in value.operands:
            if operand >= 0:
                visit(operand, path)

    visit(output, "")
    return {position: frozenset(paths) for position, paths in found.items()}


def _overwritten(program: Program, body: OperatorGraph, shapes: Sequence[Mapping[str, Shape]]) -> int:
    """An input that output 0 may overwrite: read by the very element that is written, in the only nest."""
    if len(program.groups) != 1 or not shapes:
        return -1
    target = body.outputs[0]
    for value in program.inputs[:4]:
        tensor = body.inputs[value.position]
        same = all(tensor in s and target in s and s[tensor] == s[target] for s in shapes)
        if value.structural or body.tensors[tensor].constant or not same:
            continue
        if STORAGE.get(value.dtype) == STORAGE.get(body.tensors[target].dtype) and _in_place(program, value.position):
            return value.position
    return -1


def _in_place(program: Program, position: int) -> bool:
    """Whether every way from an output to the input is free of views, or goes out of and into the blocked layout."""
    ways = (_paths(program.values, output).get(position, frozenset()) for output in program.outputs)
    return all(way <= {""} for way in ways)


def _comment(body: OperatorGraph, shapes: Sequence[Mapping[str, Shape]]) -> tuple[str, ...]:
    # names of our own, so that equal patterns give equal C and nothing of a model's reaches it
    names = {tensor: f"x{position}" for position, tensor in enumerate(body.inputs)}
    for tensor in (name for node in body.nodes for name in (*node.inputs, *node.outputs) if name):
        kind = "t" if tensor in body.producers else "c"
        names.setdefault(tensor, f"{kind}{len(names)}")
    lines = []
    for node in body.nodes:
        results = ", ".join(names.get(tensor, "-") for tensor in node.outputs)
        lines.append(f"{results} = {node.operator}({', '.join(names.get(tensor, '-') for tensor in node.inputs)})")
    lines.append("returns " + ", ".join(names[tensor] for tensor in body.outputs))
    for example in list(dict.fromkeys(tuple((t, s[t]) for t in body.inputs if t in s) for s in shapes))[:4]:
        lines.append("shapes " + ", ".join(f"{names[tensor]} {list(shape)}" for tensor, shape in example))
    return tuple(lines)
