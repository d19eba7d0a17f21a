"""Places: C that walks index maps from a result back to the tensors that are loaded.

A place function is one straight list of calls of ``c/planner.h``. It begins with the index of the result's element and
ends with the index into each loaded tensor; every call may ask for a loop to be split instead (``STEP``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from graphopt.kernels.program import Input, Lookup, Program, View
from graphopt.operators import lowering
from graphopt.operators.lowering import Concat, Expand, Gather, Pad, PadTo, Reshape, Slice, Take, Transpose

MAX_OPERANDS = 32
"""Loads and stores of one step, as in executor.h."""


class TooLargeError(Exception):
    """The program needs more loads or alternatives than a kernel may have."""


def ints(values: Sequence[int]) -> str:
    """C text of the elements of an array."""
    return ", ".join("INT64_MIN" if value == -(2**63) else str(value) for value in values) or "0"


@dataclass(frozen=True, slots=True)
class Load:
    """One operand of a step.

    Attributes:
        tensor: number of the tensor: inputs, then outputs, then temporaries.
        dtype: element type.
        once: whether it has one element, which is read outside of the loop.
        index: for a lookup the load of its indices; -1 for others.
        only_index: whether it is loaded for a lookup only.
    """

    tensor: int
    dtype: str
    once: bool = False
    index: int = -1
    only_index: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Where a value goes that is only wanted as an operand of a concat.

    Attributes:
        concat: the value that is concatenated.
        position: of the operand that the value is, but for reshapes.
    """

    concat: int
    position: int

    def lines(self, program: Program) -> list[str]:
        """C statements that turn ``*store``, an index into the value, into one into the concatenated value."""
        view = program.values[self.concat]
        assert isinstance(view, View) and isinstance(view.index_map, Concat)
        operand = view.operands[self.position]
        return [
            "index_map part;",
            "part.rank = -1;",
            "part.row[0] = *store;",
            f"STEP(unflatten(d, &part, &f->of[{operand}]));",
            f"part.row[{view.index_map.axis}].base += f->start{self.concat}[{self.position}];",
            f"flatten(d, &part, &f->of[{self.concat}]);",
            "*store = part.row[0];",
        ]


