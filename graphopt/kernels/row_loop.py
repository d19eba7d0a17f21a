"""The loop over the columns of one phase of a step over rows, while it is written."""

from typing import TYPE_CHECKING

from graphopt.kernels.nests import Statements
from graphopt.kernels.program import Map, Reduce
from graphopt.kernels.scalar import FLOATS, HALVES, STORAGE, SUFFIX, held, loaded, stored
from graphopt.operators.lowering import POSITIONS, Call, Operand

if TYPE_CHECKING:
    from graphopt.kernels.rows import RowStep

CHUNK = 1024
"""Columns of an element-wise loop, so that what it hands to a reduction stays in the first-level cache."""


class RowLoop:
    """The element-wise loop of one phase while it is written."""

    def __init__(self, step: "RowStep", level: int, names: dict[int, str], done: set[int]) -> None:
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
        name = self.step.computed(self._statements, element, self._names)
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
            array = f"at_{self.step.keep(element)}" if self.step.is_kept(element) else f"chunk{element}"
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
