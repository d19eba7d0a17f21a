"""Row spaces: which values of a program one step over rows can compute.

A row space has rows of columns: the last axes of what is reduced, and all axes before them. A *wide* value has an
element for each row and column, in storage order; a *narrow* one an element for each row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from graphopt.kernels.places import Place, has_choices, is_load, is_once
from graphopt.kernels.program import (
    ChannelWindow,
    Contraction,
    Input,
    IntegerContraction,
    Lookup,
    Map,
    Pooled,
    Program,
    Recurrence,
    Reduce,
    View,
)
from graphopt.operators.lowering import Reshape

Shape = tuple[int, ...]


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
        return rows_and_columns(shape, self.anchor.axes)

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
        return self._all(lambda rows, columns, shape: prod(shape) == rows * columns, value)

    def _is_narrow(self, value: int) -> bool:
        return self._all(lambda rows, columns, shape: prod(shape) == rows, value)

    def depends(self, value: int) -> bool:
        """Whether a value depends on a reduction or contraction that is not in memory."""
        if value not in self._depends:
            what = self.program.values[value]
            if value in self.tensors:
                self._depends[value] = False
            elif isinstance(what, Reduce | Contraction | IntegerContraction | ChannelWindow | Pooled | Recurrence):
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
                        (prod(shape[: len(shape) - axes]), prod(shape[len(shape) - axes :])) == (rows, columns)
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


def rows_and_columns(shape: Shape, axes: int) -> tuple[int, int]:
    """(rows, columns) of a shape whose last axes are columns."""
    kept = len(shape) - axes
    return prod(shape[:kept]), prod(shape[kept:])


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
