"""Nests: steps of element-wise and layout work.

A nest computes all elements of a few values of one shape. Each way through the choices on the path (which operand of a
concat, padding or not) is an *alternative*: a place function, and a compute function that is one flat loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphopt.kernels.places import Load, Part, Place, TooLargeError, ints, is_once
from graphopt.kernels.program import Lookup, Map, Program, View
from graphopt.kernels.scalar import PRIMITIVES, STORAGE, converted, held, loaded, number, stored
from graphopt.operators.lowering import Call, Expression, Literal, Operand

MAX_ALTERNATIVES = 256


class Statements:
    """C statements of scalar expressions, each value once.

    Attributes:
        lines: declarations, in order.
    """

    def __init__(self, prefix: str = "t") -> None:
        self.lines: list[str] = []
        self._known: dict[tuple[str, str], str] = {}
        self._prefix = prefix
        self._names = 0

    def statement(self, text: str, dtype: str) -> str:
        """Name of a value."""
        key = (text, dtype)
        if key not in self._known:
            name = f"{self._prefix}{self._names}"
            self._names += 1
            self.lines.append(f"const {held(dtype)} {name} = {text};")
            self._known[key] = name
        return self._known[key]

    def expression(self, expression: Expression, operands: Sequence[str]) -> str:
        """C text of an expression over operands that have names."""
        if isinstance(expression, Operand):
            return operands[expression.slot]
        if isinstance(expression, Literal):
            return number(expression)
        assert isinstance(expression, Call)
        arguments = [self.expression(argument, operands) for argument in expression.arguments]
        source = expression.arguments[-1].dtype
        if expression.primitive == "cast":
            text = converted(arguments[0], source, expression.dtype)
        else:
            text = PRIMITIVES[expression.primitive](arguments, source)
        return self.statement(text, expression.dtype)


@dataclass
class _Choices:
    """One way through the choices of a nest."""

    taken: list[tuple[int, int]] = field(default_factory=list)  # (taken, number of options), in order of meeting
    met: int = 0

    def choose(self, options: int) -> int:
        if self.met == len(self.taken):
            self.taken.append((0, options))
        taken = self.taken[self.met][0]
        self.met += 1
        return taken

    def following(self) -> "_Choices | None":
        """The next way; None after the last."""
        choices = self.taken[: self.met]
        while choices:
            taken, options = choices.pop()
            if taken + 1 < options:
                return _Choices([*choices, (taken + 1, options)])
        return None


@dataclass(frozen=True)
class _Alternative:
    loads: tuple[Load, ...]
    compute: str  # name of the C function, or NULL


class Nest:
    """A step that computes values of one shape together, an element of each at a time.

    Attributes:
        lines: the C of its functions and tables.
    """

    def __init__(
        self,
        program: Program,
        stores: Sequence[tuple[int, int]],
        tensors: dict[int, int],
        name: str,
        part: Part | None = None,
    ) -> None:
        """Write the C.

        Args:
            program: with the values.
            stores: (value, number of the tensor it goes to).
            tensors: values that are in memory before the step.
            name: beginning of the names of the C functions.
            part: where in the tensor the value goes; None where it is all of it.

        Raises:
            TooLargeError: when it would need too many loads or alternatives.
        """
        self.program = program
        self.stores = tuple(stores)
        self.tensors = tensors
        self.name = name
        self.part = part
        self.lines: list[str] = []
        self.alternatives: list[_Alternative] = []
        self._compute: dict[str, str] = {}
        self.cost = 1
        choices: _Choices | None = _Choices()
        while choices is not None:
            if len(self.alternatives) == MAX_ALTERNATIVES:
                raise TooLargeError("more than 256 combinations of concatenated operands")
            self._alternative(choices)
            choices = choices.following()
        self._emit_tables()

    @property
    def reads(self) -> set[int]:
        """Tensors that it loads."""
        return {load.tensor for alternative in self.alternatives for load in alternative.loads}

    def plan_call(self) -> list[str]:
        """C statements that plan the step."""
        shape = self.stores[0][0]
        return [
            f"error = plan_nest(p, &{self.name}_outputs, &f.of[{shape}], {self.name}_alternatives,",
            f"                  {len(self.alternatives)}, &f);",
        ]

    def _alternative(self, choices: _Choices) -> None:
        walk = Walk(self.program, self.tensors, Place(self.program, self.tensors, len(self.stores), choices.choose))
        results = [walk.pull(value, "m0", value) for value, _ in self.stores]
        self.cost = max(self.cost, 1 + walk.cost)
        number_ = len(self.alternatives)
        self.lines += [
            f"static verdict {self.name}_place{number_}(domain *d, const void *frame, affine *store, load_place *load)",
            "{",
            f"    const {self.program.name}_frame *f = frame;",
            "    index_map m0;",
            "    (void)f, (void)load;",
            "    map_output(d, &m0);",
            "    *store = m0.row[0];",
            *(f"    {line}" for line in (self.part.lines(self.program) if self.part else ())),
            *(f"    {line}" for line in walk.place.lines),
            "    return DONE;",
            "}",
            "",
        ]
        compute = self._compute_function(walk, results)
        self.alternatives.append(_Alternative(tuple(walk.place.loads), compute))

    def _compute_function(self, walk: "Walk", results: Sequence[str]) -> str:
        """Emits the loop, or finds the same one emitted before; NULL where one load is copied."""
        stores = [self.program.values[value].dtype for value, _ in self.stores]
        copied = [load for load in walk.place.loads if not load.only_index]
        moved = len(results) == 1 and len(copied) == 1 and copied[0].dtype == stores[0]
        if moved and results[0] == f"x{walk.place.loads.index(copied[0])}":
            return "NULL"
        lines = []
        inside = []
        for slot, load in enumerate(walk.place.loads):
            kind = STORAGE[load.dtype]
            if load.only_index:
                continue
            if load.once:
                value = loaded(f"*(const {kind} *)loads[{slot}]", load.dtype)
                lines.append(f"    const {held(load.dtype)} x{slot} = {value};")
            else:
                lines.append(f"    const {kind} *load{slot} = loads[{slot}];")
                inside.append(f"        const {held(load.dtype)} x{slot} = {loaded(f'load{slot}[i]', load.dtype)};")
        for position, dtype in enumerate(stores):
            lines.append(f"    {STORAGE[dtype]} *store{position} = stores[{position}];")
        lines += ["    (void)loads;", "    VECTORISED", "    for (int64_t i = 0; i < n; i++) {", *inside]
        lines += [f"        {statement}" for statement in walk.statements.lines]
        lines += [
            f"        store{position}[i] = {stored(result, dtype)};"
            for position, (result, dtype) in enumerate(zip(results, stores, strict=True))
        ]
        lines.append("    }")
        text = "\n".join(lines)
        if text not in self._compute:
            name = f"{self.name}_compute{len(self._compute)}"
            self._compute[text] = name
            self.lines += [
                f"static void {name}(int64_t n, const void *const *loads, void *const *stores)",
                "{",
                text,
                "}",
                "",
            ]
        return self._compute[text]

    def _emit_tables(self) -> None:
        tensors = ints([tensor for _, tensor in self.stores])
        sizes = ", ".join(f"sizeof({STORAGE[self.program.values[value].dtype]})" for value, _ in self.stores)
        self.lines += [
            f"static const nest_outputs {self.name}_outputs = {{{len(self.stores)}, (const int[]){{{tensors}}},",
            f"                                        (const int[]){{{sizes}}}, {self.cost}}};",
            f"static const alternative {self.name}_alternatives[] = {{",
        ]
        for position, a in enumerate(self.alternatives):
            tensors = ints([load.tensor for load in a.loads])
            sizes = ", ".join(f"sizeof({STORAGE[load.dtype]})" for load in a.loads) or "0"
            once = ints([int(load.once) for load in a.loads])
            index = ints([load.index for load in a.loads])
            self.lines.append(
                f"    {{{self.name}_place{position}, {a.compute}, {len(a.loads)}, (const int[]){{{tensors}}},\n"
                f"     (const int[]){{{sizes}}}, (const unsigned char[]){{{once}}}, (const int[]){{{index}}}}},"
            )
        self.lines += ["};", ""]


class Walk:
    """From results back to the loads, an element of each.

    Attributes:
        place: C that finds the loads.
        statements: C of the scalar expressions.
        cost: rough operations for an element of each result.
    """

    def __init__(self, program: Program, tensors: dict[int, int], place: Place) -> None:
        self.program = program
        self.tensors = tensors
        self.place = place
        self.statements = Statements()
        self.cost = 0
        self._known: dict[tuple[int, str, int], str] = {}

    def pull(self, value: int, state: str, shape: int) -> str:
        """C name of one element of ``value`` at the index ``state`` into the shape of value ``shape``."""
        key = (value, state, shape)
        if key not in self._known:
            self._known[key] = self._computed(value, state, shape)
        return self._known[key]

    def _computed(self, value: int, state: str, shape: int) -> str:
        what = self.program.values[value]
        if value in self.tensors:
            here = self.place.at(state, shape, value)
            return f"x{self.place.load(value, here, once=is_once(self.program, value))}"
        if isinstance(what, Map):
            self.cost += what.cost
            operands = [self.pull(operand, state, shape) if operand >= 0 else "" for operand in what.operands]
            return self.statements.expression(what.expression, operands)
        here = self.place.at(state, shape, value)
        if isinstance(what, Lookup):
            return f"x{self.place.lookup(value, what, here)}"
        assert isinstance(what, View), "a reduction is in memory before a nest reads it"
        following = self.place.view(value, what, here)
        if following is None:
            return self.statements.statement("0", what.dtype)
        operand, there = following
        return self.pull(operand, there, operand)
