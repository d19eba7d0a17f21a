"""Rows: steps that take blocks of rows through element-wise phases and reductions.

``RowSpace`` finds out which values of a program one step can compute; ``RowStep`` writes its C: a function from block
of rows to block of rows, whose phases ``RowLoop`` writes.
"""

import re
from collections.abc import Iterable, Sequence

from graphopt.kernels.lower import is_costly
from graphopt.kernels.nests import Statements
from graphopt.kernels.program import Map
from graphopt.kernels.row_loop import CHUNK, RowLoop
from graphopt.kernels.row_space import Element, RowSpace, rows_and_columns
from graphopt.kernels.scalar import STORAGE, held, loaded, stored

COSTLY_WORK = 8
"""Loads that a costly primitive (an exponential) is worth."""

SHORT_ROW, ROWS_TOGETHER = 128, 4
"""Rows of so many columns at most go through their phases so many at a time: one row keeps no processor busy."""

_DEFINITION = re.compile(r"const (\w+) (\w+) = ")


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
                    names[element] = self.computed(narrow, element, names)
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

    def computed(self, statements: Statements, element: int, names: dict[int, str]) -> str:
        """C name of an element that is computed by more statements, from the names of what it is computed of."""
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
        loop = RowLoop(self, level, names, done)
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
            found.add(None if shape is None else rows_and_columns(shape, self.space.anchor.axes)[1])
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


def _words(lines: Iterable[str]) -> set[str]:
    return {word for line in lines for word in re.findall(r"[A-Za-z_]\w*", line)}


def c_array(kind: str, values: Sequence[object]) -> str:
    """C text of a table."""
    return f"(const {kind}[]){{{', '.join(str(value) for value in values) or '0'}}}"


def _bytes(kind: str) -> int:
    return {"float": 4, "double": 8, "int64_t": 8, "uint64_t": 8, "int32_t": 4, "uint32_t": 4}.get(kind, 2)
