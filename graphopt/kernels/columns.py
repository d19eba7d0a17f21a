"""Columns: steps that reduce other axes than the last, by putting rows on top of each other.

What is reduced has the shape outer x depth x width; the result has outer x width. Sums of embedding bags are the case
in point: the rows are picked by indices, and read where they lie in the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.kernels.nests import Walk
from graphopt.kernels.places import Part, Place
from graphopt.kernels.program import Program, Reduce, View
from graphopt.kernels.row_loop import START
from graphopt.kernels.rows import c_array
from graphopt.kernels.scalar import FLOATS, PRIMITIVES, STORAGE, SUFFIX, held, loaded, stored
from graphopt.operators.lowering import Transpose

COMBINED = {"sum": "add", "mean": "add", "maximum": "maximum", "minimum": "minimum", "product": "multiply"}
"""Primitive by which a kind of reduction combines two elements."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Rows on top of each other.

    Attributes:
        value: what is reduced, before its reduced axes went last.
        first: the first reduced axis.
        axes: number of reduced axes; they follow each other, and others follow them.
    """

    value: int
    first: int
    axes: int

    @property
    def sizes(self) -> tuple[str, str, str]:
        """C expressions of outer, depth and width."""
        shape = f"&f.of[{self.value}]"
        depth = f"size_of_axes({shape}, {self.first}, {self.first + self.axes})"
        return (
            f"size_of_axes({shape}, 0, {self.first})",
            depth,
            f"size_of_axes({shape}, {self.first + self.axes}, MAX_RANK)",
        )


def stack_of(program: Program, value: int) -> Stack | None:
    """How a reduction is one of rows on top of each other; None where it is not."""
    what = program.values[value]
    assert isinstance(what, Reduce)
    view = program.values[what.operand]
    if what.kind not in COMBINED or not isinstance(view, View) or not isinstance(view.index_map, Transpose):
        return None
    order = view.index_map.permutation
    moved, kept = order[len(order) - what.axes :], order[: len(order) - what.axes]
    follow = list(moved) == list(range(moved[0], moved[0] + len(moved))) if moved else False
    if not follow or list(kept) != sorted(kept) or moved[-1] == len(order) - 1:
        return None
    return Stack(view.operands[0], moved[0], len(moved))


class ColumnStep:
    """A step that computes reductions of one value's rows.

    Attributes:
        lines: the C of its functions and tables.
    """

    def __init__(
        self,
        program: Program,
        stack: Stack,
        stores: Sequence[tuple[int, int]],
        tensors: dict[int, int],
        name: str,
        part: Part | None = None,
    ) -> None:
        """Write the C.

        Args:
            program: with the values.
            stack: what is reduced.
            stores: (reduction, number of the tensor it goes to).
            tensors: values that are in memory before the step.
            name: beginning of the names of the C functions.
            part: where in the tensor the result goes; None where it is all of it.
        """
        self.program = program
        self.part = part
        self.stack = stack
        self.stores = tuple(stores)
        self.name = name
        self.lines: list[str] = []
        walk = Walk(program, tensors, Place(program, tensors, len(stores)))
        result = walk.pull(stack.value, "m0", stack.value)
        self._emit_place(walk)
        self._emit_function(walk, result)
        self._emit_table(walk)

    def plan_call(self) -> list[str]:
        """C statements that plan the step."""
        outer, depth, width = self.stack.sizes
        return [f"error = plan_columns(p, &{self.name}, {outer},", f"                     {depth}, {width}, &f);"]

    def _emit_place(self, walk: Walk) -> None:
        shape = f"&f->of[{self.stack.value}]"
        after = self.stack.first + self.stack.axes
        self.lines += [
            f"static verdict {self.name}_place(domain *d, const void *frame, affine *store, load_place *load)",
            "{",
            f"    const {self.program.name}_frame *f = frame;",
            "    index_map m0;",
            "    (void)f, (void)load;",
            "    map_output(d, &m0);",
            f"    *store = without_depth(d, size_of_axes({shape}, {self.stack.first}, {after}),",
            f"                           size_of_axes({shape}, {after}, MAX_RANK));",
            *(f"    {line}" for line in (self.part.lines(self.program) if self.part else ())),
            *(f"    {line}" for line in walk.place.lines),
            "    return DONE;",
            "}",
            "",
        ]

    def _emit_function(self, walk: Walk, result: str) -> None:
        head = f"static void {self.name}_columns("
        self.lines += [
            f"{head}int64_t rows, int64_t width, int64_t depth, const void *const (*loads)[STACKED_ROWS],",
            f"{' ' * len(head)}void *const *stores, void *scratch, int first, int last)",
            "{",
            "    (void)depth, (void)loads;",
        ]
        room = "scratch, 0"
        for number, (value, _) in enumerate(self.stores):
            what = self._reduce(value)
            kind, kept = held(what.dtype), _total(what)
            self.lines += [
                f"    {kept} *total{number} = aligned_after({room});",
                f"    {kind} part{number}[STRIP];",
            ]
            room = f"total{number}, STRIP * sizeof *total{number}"
        loads = [(slot, load) for slot, load in enumerate(walk.place.loads) if not load.only_index]
        sums = all(self._reduce(value).kind in ("sum", "mean") for value, _ in self.stores)
        plain = len(loads) == 1 and result == f"x{loads[0][0]}" and loads[0][1].dtype == "float32" and sums
        if plain:
            if self._reduce(self.stores[0][0]).kind == "sum":
                self.lines += [
                    "    if (rows > 0 && first && last) {",
                    f"        sum_rows_f32(rows, width, loads[{loads[0][0]}], stores[0]);",
                    "        return;",
                    "    }",
                ]
            self.lines += [
                "    if (rows > 0)",
                f"        sum_rows_f32(rows, width, loads[{loads[0][0]}], part0);",
                "    else",
                "        memset(part0, 0, (size_t)width * sizeof *part0);",
            ]
        else:
            self.lines += self._combined(walk, result)
        self._emit_totals()
        self.lines += ["}", ""]

    def _combined(self, walk: Walk, result: str) -> list[str]:
        """Each row in turn, combined with the rows before it."""
        lines = []
        for number, (value, _) in enumerate(self.stores):
            what = self._reduce(value)
            lines += [
                "    for (int64_t i = 0; i < width; i++)",
                f"        part{number}[i] = {START[what.kind](what.dtype)};",
            ]
        lines.append("    for (int64_t r = 0; r < rows; r++) {")
        inside = []
        for slot, load in enumerate(walk.place.loads):
            if load.only_index:
                continue
            kind = STORAGE[load.dtype]
            if load.once:
                text = loaded(f"*(const {kind} *)loads[{slot}][r]", load.dtype)
                lines.append(f"        const {held(load.dtype)} x{slot} = {text};")
            else:
                lines.append(f"        const {kind} *load{slot} = loads[{slot}][r];")
                inside.append(f"const {held(load.dtype)} x{slot} = {loaded(f'load{slot}[i]', load.dtype)};")
        lines += ["        VECTORISED", "        for (int64_t i = 0; i < width; i++) {"]
        lines += [f"            {line}" for line in (*inside, *walk.statements.lines)]
        for number, (value, _) in enumerate(self.stores):
            what = self._reduce(value)
            combined = PRIMITIVES[COMBINED[what.kind]]([f"part{number}[i]", result], what.dtype)
            lines.append(f"            part{number}[i] = {combined};")
        return [*lines, "        }", "    }"]

    def _emit_totals(self) -> None:
        """The part is added to the total of the rows before; the last one gives the result."""
        for number, (value, _) in enumerate(self.stores):
            what = self._reduce(value)
            kind, kept = STORAGE[what.dtype], _total(what)
            wide = "float64" if kept == "double" else what.dtype
            combined = PRIMITIVES[COMBINED[what.kind]]([f"total{number}[i]", f"({kept})part{number}[i]"], wide)
            whole = f"total{number}[i]"
            only = f"part{number}[i]"
            if what.kind == "mean":
                whole, only = (_divided(text, what.dtype) for text in (whole, only))
            self.lines += [
                f"    {kind} *store{number} = stores[{number}];",
                "    if (first && last) {",
                "        VECTORISED",
                "        for (int64_t i = 0; i < width; i++)",
                f"            store{number}[i] = {stored(f'({held(what.dtype)})({only})', what.dtype)};",
                "    } else {",
                "        for (int64_t i = 0; i < width; i++)",
                f"            total{number}[i] = first ? ({kept})part{number}[i] : {combined};",
                "        for (int64_t i = 0; i < width && last; i++)",
                f"            store{number}[i] = {stored(f'({held(what.dtype)})({whole})', what.dtype)};",
                "    }",
            ]

    def _emit_table(self, walk: Walk) -> None:
        loads = walk.place.loads
        dtypes = [self.program.values[value].dtype for value, _ in self.stores]
        self.lines += [
            f"static const column_kernel {self.name} = {{",
            f"    {self.name}_place,",
            f"    {self.name}_columns,",
            f"    {len(loads)},",
            f"    {c_array('int', [load.tensor for load in loads])},",
            f"    {c_array('int', [f'sizeof({STORAGE[load.dtype]})' for load in loads])},",
            f"    {c_array('int', [load.index for load in loads])},",
            f"    {c_array('unsigned char', [int(load.only_index) for load in loads])},",
            f"    {len(self.stores)},",
            f"    {c_array('int', [tensor for _, tensor in self.stores])},",
            f"    {c_array('int', [f'sizeof({STORAGE[dtype]})' for dtype in dtypes])},",
            f"    {1 + walk.cost}}};",
            "",
        ]

    def _reduce(self, value: int) -> Reduce:
        what = self.program.values[value]
        assert isinstance(what, Reduce)
        return what


def _total(what: Reduce) -> str:
    """C type of a total: sums and products of floats are kept in double precision."""
    whole = held(what.dtype)
    return "double" if whole == "float" and what.kind in ("sum", "mean", "product") else whole


def _divided(text: str, dtype: str) -> str:
    if dtype in FLOATS:
        return f"{text} / (double)depth"
    return f"divide_{SUFFIX[dtype]}({text}, ({held(dtype)})depth)"
