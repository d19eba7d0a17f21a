"""What the step of a contraction computes behind the sums: a factor and a bias in registers, or element-wise work."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from graphopt.kernels.contraction import PRODUCT, Linear, linear_of, product_load
from graphopt.kernels.nests import Nest
from graphopt.kernels.places import TooLargeError, has_choices, is_load
from graphopt.kernels.program import Map, Program, View, present
from graphopt.operators.lowering import Reshape


@dataclass(frozen=True)
class Behind:
    """What stands behind contractions.

    Attributes:
        program: with the contractions, and examples.
        readers: for each value those that are computed from it.
        tensors: values that are in memory, by the number of their tensor.
        outputs: values that are outputs.
    """

    program: Program
    readers: Sequence[Sequence[int]]
    tensors: Mapping[int, int]
    outputs: Collection[int]

    def linear(self, product: int) -> Linear:
        """The maps behind a contraction that only scale it and add a bias to each row."""
        found = Linear(product)
        while found.value not in self.outputs and len(self.readers[found.value]) == 1:
            (reader,) = self.readers[found.value]
            what = self.program.values[reader]
            longer = linear_of(what, reader, found) if isinstance(what, Map) else None
            if longer is None or not self._same_count(reader, product):
                break
            if longer.bias >= 0 and not self._is_bias(longer.bias, product):
                break
            found = longer
        return found

    def epilogue(self, value: int) -> tuple[int, Nest | None]:
        """The last value that blocks of another one's elements are enough for, and its nest; that other one itself."""
        members = {value}
        found: tuple[int, Nest | None] = (value, None)
        for number in range(value + 1, len(self.program.values)):
            if value in self.outputs or not self._joins(number, members, value):
                continue
            members.add(number)
            inside = self._between(number, members)
            closed = all(set(self.readers[m]) <= inside and m not in self.outputs for m in inside - {number})
            if closed and isinstance(self.program.values[number], Map) and inside >= {value}:
                try:
                    nest = Nest(self.program, [(number, 0)], {**self.tensors, value: PRODUCT}, "trial")
                except TooLargeError:
                    break
                if product_load(nest) is not None:
                    found = (number, nest)
        return found

    def _is_bias(self, value: int, product: int) -> bool:
        """Whether a value is in memory below views without choices, and has an element for each column of a product."""
        return is_load(self.program, self.tensors, value) and all(
            (shape := example[value]) is not None
            and (whole := example[product]) is not None
            and len(shape) > 0
            and shape[-1] == prod(shape) == whole[-1]
            for example in self.program.examples
        )

    def _same_count(self, value: int, product: int) -> bool:
        """Whether two values had as many elements in every example."""
        return all(
            (shape := example[value]) is not None
            and (whole := example[product]) is not None
            and prod(shape) == prod(whole)
            for example in self.program.examples
        )

    def _joins(self, number: int, members: set[int], product: int) -> bool:
        """Whether a value is computed from members and from what is in memory, an element from each element."""
        what = self.program.values[number]
        if number in self.tensors or not isinstance(what, Map | View):
            return False
        if isinstance(what, View) and not isinstance(what.index_map, Reshape):
            return False
        operands = present(what)
        if not members.intersection(operands):
            return False
        ready = all(operand in members or self._is_ready(operand) for operand in operands)
        return ready and self._same_count(number, product)

    def _is_ready(self, value: int) -> bool:
        """Whether a value is computed from what is in memory by maps and views without choices."""
        if value in self.tensors:
            return True
        what = self.program.values[value]
        if not isinstance(what, Map | View) or (isinstance(what, View) and has_choices(what)):
            return False
        return all(self._is_ready(operand) for operand in present(what))

    def _between(self, value: int, members: set[int]) -> set[int]:
        """Members that a value is computed from, itself included."""
        found: set[int] = set()
        pending = [value]
        while pending:
            number = pending.pop()
            if number not in found and number in members:
                found.add(number)
                pending += present(self.program.values[number])
        return found
