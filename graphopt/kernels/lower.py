"""From the operators of a pattern to a loop program."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from math import prod
from typing import Any

from graphopt.graph import Node, OperatorGraph, Shape
from graphopt.kernels.program import (
    MAX_RANK,
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
    Value,
    View,
    check,
)
from graphopt.kernels.scalar import simplified
from graphopt.kernels.value_shapes import value_shapes
from graphopt.kernels.walk_order import grouped_outputs, overwritten_input
from graphopt.operators import find
from graphopt.operators.blocked import block_size
from graphopt.operators.lowering import (
    Call,
    CannotLowerError,
    Concat,
    Convolving,
    Dim,
    Elementwise,
    Expand,
    Expression,
    Gather,
    IndexMap,
    IntegerSums,
    Layout,
    Literal,
    MatrixProduct,
    Moved,
    Operand,
    Pad,
    Part,
    Picking,
    Pooling,
    Recurring,
    Reduced,
    Reshape,
    Rowwise,
    Slice,
    SquaresAround,
    Take,
    Tile,
    Transpose,
    Values,
    cast,
)

COSTLY = frozenset(
    {"exp", "exp_down", "exp_scaled", "log", "erf", "tanh", "sigmoid", "inverse_three_quarters", "sin", "cos", "power"}
)
"""Primitives that take most of a row-wise operator's work."""


HALVES = ("float16", "bfloat16")
"""Types whose products are summed in float32."""

MAX_SIZE = (1 << 31) - 1
"""Beyond the end of any axis, as a bound of a slice."""

ACTIVATION_COST = 8
"""Rough operations per element of an activation behind a convolution."""


def lower(name: str, body: OperatorGraph, shapes: Sequence[Mapping[str, Shape]] = ()) -> Program:
    """Lower the body of a fused operator.

    Args:
        name: C identifier.
        body: its operators; ``body.inputs`` and ``body.outputs`` in the order of the call.
        shapes: observed shapes of the body's tensors, one mapping for each occurrence and capture.

    Raises:
        CannotLowerError: when an operator or a use of it has no lowering; the message says which and why.
    """
    lowering = _Lowering(body, shapes)
    for node in body.nodes:
        lowering.add_node(node)
    values = tuple(lowering.values)
    outputs = tuple(lowering.index[tensor] for tensor in body.outputs)
    groups = grouped_outputs(body, shapes, values, outputs)
    examples = tuple(value_shapes(values, lowering.index, example) for example in shapes)
    program = Program(name, values, outputs, groups, -1, _comment(body, shapes), examples)
    program = replace(program, overwrites=overwritten_input(program, body, shapes))
    wrong = check(program)
    if wrong:
        raise CannotLowerError(wrong[0])
    return program