class Place:
    """The body of a place function while it is written.

    Attributes:
        lines: C statements.
        loads: operands met so far.
        tensors: number of the tensor that holds a value, for values that are in memory.
    """

    def __init__(
        self, program: Program, tensors: dict[int, int], stores: int, choose: Callable[[int], int] | None = None
    ) -> None:
        self.program = program
        self.tensors = tensors
        self.stores = stores
        self.lines: list[str] = []
        self.loads: list[Load] = []
        self._maps = 1  # m0 is the index of the result's element
        self._choose = choose

    def new_map(self, state: str) -> str:
        """A copy of an index map, to go on from."""
        name = f"m{self._maps}"
        self._maps += 1
        self.lines.append(f"index_map {name} = {state};")
        return name

    def anywhere(self) -> str:
        """The index of the only element of a tensor."""
        name = f"m{self._maps}"
        self._maps += 1
        self.lines += [f"index_map {name};", f"memset(&{name}, 0, sizeof {name});", f"{name}.rank = -1;"]
        return name

    def at(self, state: str, root: int, value: int) -> str:
        """From the index into a value to the index into an operand that was broadcast to it."""
        here = self.new_map(state)
        if root != value:
            self.lines.append(f"STEP(map_broadcast(d, &{here}, &f->of[{root}], &f->of[{value}]));")
        return here

    def load(self, value: int, state: str, *, once: bool = False, only_index: bool = False) -> int:
        """Number of the load that reads a value which is in memory, at an index."""
        dtype = self.program.values[value].dtype
        self.lines.append(f"flatten(d, &{state}, &f->of[{value}]);")
        slot = self._add(Load(self.tensors[value], dtype, once, only_index=only_index))
        self.lines.append(f"load[{slot}] = (load_place){{{state}.row[0], 0, 0}};")
        return slot

    def _add(self, load: Load) -> int:
        if len(self.loads) + self.stores == MAX_OPERANDS:
            raise TooLargeError(f"more than {MAX_OPERANDS} loads and stores")
        self.loads.append(load)
        return len(self.loads) - 1

    def lookup(self, value: int, what: Lookup, state: str) -> int:
        """Number of the load that reads picked elements; data and indices are reached by views from memory."""
        axis, result = what.axis, f"&f->of[{value}]"
        data, indices = f"&f->of[{what.data}]", f"&f->of[{what.indices}]"
        where = self.new_map(state)
        self.lines.append(f"STEP(map_lookup(d, &{state}, &{where}, {result}, {data}, {indices}, {axis}));")
        self.lines.append(f"flatten(d, &{state}, {data});")
        operand = what.indices
        while operand not in self.tensors:
            view = self.program.values[operand]
            assert isinstance(view, View)
            following = self.view(operand, view, where)
            assert following is not None
            operand, where = following
        index = self.load(operand, where, only_index=True)
        slot = self._add(Load(self.tensors[what.data], what.dtype, index=index))
        stride = f"stride_of({data}, {axis})"
        self.lines.append(f"load[{slot}] = (load_place){{{state}.row[0], {stride}, f->of[{what.data}].size[{axis}]}};")
        return slot

    def view(self, value: int, view: View, state: str) -> tuple[int, str] | None:
        """The operand and the index into it; None where padding stands there."""
        kind = view.index_map
        result, operand = f"&f->of[{value}]", view.operands[0]
        source = f"&f->of[{operand}]"
        if isinstance(kind, Transpose):
            call = f"map_transpose(d, &{state}, {result}, (const int[]){{{ints(kind.permutation)}}})"
        elif isinstance(kind, Reshape):
            call = f"map_reshape(d, &{state}, {result})"
        elif isinstance(kind, Expand):
            call = f"map_broadcast(d, &{state}, {result}, {source})"
        elif isinstance(kind, Slice):
            call = f"map_slice(d, &{state}, {result}, f->start{value}, f->step{value})"
        elif isinstance(kind, Take):
            call = f"unflatten(d, &{state}, {result})"
        elif isinstance(kind, lowering.Part):
            self.lines.append(f"STEP(unflatten(d, &{state}, {result}));")
            self.lines.append(f"{state}.row[{kind.axis}].base += f->start{value};")
            return operand, state
        elif isinstance(kind, Concat):
            taken = self._chosen(len(view.operands))
            operand = view.operands[taken]
            size = f"f->of[{operand}].size[{kind.axis}]"
            call = f"map_part(d, &{state}, {result}, {kind.axis}, f->start{value}[{taken}], {size})"
        elif isinstance(kind, PadTo):
            size = f"f->of[{operand}].size[{kind.axis}]"
            if self._chosen(2) == 1:
                padded = f"f->of[{value}].size[{kind.axis}] - {size}"
                self.lines.append(f"STEP(map_part(d, &{state}, {result}, {kind.axis}, {size}, {padded}));")
                return None
            call = f"map_part(d, &{state}, {result}, {kind.axis}, 0, {size})"
        elif isinstance(kind, Pad):
            return self._pad(value, view, kind, state)
        elif isinstance(kind, Gather):
            indices = f"&f->of[{view.values[0]}], f->indices{value}, {kind.axis}"
            call = f"map_gather(d, &{state}, {result}, {source}, {indices})"
        else:
            call = f"map_tile(d, &{state}, {result}, {source})"
        self.lines.append(f"STEP({call});")
        return operand, state

    def _pad(self, value: int, view: View, kind: Pad, state: str) -> tuple[int, str] | None:
        operand = view.operands[0]
        where = f"d, &{state}, &f->of[{value}], &f->of[{operand}], f->before{value}"
        option = self._chosen(1 + 2 * kind.rank)
        if option == 0:
            self.lines.append(f"STEP(map_pad({where}));")
            return operand, state
        axis, side = divmod(option - 1, 2)
        self.lines.append(f"STEP(require_padding({where}, {axis}, {side}));")
        return None if len(view.operands) == 1 else (view.operands[1], self.anywhere())

    def _chosen(self, options: int) -> int:
        assert self._choose is not None, "a step of one alternative has no choices"
        return self._choose(options)


def has_choices(view: View) -> bool:
    """Whether a view takes its elements from one of several places."""
    return isinstance(view.index_map, Concat | Pad | PadTo)


def is_load(program: Program, tensors: Mapping[int, int], value: int) -> bool:
    """Whether a value is in memory, or reached from there by views without choices."""
    while value not in tensors:
        what = program.values[value]
        if not isinstance(what, View) or has_choices(what):
            return False
        value = what.operands[0]
    return True


def is_once(program: Program, value: int) -> bool:
    """Whether a value is an input of one element."""
    what = program.values[value]
    return isinstance(what, Input) and what.once
