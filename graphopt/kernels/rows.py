"""Rows: steps that take blocks of rows through element-wise phases and reductions.

A row space has rows of columns: the last axes of what is reduced, and all axes before them. A *wide* value has an
element for each row and column, in storage order; a *narrow* one an element for each row. ``RowSpace`` finds out which
values of a program one step can compute; ``RowStep`` writes its C: a function from block of rows to block of rows.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from graphopt.kernels.lower import is_costly
from graphopt.kernels.nests import Statements
from graphopt.kernels.places import Place, has_choices, is_load, is_once
from graphopt.kernels.program import Contraction, Input, Lookup, Map, Program, Recurrence, Reduce, View
from graphopt.kernels.scalar import FLOATS, HALVES, STORAGE, SUFFIX, held, loaded, stored
from graphopt.operators.lowering import POSITIONS, Call, Operand, Reshape

COSTLY_WORK = 8
"""Loads that a costly primitive (an exponential) is worth."""

CHUNK = 1024
"""Columns of an element-wise loop, so that what it hands to a reduction stays in the first-level cache."""

SHORT_ROW, ROWS_TOGETHER = 128, 4
"""Rows of so many columns at most go through their phases so many at a time: one row keeps no processor busy."""

Shape = tuple[int, ...]

_DEFINITION = re.compile(r"const (\w+) (\w+) = ")


class DoesNotFitError(Exception):
    """A value is no part of the row space."""


@dataclass(frozen=True, slots=True)
class Element:
    """One value as the step computes it.

    Attributes:
        kind: ``load``, ``map`` or ``reduce``.
        value: number in the program.
        operands: elements by slot, -1 where absent; for a load its number.
        wide: whether it has an element for each column.
        level: number of reductions that lie one behind the other on the way to it: the phase that it belongs to.
        whole: whether it is wide and in storage order, so that it may be kept for a later phase.
    """

    kind: str
    value: int
    operands: tuple[int, ...]
    wide: bool
    level: int
    whole: bool = False


class RowSpace:
    """The values that are rows of the same columns, and how each is computed.

    Attributes:
        elements: values as the step computes them, operands first.
        guards: C conditions on the shapes (``f.of[…]``) under which all this holds.
        place: from row and column back to the loads.
        rows: C expression of their number.
        columns: likewise.
    """

    def __init__(self, program: Program, anchor: Reduce, tensors: dict[int, int]) -> None:
        """Begin with the operand of a reduction as the only wide value.

        Args:
            program: with the values.
            anchor: the reduction: its axes are the columns.
            tensors: values that are in memory before the step, by the number of their tensor.
        """
        self.program = program
        self.anchor = anchor
        self.tensors = tensors
        self.elements: list[Element] = []
        self.guards: dict[str, None] = {}
        self.place = Place(program, tensors, 4)
        self.reduces: dict[int, int] = {}  # reduction to element
        self._known: dict[tuple[int, str, int, bool], int] = {}
        self._depends: dict[int, bool] = {}
        self._row_state = ""
        self.rows = f"rows_of(&f.of[{anchor.operand}], {anchor.axes})"
        self.columns = f"columns_of(&f.of[{anchor.operand}], {anchor.axes})"

    # -------------------------------------------------------------------------------------------- shapes

    def _sizes(self, example: Sequence[Shape | None]) -> tuple[int, int]:
        shape = example[self.anchor.operand]
        if shape is None:
            raise DoesNotFitError
        return _split(shape, self.anchor.axes)

    def _all(self, fits: Callable[..., bool], *values: int) -> bool:
        """Whether something holds of (rows, columns, shapes of some values) in every example."""
        if not self.program.examples:
            return False
        for example in self.program.examples:
            shapes = [example[value] for value in values]
            if any(shape is None for shape in shapes) or not fits(*self._sizes(example), *shapes):
                return False
        return True

    def _guard(self, condition: str) -> None:
        self.guards[condition] = None

    def _require(self, holds: bool, condition: str) -> None:
        if not holds:
            raise DoesNotFitError
        self._guard(condition)

    def is_whole(self, value: int) -> bool:
        """Whether a value has as many elements as there are rows and columns."""
        if value == self.anchor.operand:
            return True
        return self._all(lambda rows, columns, shape: _count(shape) == rows * columns, value)

    def _is_narrow(self, value: int) -> bool:
        return self._all(lambda rows, columns, shape: _count(shape) == rows, value)

    def depends(self, value: int) -> bool:
        """Whether a value depends on a reduction or contraction that is not in memory."""
        if value not in self._depends:
            what = self.program.values[value]
            if value in self.tensors:
                self._depends[value] = False
            elif isinstance(what, Reduce | Contraction | Recurrence):
                self._depends[value] = True
            else:
                operands = () if isinstance(what, Input) else what.operands
                self._depends[value] = any(self.depends(o) for o in operands if o >= 0)
        return self._depends[value]

    # -------------------------------------------------------------------------------------------- elements

    def add_reduce(self, value: int) -> int:
        """The element of a reduction over the same rows and columns.

        Raises:
            DoesNotFitError: it is over others, or its operand does not fit.
        """
        what = self.program.values[value]
        assert isinstance(what, Reduce)
        if value not in self.reduces:
            operand, axes = what.operand, what.axes
            if what is not self.anchor:
                same = self._all(
                    lambda rows, columns, shape: (
                        (_count(shape[: len(shape) - axes]), _count(shape[len(shape) - axes :])) == (rows, columns)
                    ),
                    operand,
                )
                of = f"&f.of[{operand}], {axes}"
                condition = f"columns_of({of}) == {self.columns} && rows_of({of}) == {self.rows}"
                self._require(same, condition)
            element = self._wide(operand, "m0", operand)
            level = self.elements[element].level + 1
            self.reduces[value] = self._add(Element("reduce", value, (element,), False, level))
        return self.reduces[value]

    def add(self, value: int) -> int:
        """The element of a value that the step may store.

        Raises:
            DoesNotFitError: it is no value of this space.
        """
        what = self.program.values[value]
        if isinstance(what, Reduce):
            if value not in self.reduces:
                raise DoesNotFitError
            return self.reduces[value]
        if self.is_whole(value):
            if value != self.anchor.operand:
                self._guard(f"elements(&f.of[{value}]) == {self.rows} * {self.columns}")
            element = self._wide(value, "m0", value)
            if self.elements[element].wide:
                return element
        if self._is_narrow(value):
            self._guard(f"elements(&f.of[{value}]) == {self.rows}")
            return self._narrow(value, value)
        raise DoesNotFitError

    def _add(self, element: Element) -> int:
        self.elements.append(element)
        return len(self.elements) - 1

    def _wide(self, value: int, state: str, root: int) -> int:
        """The element of a value at the index ``state`` into the shape of value ``root``, which is wide."""
        if state == "m0" and value != root and (value in self.tensors or self._is_map(value)) and self.is_whole(value):
            if value != self.anchor.operand:
                self._guard(f"elements(&f.of[{value}]) == {self.rows} * {self.columns}")
            root = value  # in storage order, whatever it is an operand of
        key = (value, state, root, True)
        if key not in self._known:
            self._known[key] = self._new_wide(value, state, root)
        return self._known[key]

    def _new_wide(self, value: int, state: str, root: int) -> int:
        what = self.program.values[value]
        if value in self.tensors:
            return self._load(value, what, state, root)
        depends = self.depends(value)
        if depends and not (isinstance(what, Map) and self.is_whole(value)):
            return self._broadcast(value, what, state, root)
        if isinstance(what, Map):
            operands = tuple(self._wide(o, state, root) if o >= 0 else -1 for o in what.operands)
            return self._map(value, operands, state)
        if isinstance(what, Lookup):
            return self._load(value, what, state, root)
        assert isinstance(what, View)
        if has_choices(what):
            raise DoesNotFitError
        following = self.place.view(value, what, self.place.at(state, root, value))
        assert following is not None
        operand, there = following
        return self._wide(operand, there, operand)

    def _is_map(self, value: int) -> bool:
        return isinstance(self.program.values[value], Map)

    def _map(self, value: int, operands: tuple[int, ...], state: str) -> int:
        present = [self.elements[o] for o in operands if o >= 0]
        wide = any(e.wide for e in present)
        whole = wide and state == "m0" and self.is_whole(value)
        return self._add(Element("map", value, operands, wide, max((e.level for e in present), default=0), whole))

    def _broadcast(self, value: int, what: object, state: str, root: int) -> int:
        """What depends on a reduction: in storage order, or one element for each row."""
        if state != "m0":
            raise DoesNotFitError
        each = self._all(
            lambda rows, columns, whole, shape: _constant_along_rows(whole, shape, columns, True), root, value
        )
        if each:
            self._guard(f"constant_along_rows(&f.of[{root}], &f.of[{value}], {self.columns}, 1)")
            return self._narrow(value, value)
        if isinstance(what, View) and isinstance(what.index_map, Reshape) and self.is_whole(value):
            self._guard(f"elements(&f.of[{value}]) == {self.rows} * {self.columns}")
            return self._wide(what.operands[0], state, what.operands[0])
        if isinstance(what, Map):
            return self._map(value, tuple(self._wide(o, state, root) if o >= 0 else -1 for o in what.operands), state)
        raise DoesNotFitError

    def _load(self, value: int, what: object, state: str, root: int) -> int:
        constant = is_once(self.program, value)
        if not constant and state == "m0":
            constant = self._all(
                lambda rows, columns, whole, shape: _constant_along_rows(whole, shape, columns, False), root, value
            )
            if constant:
                self._guard(f"constant_along_rows(&f.of[{root}], &f.of[{value}], {self.columns}, 0)")
        here = self.place.at(state, root, value)
        if isinstance(what, Lookup) and value not in self.tensors:
            if what.data not in self.tensors or not is_load(self.program, self.tensors, what.indices):
                raise DoesNotFitError
            slot = self.place.lookup(value, what, here)
        else:
            slot = self.place.load(value, here)
        return self._add(Element("load", value, (slot,), not constant, 0))

    def _narrow(self, value: int, root: int) -> int:
        """The element of a value at the row's index into the shape of value ``root``, which has one for each row."""
        key = (value, "row", root, False)
        if key not in self._known:
            self._known[key] = self._new_narrow(value, root)
        return self._known[key]

    def _new_narrow(self, value: int, root: int) -> int:
        what = self.program.values[value]
        if isinstance(what, Reduce) and value not in self.tensors:
            if value not in self.reduces:
                raise DoesNotFitError
            return self.reduces[value]
        if self.depends(value):
            self._require(self._is_narrow(value), f"elements(&f.of[{value}]) == {self.rows}")
        if value in self.tensors:
            if not self._row_state:
                self._row_state = "row_index"
                self.place.lines.append("index_map row_index = index_of_row(d, columns);")
            slot = self.place.load(value, self.place.at(self._row_state, root, value))
            return self._add(Element("load", value, (slot,), False, 0))
        if isinstance(what, Map):
            operands = tuple(self._narrow(o, root) if o >= 0 else -1 for o in what.operands)
            level = max((self.elements[o].level for o in operands if o >= 0), default=0)
            return self._add(Element("map", value, operands, False, level))
        if isinstance(what, View) and isinstance(what.index_map, Reshape) and value == root:
            return self._narrow(what.operands[0], what.operands[0])
        raise DoesNotFitError