class _Lowering:
    """The values of a program while operators are added one by one.

    Attributes:
        body: the operators.
        values: of the program, so far.
        ranks: of each value.
        index: tensor to value.
    """

    _apart = False  # whether every call is a value of its own, so that reductions share it: in row-wise operators

    def __init__(self, body: OperatorGraph, shapes: Sequence[Mapping[str, Shape]]) -> None:
        self.body = body
        self.values: list[Value] = []
        self.ranks: list[int] = []
        self.index: dict[str, int] = {}
        structural = _structural_inputs(body)
        for position, tensor in enumerate(body.inputs):
            known = body.tensors[tensor]
            observed = [example[tensor] for example in shapes if tensor in example]
            loaded = known.constant and tensor not in structural
            once = loaded and bool(observed) and all(prod(shape) == 1 for shape in observed)
            self.index[tensor] = self.add(Input(position, known.dtype, tensor in structural, once), known.rank or 0)

    def add(self, value: Value, rank: int) -> int:
        """The value's number."""
        if rank > MAX_RANK:
            raise CannotLowerError(f"a value of rank over {MAX_RANK}")
        self.values.append(value)
        self.ranks.append(rank)
        return len(self.values) - 1

    def add_node(self, node: Node) -> None:
        """Add the values that a node's results are."""
        operator = find(node)
        if operator is None:
            raise CannotLowerError(f"{node.operator} is unknown")
        lowering = operator.lowering
        if lowering is None:
            raise CannotLowerError(f"{node.operator} has no lowering")
        for tensor in (*node.inputs, *node.outputs):
            rank = self.body.tensors[tensor].rank if tensor else 0
            if rank is None or rank > MAX_RANK:
                raise CannotLowerError(f"{node.operator}: rank {'unknown' if rank is None else f'over {MAX_RANK}'}")
        if isinstance(lowering, Elementwise | Rowwise):
            self._apart = isinstance(lowering, Rowwise)
            unread = operator.structural if self._apart else ()  # its lowering knows them: axes
            operands = [
                None if slot in unread else _operand(self.body, slot, tensor) for slot, tensor in enumerate(node.inputs)
            ]
            if isinstance(lowering, Elementwise):
                results: tuple[Expression | None, ...] = (lowering.expression(node, operands),)
            else:
                results = lowering.expressions(self.body, node, operands)
            known: dict[Expression, int] = {}
            for result, expression in zip(node.outputs, results, strict=False):
                if result and expression is not None:
                    value = self._result(node, simplified(expression), known, lowering.cost)
                    self.index[result] = self._ranked(value, self.body.tensors[result].rank or 0, node)
        elif isinstance(lowering, Picking):
            self._pick(node, lowering)
        elif isinstance(lowering, MatrixProduct):
            self.index[node.outputs[0]] = self._product(node, lowering)
        elif isinstance(lowering, Convolving):
            self._convolve(node, lowering)
        elif isinstance(lowering, Pooling):
            self._pool(node, lowering)
        elif isinstance(lowering, Recurring):
            self._recur(node, lowering)
        else:
            for position, result in enumerate(node.outputs):
                if result:
                    self.index[result] = self._layout(node, lowering, position)
        for result in node.outputs:
            if result and result not in self.index:
                raise CannotLowerError(f"{node.operator}: result {result} has no lowering")

    def _result(self, node: Node, expression: Expression, known: dict[Expression, int], cost: int) -> int:
        if not isinstance(expression, Operand):
            return self._expression(node, expression, known, cost)
        value = _value(self.index, node.inputs[expression.slot], node)
        return self.add(Map(Operand(0, expression.dtype), (value,), expression.dtype, cost), self.ranks[value])

    def _ranked(self, value: int, rank: int, node: Node) -> int:
        """The value with leading ones: where an operand that became a literal had more dimensions than all others."""
        missing = rank - self.ranks[value]
        if missing <= 0:
            return value
        sizes = (*(Dim() for _ in range(missing)), *(Dim((axis,)) for axis in range(self.ranks[value])))
        view = View(Reshape(sizes=sizes), (value,), (), self.values[value].dtype, node.op_type)
        return self.add(view, rank)

    def _expression(self, node: Node, expression: Expression, known: dict[Expression, int], cost: int) -> int:
        """The value of an expression; what is reduced or moved inside of it becomes a value of its own."""
        if expression in known:
            return known[expression]
        if isinstance(expression, Reduced):
            argument = self._expression(node, expression.argument, known, cost)
            value = self._reduce(node, expression, argument)
        elif isinstance(expression, Moved):
            value = self._expression(node, expression.argument, known, cost)
            for index_map in expression.maps:
                view = View(index_map, (value,), (), expression.dtype, node.op_type)
                value = self.add(view, self._rank(value, index_map))
        elif isinstance(expression, Operand):
            value = _value(self.index, node.inputs[expression.slot], node)
        elif isinstance(expression, IntegerSums):
            parts = (expression.left, expression.right, expression.left_zero, expression.right_zero)
            summed = tuple(-1 if part is None else self._expression(node, part, known, cost) for part in parts)
            left, right, left_zero, right_zero = summed
            rank = max(self.ranks[left], self.ranks[right])
            value = self.add(IntegerContraction((left, right, left_zero, right_zero), expression.window), rank)
        elif isinstance(expression, SquaresAround):
            value = self._squares_around(expression, self._expression(node, expression.argument, known, cost))
        else:
            operands: list[int] = []
            scalar = self._scalar(node, expression, known, cost, operands)
            rank = max((self.ranks[operand] for operand in operands), default=0)
            if self._apart and isinstance(expression, Call):
                cost = cost if expression.primitive in COSTLY else 1
            value = self.add(Map(scalar, tuple(operands), expression.dtype, cost), rank)
        known[expression] = value
        return value

    def _scalar(
        self,
        node: Node,
        expression: Expression,
        known: dict[Expression, int],
        cost: int,
        operands: list[int],
        *,
        inner: bool = False,
    ) -> Expression:
        """The expression over one element of each operand; operands are appended as they are met."""
        if isinstance(expression, Literal):
            return expression
        if isinstance(expression, Call) and not (self._apart and inner):
            arguments = tuple(self._scalar(node, a, known, cost, operands, inner=True) for a in expression.arguments)
            return Call(expression.primitive, arguments, expression.dtype)
        if isinstance(expression, Operand):
            value = _value(self.index, node.inputs[expression.slot], node)
        else:
            value = self._expression(node, expression, known, cost)
        if value not in operands:
            operands.append(value)
        return Operand(operands.index(value), expression.dtype)

    def _rank(self, value: int, index_map: IndexMap) -> int:
        if isinstance(index_map, Reshape) and index_map.sizes is not None:
            return len(index_map.sizes)
        return self.ranks[value]

    def _reduce(self, node: Node, expression: Reduced, value: int) -> int:
        """Reduced axes go last, and back to their places once they have size one."""
        rank = self.ranks[value]
        axes = sorted({axis + rank if axis < 0 else axis for axis in expression.axes})
        if any(axis < 0 or axis >= rank for axis in axes):
            raise CannotLowerError(f"{node.operator}: axes beyond the rank")
        kept = [axis for axis in range(rank) if axis not in axes]
        blocked = self._out_of_blocks(value, axes)
        if blocked is not None:
            return self._reduce_blocked(node, expression, *blocked)
        if axes != list(range(rank - len(axes), rank)):
            dtype = self.values[value].dtype
            value = self.add(View(Transpose((*kept, *axes)), (value,), (), dtype, node.op_type), rank)
        result = self.add(Reduce(expression.kind, value, len(axes), expression.dtype), rank)
        if axes == list(range(rank - len(axes), rank)):
            return result
        sizes = tuple(Dim() if axis in axes else Dim((kept.index(axis),)) for axis in range(rank))
        return self.add(View(Reshape(sizes=sizes), (result,), (), expression.dtype, node.op_type), rank)

    def _out_of_blocks(self, value: int, axes: Sequence[int]) -> tuple[int, tuple[View, ...]] | None:
        """For a tensor out of the blocked layout: [N, C / B, H, W, B] and the views behind; axes: height, width."""
        views: list[View] = []
        while isinstance(what := self.values[value], View) and what.origin == "ReorderOutput":
            views.insert(0, what)
            if self.ranks[value] == 5 and isinstance(what.index_map, Reshape):
                moved = views[1].index_map if views[1:] else None
                order = moved.permutation if isinstance(moved, Transpose) else ()
                known = (order, tuple(axes)) in (((0, 1, 4, 2, 3), (2, 3)), ((0, 2, 3, 1, 4), (1, 2)))
                return (value, tuple(views[1:])) if known else None
            value = what.operands[0]
        return None

    def _squares_around(self, expression: SquaresAround, value: int) -> int:
        """Of what comes out of whole blocks, the sums are taken there, and come out as it does."""
        blocked = self._out_of_blocks(value, (2, 3))
        block = block_size()
        if blocked is not None:
            storage, views = blocked
            first, taken = self.values[storage], views[-1].index_map
            if isinstance(first, View) and isinstance(taken, Take) and taken.size % block == 0:
                value = self.add(ChannelWindow(first.operands[0], expression.size, block, expression.dtype), 4)
                for view in (first, *views):
                    value = self.add(replace(view, operands=(value,)), self._rank(value, view.index_map))
                return value
        return self.add(ChannelWindow(value, expression.size, 0, expression.dtype), self.ranks[value])

    def _reduce_blocked(self, node: Node, expression: Reduced, storage: int, views: Sequence[View]) -> int:
        """Positions are reduced where they lie; only what is left of them goes out of the blocked layout."""
        value = self._reduce(node, replace(expression, axes=(-3, -2)), storage)
        for view in views:
            value = self.add(replace(view, operands=(value,)), self._rank(value, view.index_map))
        return value

    def _pick(self, node: Node, lowering: Picking) -> None:
        data, indices = node.inputs[0], node.inputs[1]
        rank = self.body.tensors[data].rank or 0
        axis = lowering.axis(node)
        axis = axis + rank if axis < 0 else axis
        dtype = self.body.tensors[data].dtype
        source, where = _value(self.index, data, node), _value(self.index, indices, node)
        known = self.values[where]
        picked: Value = Lookup(source, where, axis, dtype)
        if isinstance(known, Input) and known.structural:
            picked = View(Gather(axis, 1), (source,), (where,), dtype, node.op_type)
        self.index[node.outputs[0]] = self.add(picked, self.body.tensors[node.outputs[0]].rank or 0)

    def _product(self, node: Node, lowering: MatrixProduct) -> int:
        dtype = self.body.tensors[node.outputs[0]].dtype
        summed = "float32" if dtype in HALVES else dtype
        sides = []
        for tensor, maps in zip(node.inputs[:2], lowering.maps(self.body, node), strict=True):
            side = _value(self.index, tensor, node)
            if summed != dtype:
                side = self._as(side, summed)
            for index_map in maps:
                view = View(index_map, (side,), (), summed, node.op_type)
                side = self.add(view, self._rank(side, index_map))
            sides.append(side)
        rank = max(self.ranks[side] for side in sides)
        product = self.add(Contraction((sides[0], sides[1]), summed), rank)
        if summed != dtype:
            product = self._as(product, dtype)
        operands = [_operand(self.body, slot, tensor) if slot > 1 else None for slot, tensor in enumerate(node.inputs)]
        operands[0] = Operand(0, dtype)
        expression = simplified(lowering.expression(node, operands))
        if expression == Operand(0, dtype):
            return product
        used = _slots(expression)
        others = [self.index.get(tensor, -1) if slot in used else -1 for slot, tensor in enumerate(node.inputs)]
        return self.add(Map(expression, (product, *others[1:]), dtype, lowering.cost), rank)

    def _as(self, value: int, dtype: str) -> int:
        """The value in another dtype."""
        return self.add(Map(cast(Operand(0, self.values[value].dtype), dtype), (value,), dtype, 1), self.ranks[value])

    def _convolve(self, node: Node, lowering: Convolving) -> None:
        tensors = (*node.inputs, "", "")[:4]
        operands = tuple(_value(self.index, tensor, node) if tensor else -1 for tensor in tensors)
        rank = self.body.tensors[node.outputs[0]].rank or 0
        value = self.add(Convolution(lowering.window(self.body, node), operands, "float32"), rank)  # type: ignore[arg-type]
        expression = simplified(lowering.expression(node, Operand(0, "float32")))
        if expression != Operand(0, "float32"):
            value = self.add(Map(expression, (value,), "float32", ACTIVATION_COST), rank)
        self.index[node.outputs[0]] = value

    def _pool(self, node: Node, lowering: Pooling) -> None:
        operand = _value(self.index, node.inputs[0], node)
        pooled = Pooled(lowering.pool(self.body, node), operand, "float32")
        self.index[node.outputs[0]] = self.add(pooled, self.ranks[operand])

    def _recur(self, node: Node, lowering: Recurring) -> None:
        """A product of the input for each direction, the layer, and its results as views of its states."""
        layer = lowering.layer(self.body, node)
        tensors = (*node.inputs, *("",) * 8)[:8]
        x, weights, recurrent, bias, _, hidden, cell, _ = (
            _value(self.index, tensor, node) if tensor else -1 for tensor in tensors
        )
        dtype, width = self.values[x].dtype, layer.gates * layer.hidden
        cells = len(node.outputs) > 2 and bool(node.outputs[2])

        def part(value: int, axis: int, start: int, end: int) -> int:
            starts, ends, axes = (Values(fixed=(bound,)) for bound in (start, end, axis))
            return self.add(View(Slice(starts, ends, axes), (value,), (), dtype, node.op_type), self.ranks[value])

        def without_first(value: int) -> int:
            sizes = tuple(Dim((axis,)) for axis in range(1, self.ranks[value]))
            return self.add(View(Reshape(sizes=sizes), (value,), (), dtype, node.op_type), len(sizes))

        inputs = []
        for direction in range(len(layer.reversed)):
            own = without_first(part(weights, 0, direction, direction + 1))
            turned = self.add(View(Transpose((1, 0)), (own,), (), dtype, node.op_type), 2)
            product = self.add(Contraction((x, turned), dtype), 3)
            if bias >= 0:
                added = without_first(part(part(bias, 0, direction, direction + 1), 1, 0, width))
                total = Call("add", (Operand(0, dtype), Operand(1, dtype)), dtype)
                product = self.add(Map(total, (product, added), dtype, 1), 3)
            inputs.append(product)
        states = self.add(Recurrence(layer, tuple(inputs), (recurrent, bias, hidden, cell), cells, dtype), 4)
        every = part(states, 0, 0, -1) if cells else states
        for position, result in enumerate(node.outputs):
            if result and position == 0:
                self.index[result] = every
            elif result and position == 1:
                last = [
                    part(part(every, 0, *((0, 1) if reverse else (-1, MAX_SIZE))), 1, direction, direction + 1)
                    for direction, reverse in enumerate(layer.reversed)
                ]
                joined = self.add(View(Concat(1), tuple(last), (), dtype, node.op_type), 4) if last[1:] else last[0]
                self.index[result] = without_first(joined)
            elif result:
                self.index[result] = without_first(part(states, 0, -1, MAX_SIZE))

    def _layout(self, node: Node, lowering: Layout, result: int) -> int:
        body = self.body
        maps = _resolved_maps(body, node, lowering, result)
        data = node.inputs if any(isinstance(m, Concat) for m in maps) else node.inputs[:1]
        operands = tuple(_value(self.index, tensor, node) for tensor in data)
        dtype = body.tensors[node.outputs[result]].dtype
        for index_map in maps:
            if isinstance(index_map, Pad) and index_map.value_slot >= 0:
                operands = (*operands, _value(self.index, node.inputs[index_map.value_slot], node))
            needed = tuple(_value(self.index, node.inputs[v.slot], node) for v in plan_values(index_map) if v.slot >= 0)
            rank = self._rank(operands[0], index_map)
            operands = (self.add(View(index_map, operands, needed, dtype, node.op_type), rank),)
        self.ranks[operands[0]] = body.tensors[node.outputs[result]].rank or 0
        return operands[0]


def is_costly(value: Map) -> bool:
    """Whether an element takes much longer to compute than to read."""

    def costly(expression: Expression) -> bool:
        if not isinstance(expression, Call):
            return False
        return expression.primitive in COSTLY or any(costly(argument) for argument in expression.arguments)

    return costly(value.expression)


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
        if operator is None:
            continue
        if isinstance(operator.lowering, Picking):
            slots = {1} if body.tensors[node.inputs[1]].constant and node.inputs[1] in body.inputs else set()
        elif isinstance(operator.lowering, Layout):
            maps = _resolved_maps(body, node, operator.lowering, 0)
            slots = {v.slot for m in maps for v in plan_values(m) if v.slot >= 0}
        else:
            continue
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