class RowStep:
    """A step over rows.

    Attributes:
        lines: the C of its functions and tables.
        guards: C conditions under which it is right; over ``rows``, ``columns`` and ``f.of[…]``.
    """

    def __init__(self, space: RowSpace, stores: Sequence[tuple[int, int, int]], name: str) -> None:
        """Write the C.

        Args:
            space: with the elements to compute.
            stores: (element, value, number of the tensor it goes to).
            name: beginning of the names of the C functions.
        """
        self.space = space
        self.program = space.program
        self.name = name
        self.stores = [(element, value, tensor) for element, value, tensor in stores]
        self.guards = tuple(space.guards)
        self.lines: list[str] = []
        self._used = self._reachable()
        self._kept: dict[int, str] = {}
        for _ in range(2):  # first which values are kept for a later phase, then the text
            body = self._body()
        self._emit_place()
        self._emit_function(body)
        self._emit_table()

    def plan_call(self) -> list[str]:
        """C statements that plan the step."""
        return [f"error = plan_rows(p, &{self.name}, {self.space.rows}, {self.space.columns}, &f);"]

    # -------------------------------------------------------------------------------------------- phases

    def _reachable(self) -> set[int]:
        found: set[int] = set()
        pending = [element for element, _, _ in self.stores]
        while pending:
            element = pending.pop()
            if element in found:
                continue
            found.add(element)
            what = self.space.elements[element]
            if what.kind != "load":
                pending += [o for o in what.operands if o >= 0]
        return found

    def _body(self) -> list[list[str]]:
        """The phases of one row, apart. Also finds the elements that a later phase than their own needs."""
        elements = self.space.elements
        used = sorted(self._used)
        last = max((elements[e].level for e in used), default=0)
        narrow = Statements("n")
        names: dict[int, str] = {}
        done: set[int] = set()  # wide elements that an earlier phase computed
        phases: list[list[str]] = []
        lines: list[str] = []
        for element in used:
            what = elements[element]
            if what.kind == "load" and not what.wide:
                load = self.space.place.loads[what.operands[0]]
                slot = what.operands[0]
                text = loaded(f"((const {STORAGE[load.dtype]} *)loads[{slot}].data)[r * loads[{slot}].row]", load.dtype)
                lines.append(f"const {held(load.dtype)} x{slot} = {text};")
                names[element] = f"x{slot}"
        for level in range(last + 1):
            for element in used:
                what = elements[element]
                if what.kind == "map" and not what.wide and what.level == level:
                    names[element] = self._computed(narrow, element, names)
            lines += narrow.lines
            narrow.lines = []
            lines += self._phase(level, names, done)
            phases.append(lines)
            lines = []
        for at, (element, value, _) in enumerate(self.stores):
            if not elements[element].wide:
                dtype = self.program.values[value].dtype
                text = stored(names[element], dtype)
                phases[-1].append(f"(({STORAGE[dtype]} *)stores[{at}].data)[r * stores[{at}].row] = {text};")
        return phases

    def _computed(self, statements: Statements, element: int, names: dict[int, str]) -> str:
        what = self.space.elements[element]
        value = self.program.values[what.value]
        assert isinstance(value, Map)
        return statements.expression(value.expression, [names[o] if o >= 0 else "" for o in what.operands])

    def _phase(self, level: int, names: dict[int, str], done: set[int]) -> list[str]:
        """One loop over the columns: what is stored at this level, and what the reductions of the next level take."""
        elements = self.space.elements
        reduces = [e for e in sorted(self._used) if elements[e].kind == "reduce" and elements[e].level == level + 1]
        stores = [
            (at, element)
            for at, (element, _, _) in enumerate(self.stores)
            if elements[element].wide and elements[element].level == level
        ]
        if not reduces and not stores:
            return []
        loop = _Loop(self, level, names, done)
        for at, element in stores:
            loop.store(at, element)
        for at, (element, _, _) in enumerate(self.stores):
            if elements[element].wide and elements[element].level == level + 1:
                loop.announce(at)
        before, after, results = [], [], {}
        for element in reduces:
            start, fold, result = loop.reduce(element)
            before += start
            after += fold
            results[element] = result
        lines = [*before]
        lines.append(f"for (int64_t c = 0; c < columns; c += {CHUNK}) {{")
        lines.append(f"    const int64_t n = columns - c < {CHUNK} ? columns - c : {CHUNK};")
        lines += [f"    {line}" for line in loop.lines()]
        lines += [f"    {line}" for line in after]
        lines.append("}")
        for element in reduces:
            name = f"r{element}"
            kind = held(self.program.values[elements[element].value].dtype)
            lines.append(f"const {kind} {name} = {results[element]};")
            names[element] = name
        done |= loop.computed
        return lines

    def keep(self, element: int) -> str:
        """Name of the array that holds a row of an element for later phases."""
        if element not in self._kept:
            self._kept[element] = f"kept{len(self._kept)}"
        return self._kept[element]

    def kept_at(self, element: int) -> str:
        """C text of where this chunk of a kept element lies: aligned, as rows of results mostly are not."""
        return f"{self._kept[element]} + c"

    def work(self, element: int) -> int:
        """Rough work to compute an element again: more than 1 where a loop reads it sooner from an array."""
        what = self.space.elements[element]
        if what.kind != "map":
            return int(what.wide)
        value = self.program.values[what.value]
        own = COSTLY_WORK if isinstance(value, Map) and is_costly(value) else 0
        return own + sum(1 if self.is_kept(o) else self.work(o) for o in what.operands if o >= 0)

    def is_kept(self, element: int) -> bool:
        """Whether a later phase needs the element."""
        return element in self._kept

    # -------------------------------------------------------------------------------------------- text

    def _emit_place(self) -> None:
        place, first = self.space.place, self.space.anchor
        self.lines += [
            f"static verdict {self.name}_place(domain *d, const void *frame, affine *store, load_place *load)",
            "{",
            f"    const {self.program.name}_frame *f = frame;",
            f"    const int64_t columns = columns_of(&f->of[{first.operand}], {first.axes});",
            "    index_map m0;",
            "    (void)f, (void)load, (void)columns;",
            "    map_output(d, &m0);",
            "    *store = m0.row[0];",
            *(f"    {line}" for line in place.lines),
            "    return DONE;",
            "}",
            "",
        ]

    def _emit_function(self, phases: Sequence[Sequence[str]]) -> None:
        parameters = "(int64_t rows, int64_t columns, const operand *loads, const operand *stores, void *scratch)"
        known = self._known_columns()
        if known is None:
            lines = [f"static void {self.name}_rows{parameters}"]
        else:
            lines = [f"ALWAYS void {self.name}_any{parameters}"]
        lines += ["{", "    (void)columns, (void)loads, (void)scratch;"]
        together = self._rows_together()
        width, prefix = ("columns", "") if together == 1 else ("width", "all_")
        if together > 1 and self._kept:
            lines.append("    const int64_t width = (columns + LANES - 1) / LANES * LANES; /* every row is aligned */")
        at = "scratch"
        for element, name in self._kept.items():
            rows = "" if together == 1 else f"{together} * "
            after = "0" if at == "scratch" else f"{rows}{width} * sizeof *{at}"
            lines.append(f"    {self._kept_kind(element)} *{prefix}{name} = aligned_after({at}, {after});")
            at = prefix + name
        if together == 1:
            lines.append("    for (int64_t r = 0; r < rows; r++) {")
            lines += [f"        {line}" for phase in phases for line in phase]
            lines += ["    }", "}", ""]
        else:
            lines += [f"    {line}" for line in self._grouped(phases, together)]
            lines += ["}", ""]
        if known is not None:
            lines += [
                f"static void {self.name}_rows{parameters}",
                "{",
                f"    if (columns == {known})",
                f"        {self.name}_any(rows, {known}, loads, stores, scratch);",
                "    else",
                f"        {self.name}_any(rows, columns, loads, stores, scratch);",
                "}",
                "",
            ]
        self.lines += lines

    def _grouped(self, phases: Sequence[Sequence[str]], together: int) -> list[str]:
        """Phase by phase for some rows at a time: while the sums of one row are put together, others are computed.

        What a phase defines for a row and a later one reads is handed on in an array.
        """
        lines = [f"for (int64_t r0 = 0; r0 < rows; r0 += {together}) {{"]
        lines.append(f"    const int64_t count = rows - r0 < {together} ? rows - r0 : {together};")
        defined: dict[str, str] = {}  # name: its type
        for number, phase in enumerate(phases):
            own = {found[2]: found[1] for line in phase if (found := _DEFINITION.match(line))}
            later = _words(line for after in phases[number + 1 :] for line in after)
            words = _words(phase)
            handed = [name for name in own if name in later]
            lines += [f"    {own[name]} each_{name}[{together}];" for name in handed]
            lines.append("    for (int64_t k = 0; k < count; k++) {")
            if "r" in words:
                lines.append("        const int64_t r = r0 + k;")
            for element, name in self._kept.items():
                if name in words:
                    lines.append(f"        {self._kept_kind(element)} *{name} = all_{name} + k * width;")
            lines += [f"        const {defined[name]} {name} = each_{name}[k];" for name in defined if name in words]
            lines += [f"        {line}" for line in phase]
            lines += [f"        each_{name}[k] = {name};" for name in handed]
            lines.append("    }")
            defined.update((name, own[name]) for name in handed)
        return [*lines, "}"]

    def _kept_kind(self, element: int) -> str:
        return held(self.program.values[self.space.elements[element].value].dtype)

    def _rows_together(self) -> int:
        """Rows that go through each phase together: several where rows are short and there are several phases."""
        known = self._known_columns()
        several = any(self.space.elements[element].level > 0 for element in self._used)
        return ROWS_TOGETHER if several and known is not None and known <= SHORT_ROW else 1

    def _known_columns(self) -> int | None:
        """The number of columns, where it is the same in all examples, and small enough for the loops to show it."""
        found = set()
        for example in self.program.examples:
            shape = example[self.space.anchor.operand]
            found.add(None if shape is None else _split(shape, self.space.anchor.axes)[1])
        columns = found.pop() if len(found) == 1 else None
        return columns if columns is not None and columns <= CHUNK else None

    def _emit_table(self) -> None:
        elements, loads = self.space.elements, self.space.place.loads
        wide = [0] * len(loads)
        for element in elements:
            if element.kind == "load" and element.wide:
                wide[element.operands[0]] = 1
        kept = self._rows_together() * sum(_bytes(self._kept_kind(element)) for element in self._kept)
        cost = 1 + sum(self._cost(elements[e]) for e in self._used if elements[e].wide or elements[e].kind == "reduce")
        dtypes = [self.program.values[value].dtype for _, value, _ in self.stores]
        stored_wide = [int(elements[element].wide) for element, _, _ in self.stores]
        self.lines += [
            f"static const row_kernel {self.name} = {{",
            f"    {self.name}_place,",
            f"    {self.name}_rows,",
            f"    {len(loads)},",
            f"    {c_array('int', [load.tensor for load in loads])},",
            f"    {c_array('int', [f'sizeof({STORAGE[load.dtype]})' for load in loads])},",
            f"    {c_array('unsigned char', wide)},",
            f"    {c_array('int', [load.index for load in loads])},",
            f"    {c_array('unsigned char', [int(load.only_index) for load in loads])},",
            f"    {len(self.stores)},",
            f"    {c_array('int', [tensor for _, _, tensor in self.stores])},",
            f"    {c_array('int', [f'sizeof({STORAGE[dtype]})' for dtype in dtypes])},",
            f"    {c_array('unsigned char', stored_wide)},",
            f"    {kept}, {cost}}};",
            "",
        ]

    def _cost(self, element: Element) -> int:
        value = self.program.values[element.value]
        return value.cost if isinstance(value, Map) and element.kind == "map" else 1


class _Loop:
    """The element-wise loop of one phase while it is written."""

    def __init__(self, step: RowStep, level: int, names: dict[int, str], done: set[int]) -> None:
        self.step = step
        self.level = level
        self.space = step.space
        self.program = step.program
        self.done = done
        self.computed: set[int] = set()
        self._names = dict(names)
        self._narrow = set(names)
        self._pointers: list[str] = []
        self._inside: list[str] = []
        self._stores: list[str] = []
        self._written: dict[int, str] = {}
        self._read: dict[str, str] = {}  # arrays that the loop reads, by name: their type
        self._filled: dict[str, tuple[str, bool]] = {}  # those that it writes: type, and whether only this chunk's
        self._announced: list[int] = []
        self._statements = Statements("t")

    def _name(self, element: int) -> str:
        """C name of the element within the loop."""
        if element not in self._names:
            self._names[element] = self._new(element)
        return self._names[element]

    def _new(self, element: int) -> str:
        what = self.space.elements[element]
        if what.kind == "load":
            slot = what.operands[0]
            load = self.space.place.loads[slot]
            self._read[self._pointer(slot)] = STORAGE[load.dtype]
            return self._statements.statement(loaded(f"load{slot}[i]", load.dtype), load.dtype)
        assert what.kind == "map" and what.wide, "a narrow element has its name before the loop"
        dtype = self.program.values[what.value].dtype
        if element in self.done and what.whole and self.step.work(element) > 1:
            name = self._again(element)
            self._read[name] = held(dtype)
            return self._statements.statement(f"{name}[i]", dtype)
        for operand in what.operands:
            if operand >= 0:
                self._name(operand)
        name = self.step._computed(self._statements, element, self._names)
        self.computed.add(element)
        if self.step.is_kept(element):
            self._write(element, name, dtype)
        return name

    def _again(self, element: int) -> str:
        """Name of the array that holds this chunk of an element since an earlier phase."""
        name = self.step.keep(element)
        kind = held(self.program.values[self.space.elements[element].value].dtype)
        self._pointers.append(f"const {kind} *again_{name} = {self.step.kept_at(element)};")
        return f"again_{name}"

    def _pointer(self, slot: int) -> str:
        load = self.space.place.loads[slot]
        line = (
            f"const {STORAGE[load.dtype]} *load{slot} = "
            f"(const {STORAGE[load.dtype]} *)loads[{slot}].data + r * loads[{slot}].row + c;"
        )
        if line not in self._pointers:
            self._pointers.append(line)
        return f"load{slot}"

    def _write(self, element: int, name: str, dtype: str) -> str:
        """Writes the element to an array of its own; the array's name at this chunk."""
        if element not in self._written:
            array = f"at_{self.step._kept[element]}" if self.step.is_kept(element) else f"chunk{element}"
            if self.step.is_kept(element):
                self._pointers.append(f"{held(dtype)} *{array} = {self.step.kept_at(element)};")
            else:
                self._pointers.append(f"{held(dtype)} {array}[{CHUNK}];")
            self._filled[array] = (held(dtype), not self.step.is_kept(element))
            self._stores.append(f"{array}[i] = {name};")
            self._written[element] = array
        return self._written[element]

    def _store_pointer(self, at: int) -> str:
        """Type of a result's elements; declares where this chunk of its row lies."""
        kind = STORAGE[self.program.values[self.step.stores[at][1]].dtype]
        self._pointers.append(f"{kind} *store{at} = ({kind} *)stores[{at}].data + r * stores[{at}].row + c;")
        return kind

    def announce(self, at: int) -> None:
        """Fetch the lines that the next phase writes while this one computes."""
        self._announced.append(at)

    def store(self, at: int, element: int) -> None:
        """Store a wide element."""
        dtype = self.program.values[self.step.stores[at][1]].dtype
        kind = self._store_pointer(at)
        self._filled[f"store{at}"] = (kind, False)
        self._stores.append(f"store{at}[i] = {stored(self._name(element), dtype)};")

    def reduce(self, element: int) -> tuple[list[str], list[str], str]:
        """(statements before the loop, after each chunk, the result)."""
        what = self.space.elements[element]
        value = self.program.values[what.value]
        assert isinstance(value, Reduce)
        operand, kind = what.operands[0], value.kind
        squared = self._squared(operand) if kind in ("sum", "mean") and held(value.dtype) == "float" else None
        array = self._array(operand if squared is None else squared)
        total = f"total{element}"
        if kind in POSITIONS:
            suffix = SUFFIX[self.program.values[value.operand].dtype]
            apart = int(suffix == "f32" and not array.startswith("load"))
            return (
                [f"position_{suffix} {total} = {{0, -1}};"],
                [f"{total} = {kind}_{suffix}({array}, n, c, {total}, {apart});"],
                f"{total}.at < 0 ? 0 : {total}.at",
            )
        suffix = SUFFIX[value.dtype]
        whole = held(value.dtype)
        double = whole in ("float", "double") and kind in ("sum", "mean", "product")
        kept = "double" if double else whole
        start = f"{kept} {total} = {START[kind](value.dtype)};"
        apart = int(not array.startswith("load"))
        if kind in ("sum", "mean") and whole == "float":
            fold = f"{total} += {'sum_f32' if squared is None else 'sum_squares_f32'}({array}, n, {apart});"
        else:
            name = {"sum": "sum", "mean": "sum", "product": "product"}.get(kind, f"{kind}_of")
            more = f", {apart}" if whole == "float" else ""
            fold = f"{total} = {name}_{suffix}({array}, n, {total}{more});"
        result = f"({whole}){total}" if double and whole == "float" else total
        if kind == "mean":
            count = "(double)columns" if double else f"({whole})columns"
            result = f"({whole})({total} / {count})" if double else f"divide_{suffix}({total}, {count})"
        return [start], [fold], result

    def _squared(self, element: int) -> int | None:
        """The element whose square this one is, and nothing else wants."""
        what = self.space.elements[element]
        value = self.program.values[what.value]
        if what.kind != "map" or not isinstance(value, Map) or self.step.is_kept(element) or element in self._names:
            return None
        product = value.expression
        if (
            not isinstance(product, Call)
            or product.primitive != "multiply"
            or product.arguments[0] != product.arguments[1]
        ):
            return None
        factor = product.arguments[0]
        return what.operands[factor.slot] if isinstance(factor, Operand) else None

    def _array(self, element: int) -> str:
        """Name of an array that holds this chunk of the element as it is held in registers."""
        what = self.space.elements[element]
        dtype = self.program.values[what.value].dtype
        if what.kind == "load" and what.wide and dtype not in HALVES:
            return self._pointer(what.operands[0])
        if element in self.done and what.whole and what.kind == "map" and self.step.work(element) > 1:
            return self._again(element)
        return self._write(element, self._name(element), dtype)

    def lines(self) -> list[str]:
        """The loop over one chunk: whole vectors of LANES, and what is left as one vector more.

        That one overlaps the one before it. What it reads is copied before the loop, which may write there. In arrays
        of floats it lies apart (``last_vector`` of ``c/reductions.h``).
        """
        if not self._stores:
            return self._pointers
        for at in self._announced:
            self._store_pointer(at)
        body = [*self._statements.lines, *self._stores]
        before, after = [], []
        for name, kind in self._read.items():
            before += [
                f"{kind} end_{name}[LANES];",
                "if (left)",
                f"    take_last(end_{name}, {name}, {_end(kind, name.startswith('again_'))}, sizeof *{name});",
            ]
        shadows = [f"const {kind} *{name} = end_{name};" for name, kind in self._read.items()]
        for name, (kind, apart) in self._filled.items():
            if apart:
                before.append(f"{kind} *end_{name} = {name} + {_end(kind, True)} - LANES;")
            else:
                before.append(f"{kind} end_{name}[LANES];")
                end = _end(kind, not name.startswith("store"))
                after.append(f"put_last({name}, end_{name}, {end}, sizeof *{name});")
            shadows.append(f"{kind} *{name} = end_{name};")
        return [
            *dict.fromkeys(self._pointers),
            "if (n < LANES) {",
            "    VECTORISED",
            "    for (int64_t i = 0; i < n; i++) {",
            *(f"        {line}" for line in body),
            "    }",
            "} else {",
            "    const int left = n % LANES;",
            *(f"    {line}" for line in before),
            "    for (int64_t first = 0; first < n - left; first += LANES) {",
            *(f"        __builtin_prefetch(store{at} + first, 1);" for at in self._announced),
            "        VECTORISED",
            "        for (int64_t i = first; i < first + LANES; i++) {",
            *(f"            {line}" for line in body),
            "        }",
            "    }",
            "    if (left) {",
            "        {",
            *(f"            {line}" for line in shadows),
            "            VECTORISED",
            "            for (int i = 0; i < LANES; i++) {",
            *(f"                {line}" for line in body),
            "            }",
            "        }",
            *(f"        {line}" for line in after),
            "    }",
            "}",
        ]


def _end(kind: str, own: bool) -> str:
    """C text of where the last vector of a chunk ends, in an array of a kernel's own or in a tensor."""
    return "n - left + LANES" if own and kind == "float" else "n"


def _words(lines: Iterable[str]) -> set[str]:
    return {word for line in lines for word in re.findall(r"[A-Za-z_]\w*", line)}


def c_array(kind: str, values: Sequence[object]) -> str:
    """C text of a table."""
    return f"(const {kind}[]){{{', '.join(str(value) for value in values) or '0'}}}"


def _least(dtype: str) -> str:
    if dtype in FLOATS:
        return "-INFINITY"
    if dtype.startswith("u") or dtype == "bool":
        return "0"
    return f"INT{dtype[3:]}_MIN"


def _greatest(dtype: str) -> str:
    if dtype in FLOATS:
        return "INFINITY"
    return f"U{dtype[1:].upper()}_MAX" if dtype.startswith("u") else f"{dtype.upper()}_MAX"


START = {
    "sum": lambda dtype: "0",
    "mean": lambda dtype: "0",
    "product": lambda dtype: "1",
    "maximum": _least,
    "minimum": _greatest,
}


def _bytes(kind: str) -> int:
    return {"float": 4, "double": 8, "int64_t": 8, "uint64_t": 8, "int32_t": 4, "uint32_t": 4}.get(kind, 2)


def _count(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _split(shape: Shape, axes: int) -> tuple[int, int]:
    """(rows, columns) of a shape whose last axes are columns."""
    kept = len(shape) - axes
    return _count(shape[:kept]), _count(shape[kept:])


def _constant_along_rows(whole: Shape, shape: Shape, columns: int, each: bool) -> bool:
    """As ``constant_along_rows`` of ``c/reductions.h``."""
    if len(shape) > len(whole):
        return False
    padded = (1,) * (len(whole) - len(shape)) + shape
    inner, d = 1, len(whole) - 1
    while inner < columns and d >= 0:
        inner *= whole[d]
        if padded[d] != 1 and whole[d] != 1:
            return False
        d -= 1
    if inner != columns:
        return False
    return not each or all(padded[k] == whole[k] for k in range(d + 1))
