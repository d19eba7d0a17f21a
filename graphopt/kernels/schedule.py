"""Schedules: which steps compute a program, and what they leave in memory for each other.

There are two for a program with reductions. The *fitted* one is made for the shapes of the examples: it takes as much
as it can into one step, and says under which conditions on the shapes it is right (its guards). The *general* one is
right for all shapes: every reduction is a step of its own, over an operand that is in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from graphopt.kernels.behind_products import Behind
from graphopt.kernels.channels import ChannelStep
from graphopt.kernels.columns import ColumnStep, Stack, stack_of
from graphopt.kernels.contraction import PRODUCT, Linear, Product
from graphopt.kernels.convolution import ConvolutionStep
from graphopt.kernels.factors import repeated_factors
from graphopt.kernels.integers import IntegerStep
from graphopt.kernels.nests import Nest
from graphopt.kernels.places import Part, TooLargeError, has_choices, is_load
from graphopt.kernels.pooling import PoolingStep
from graphopt.kernels.program import (
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
    present,
    readers_of,
)
from graphopt.kernels.recurrence import RecurrenceStep
from graphopt.kernels.row_space import DoesNotFitError, RowSpace
from graphopt.kernels.rows import RowStep
from graphopt.operators.lowering import Concat, Reshape, Transpose

MAX_STEPS = 192
MAX_TEMPORARIES = 128


class Step(Protocol):
    """What a kernel does between two barriers, or beside other steps.

    Attributes:
        lines: the C of its functions and tables.
    """

    lines: list[str]

    def plan_call(self) -> list[str]:
        """C statements that plan the step and set ``error``."""


@dataclass
class Schedule:
    """Steps in order.

    Attributes:
        steps: each reads what steps of earlier stages wrote.
        stages: of each step.
        temporaries: values that are kept in memory only while the kernel runs.
        lifetimes: of these, the first and the last stage at which a step writes or reads each.
        epilogues: tensors written by a convolution, or by sums over channels, and read by one nest.
        attentions: tensors of products and of rows made of them, the left operand of other products: a block of rows
            may go through all three steps at once.
        guards: C conditions on shapes under which the schedule is right.
    """

    steps: list[Step] = field(default_factory=list)
    stages: list[int] = field(default_factory=list)
    temporaries: list[int] = field(default_factory=list)
    lifetimes: list[tuple[int, int]] = field(default_factory=list)
    guards: tuple[str, ...] = ()
    epilogues: list[int] = field(default_factory=list)
    attentions: list[tuple[int, int]] = field(default_factory=list)


def general(program: Program) -> Schedule:
    """The schedule that is right for all shapes.

    Raises:
        TooLargeError: when a step, or all of them, would be too large.
    """
    return _Scheduler(program, fits=False).schedule()


def fitted(program: Program) -> Schedule | None:
    """The schedule that is made for the shapes of the examples; None where it would be the general one."""
    sums = any(isinstance(value, Reduce | Contraction | IntegerContraction) for value in program.values)
    together = any(len(group) > 1 for group in program.groups)
    factors = repeated_factors(program)
    if not program.examples or not (sums or together or factors):
        return None
    return _Scheduler(program, fits=True).schedule(factors)


class _Scheduler:
    """One schedule while it is made.

    Attributes:
        tensors: values that are in memory, by the number of their tensor.
    """

    def __init__(self, program: Program, *, fits: bool) -> None:
        # the general schedule decides nothing by examples
        self.program = program if fits else replace(program, examples=())
        self.fits = fits
        self.name = f"{program.name}_{'fitted' if fits else 'general'}"
        self.result = Schedule()
        self._inputs = len(program.inputs)
        self._readers = readers_of(program)
        self.tensors: dict[int, int] = {
            index: value.position for index, value in enumerate(program.values) if isinstance(value, Input)
        }
        self.stage_of: dict[int, int] = {}  # value in memory to the stage after the one that writes it
        self._outputs: dict[int, int] = {}  # value to the first output tensor that it is
        for position, value in enumerate(program.outputs):
            self._outputs.setdefault(value, len(program.inputs) + position)
        self._guards: dict[str, None] = {}
        self._done: set[int] = set()  # reductions and sums of products that a step computes
        self._parts: dict[int, dict[int, int]] = {}  # concat to (operand that a step writes to the stage after it)
        self._part_tensor: dict[int, int] = {}
        self._used: dict[int, list[int]] = {}  # tensor to the steps that write or read it

    def schedule(self, factors: Sequence[int] = ()) -> Schedule:
        """Make it, with some values in memory before all else."""
        for factor in factors:
            self.in_memory(factor)
        for index, value in enumerate(self.program.values):
            if index not in self._done:
                self._computed_by_step(index, value)
        self._nests()
        self.result.guards = tuple(self._guards)
        if len(self.result.steps) > MAX_STEPS or len(self.result.temporaries) > MAX_TEMPORARIES:
            raise TooLargeError("too many steps")
        order = sorted(range(len(self.result.steps)), key=lambda n: self.result.stages[n])
        self._epilogues()
        self._lifetimes()
        self.result.steps = [self.result.steps[n] for n in order]
        self.result.stages = [self.result.stages[n] for n in order]
        return self.result

    # -------------------------------------------------------------------------------------------- memory

    def _tensor(self, value: int) -> int:
        """The tensor that a value will be in: its output, or a temporary."""
        if value in self._outputs:
            return self._outputs[value]
        self.result.temporaries.append(value)
        count = self._inputs + len(self.program.outputs)
        return count + len(self.result.temporaries) - 1

    def _stage(self, values: Sequence[int]) -> int:
        """The first stage at which all these values are in memory."""
        return max((self.stage_of.get(value, 0) for value in self._sources(values)), default=0)

    def _cone(self, values: Sequence[int]) -> set[int]:
        """Values that some are computed from, themselves included, and that are not in memory."""
        found: set[int] = set()
        pending = list(values)
        while pending:
            number = pending.pop()
            if number not in found and number not in self.tensors:
                found.add(number)
                pending += present(self.program.values[number])
        return found

    def _sources(self, values: Sequence[int]) -> set[int]:
        """Values in memory that some values are computed from."""
        read = {operand for number in self._cone(values) for operand in present(self.program.values[number])}
        return {value for value in read.union(values) if value in self.tensors}

    def _add(self, step: Step, reads: Sequence[int], tensors: Sequence[int]) -> int:
        """Add a step that reads what some values are computed from, and writes tensors; the stage that it is in."""
        stage, number = self._stage(reads), len(self.result.steps)
        self.result.steps.append(step)
        self.result.stages.append(stage)
        for tensor in (*tensors, *(self.tensors[value] for value in self._sources(reads))):
            self._used.setdefault(tensor, []).append(number)
        return stage

    def _attentions(self) -> dict[int, int]:
        """Find products, rows made of them, products of these. To the first two steps, the one that they run with."""
        later: dict[int, int] = {}
        first = self._inputs + len(self.program.outputs)
        chains = [(tensor, uses) for tensor, uses in self._used.items() if tensor >= first and len(uses) == 2]
        for products, (scores, rows) in chains:
            for tensor, (writer, values) in chains:
                first_step, middle, last = (self.result.steps[number] for number in (scores, rows, values))
                joined = writer == rows and isinstance(first_step, Product) and isinstance(middle, RowStep)
                if joined and isinstance(last, Product) and last.left == tensor:
                    self.result.attentions.append((products, tensor))
                    later |= {scores: values, rows: values}
        return later

    def _lifetimes(self) -> None:
        """Say when temporaries are in use. A step may run one stage later (see ``_contraction``)."""
        first = self._inputs + len(self.program.outputs)
        later, stages = self._attentions(), self.result.stages
        used = [
            [stages[step] for use in self._used[first + number] for step in (use, later.get(use, use))]
            for number in range(len(self.result.temporaries))
        ]
        if self.result.epilogues:  # run earlier than their own stage
            self.result.lifetimes = [(0, 2 * MAX_STEPS)] * len(used)
        else:
            self.result.lifetimes = [(min(stages), max(stages) + 1) for stages in used]

    def _next(self) -> str:
        return f"{self.name}{len(self.result.steps)}"

    def in_memory(self, value: int) -> None:
        """Have a value in memory, by a nest of its own."""
        if value in self._parts:
            self._finish(value)
        if value in self.tensors:
            return
        self._lookups_ready([value])
        if value in self.tensors:  # stored by a step that had to be ready
            return
        tensor = self._tensor(value)
        step = Nest(self.program, [(value, tensor)], dict(self.tensors), self._next())
        stage = self._add(step, [value], [tensor])
        self.tensors[value] = tensor
        self.stage_of[value] = stage + 1

    def _lookups_ready(self, values: Sequence[int]) -> None:
        """Have in memory what the lookups on the way to some values read, and reductions that were not."""
        seen: set[int] = set()

        def visit(value: int) -> None:
            if value in seen or value in self.tensors:
                return
            seen.add(value)
            if value in self._parts:
                self._finish(value)
                return
            what = self.program.values[value]
            if self._computed_by_step(value, what):
                return
            for operand in present(what):
                visit(operand)
            if isinstance(what, Lookup):
                self.in_memory(what.data)
                if not is_load(self.program, self.tensors, what.indices):
                    self.in_memory(what.indices)

        for value in values:
            visit(value)

    def _computed_by_step(self, value: int, what: Value) -> bool:
        """Have a value in memory that has a step of its own kind; False for all others, which nests compute."""
        if isinstance(what, Reduce):
            self._reduction(value, what)
        elif isinstance(what, Contraction):
            self._contraction(value, what)
        elif isinstance(what, IntegerContraction):
            self._integers(value, what)
        elif isinstance(what, ChannelWindow | Convolution | Pooled | Recurrence):
            self._step_alone(value, what)
        else:
            return False
        return True

    # -------------------------------------------------------------------------------------------- convolutions, layers

    def _step_alone(self, value: int, what: ChannelWindow | Convolution | Pooled | Recurrence) -> None:
        """Have a value in memory by a step that computes nothing else, from operands in memory."""
        if value in self.tensors:
            return
        operands = present(what)
        for operand in operands:
            self.in_memory(operand)
        tensor = self._tensor(value)
        stages = 1
        if isinstance(what, Convolution):
            step: Step = ConvolutionStep(self.program, value, what, dict(self.tensors), tensor)
            stages = 2  # one to pack weights in that are no constants
        elif isinstance(what, ChannelWindow):
            step = ChannelStep(self.program, value, what, self.tensors, tensor)
        elif isinstance(what, Pooled):
            step = PoolingStep(self.program, value, what, self.tensors, tensor)
        else:
            step = RecurrenceStep(self.program, value, self.tensors, self._next(), tensor)
        stage = self._add(step, operands, [tensor])
        self.tensors[value] = tensor
        self.stage_of[value] = stage + stages

    def _epilogues(self) -> None:
        """Nests that alone read a convolution or sums over channels: the step of these may compute them."""
        steps = [step for step in self.result.steps if isinstance(step, Nest | ChannelStep | ConvolutionStep)]
        if len(steps) == len(self.result.steps):
            for step in steps:
                if not isinstance(step, Nest):
                    readers = [other for other in steps if step.tensor in other.reads]
                    if len(readers) == 1 and isinstance(readers[0], Nest):
                        self.result.epilogues.append(step.tensor)

    # -------------------------------------------------------------------------------------------- reductions

    def _reduction(self, value: int, what: Reduce) -> None:
        """Have a reduction in memory, and with it what else its step can compute."""
        self._lookups_ready([what.operand])
        stack = stack_of(self.program, value) if self.fits else None
        if stack is not None:
            self._column_step(value, stack)
        elif not self.fits or not self._row_pass(value, what):
            self.in_memory(what.operand)
            self._row_step(RowSpace(self.program, what, dict(self.tensors)), [value])

    def _column_step(self, value: int, stack: Stack) -> None:
        """A step for a reduction of rows on top of each other."""
        self._choices_ready(stack.value)
        if self._is_scattered(stack.value):
            self.in_memory(stack.value)
        part = self._part(value)
        tensor = self._tensor(value) if part is None else self._tensor_of_parts(part.concat)
        step = ColumnStep(self.program, stack, [(value, tensor)], dict(self.tensors), self._next(), part)
        stage = self._add(step, [stack.value], [tensor])
        self._done.add(value)
        if part is None:
            self.tensors[value] = tensor
            self.stage_of[value] = stage + 1
        else:
            self._parts[part.concat][part.position] = stage + 1

    def _is_scattered(self, value: int) -> bool:
        """Whether a reshape of transposed elements lies on the way to a value: a row may be several loops in memory."""
        cone = self._cone([value])
        return any(
            isinstance(view := self.program.values[number], View)
            and isinstance(view.index_map, Reshape)
            and any(
                isinstance(below := self.program.values[source], View) and isinstance(below.index_map, Transpose)
                for source in self._cone([number])
            )
            for number in cone
        )

    def _part(self, value: int) -> Part | None:
        """Where a value goes that is only wanted, but for reshapes, as an operand of a concat."""
        readers = self._readers
        while value not in self._outputs and len(readers[value]) == 1:
            reader = readers[value][0]
            view = self.program.values[reader]
            if not isinstance(view, View):
                return None
            if isinstance(view.index_map, Concat):
                return None if reader in self.tensors else Part(reader, view.operands.index(value))
            if not isinstance(view.index_map, Reshape):
                return None
            value = reader
        return None

    def _tensor_of_parts(self, concat: int) -> int:
        """The tensor of a concatenated value that is written part by part."""
        if concat not in self._parts:
            self._parts[concat] = {}
            self._part_tensor[concat] = self._tensor(concat)
        return self._part_tensor[concat]

    def _finish(self, concat: int) -> None:
        """Write what is left of a concatenated value that is written part by part."""
        view = self.program.values[concat]
        assert isinstance(view, View)
        tensor, written = self._part_tensor[concat], self._parts.pop(concat)
        for position, operand in enumerate(view.operands):
            if position not in written:
                self._lookups_ready([operand])
                part = Part(concat, position)
                step = Nest(self.program, [(operand, tensor)], dict(self.tensors), self._next(), part)
                written[position] = self._add(step, [operand], [tensor]) + 1
        self.tensors[concat] = tensor
        self.stage_of[concat] = max(written.values())

    def _row_pass(self, value: int, what: Reduce) -> bool:
        """A step for a reduction and all that fits with it; False where even its operand does not."""
        self._choices_ready(what.operand)
        space = RowSpace(self.program, what, dict(self.tensors))
        try:
            space.add_reduce(value)
        except DoesNotFitError:
            return False
        members = [value]
        for other in range(value + 1, len(self.program.values)):
            if isinstance(self.program.values[other], Reduce) and other not in self._done:
                trial = self._trial(space.anchor, [*members, other])
                if trial is not None:
                    space, members = trial, [*members, other]
        self._row_step(space, members)
        return True

    def _trial(self, anchor: Reduce, members: Sequence[int]) -> RowSpace | None:
        """The row space of some reductions together; None where they do not fit."""
        space = RowSpace(self.program, anchor, dict(self.tensors))
        try:
            for member in members:
                space.add_reduce(member)
        except (DoesNotFitError, TooLargeError):
            return None
        return space

    def _choices_ready(self, value: int) -> None:
        """Have in memory what a row step cannot walk to: concatenated and padded values that it reads."""
        seen: set[int] = set()

        def visit(number: int) -> None:
            if number in seen or number in self.tensors:
                return
            seen.add(number)
            what = self.program.values[number]
            if isinstance(what, View) and has_choices(what):
                self.in_memory(number)
            elif isinstance(what, Map | View):
                for operand in present(what):
                    visit(operand)

        visit(value)

    def _row_step(self, space: RowSpace, members: Sequence[int]) -> None:
        for member in members:
            space.add_reduce(member)
        stores = [(space.add(value), value) for value in self._wanted(space, members)]
        sources = [self.program.values[member].operand for member in members]  # type: ignore[union-attr]
        self._done.update(members)
        placed = [(element, value, self._tensor(value)) for element, value in stores]
        step = RowStep(space, placed, self._next())
        stage = self._add(step, [*sources, *(value for _, value in stores)], [tensor for _, _, tensor in placed])
        if self.fits:
            self._guards.update(space.guards)
        for _, value, tensor in placed:
            self.tensors[value] = tensor
            self.stage_of[value] = stage + 1

    def _wanted(self, space: RowSpace, members: Sequence[int]) -> list[int]:
        """What the step has to store: of what it can compute, the outputs and what others read."""
        program = self.program
        if not self.fits:
            return list(members)
        inside: set[int] = set()
        for number, value in enumerate(program.values):
            if number in self.tensors or isinstance(value, Input):
                continue
            if isinstance(value, Reduce):
                if number in space.reduces:
                    inside.add(number)
            elif space.depends(number) and self._fits(space, members, number):
                inside.add(number)
        computed = {element.value for element in space.elements if element.whole}
        wanted = []
        for number in range(len(program.values)):
            if number in inside:
                if number in self._outputs or any(reader not in inside for reader in self._readers[number]):
                    wanted.append(number)
            elif number in self._outputs and number in computed and not space.depends(number):
                wanted.append(number)
        return wanted

    def _fits(self, space: RowSpace, members: Sequence[int], value: int) -> bool:
        """Whether the step can compute a value besides its reductions."""
        trial = self._trial(space.anchor, members)
        if trial is None:
            return False
        try:
            trial.add(value)
        except (DoesNotFitError, TooLargeError):
            return False
        return True

    # -------------------------------------------------------------------------------------------- contractions

    def _contraction(self, value: int, what: Contraction) -> None:
        """Have a contraction in memory, or what an epilogue makes of it."""
        for operand in what.operands:
            self.in_memory(self._beneath(operand))
        linear = self._behind().linear(value) if self.fits else Linear(value)
        name = self._next()
        last, tensor, nest = self._with_epilogue(value, linear.value, name)
        reads = [*what.operands, *(self._sources([last]) if last != value else ())]
        step = Product(self.program, value, dict(self.tensors), name, tensor, linear, nest)
        stage = self._add(step, reads, [tensor])
        self.tensors[last] = tensor
        self.stage_of[last] = stage + 2  # a stage to split the left operand in, for the matrix unit
        self._done.add(value)

    def _integers(self, value: int, what: IntegerContraction) -> None:
        """Have sums of products of integers in memory, or what an epilogue makes of them."""
        operands = present(what)
        for operand in operands:
            self.in_memory(operand)
        name = self._next()
        last, tensor, nest = self._with_epilogue(value, value, name)
        reads = [*operands, *(self._sources([last]) if last != value else ())]
        stage = self._add(IntegerStep(self.program, value, self.tensors, name, tensor, nest), reads, [tensor])
        self.tensors[last] = tensor
        self.stage_of[last] = stage + 1
        self._done.add(value)

    def _behind(self) -> Behind:
        return Behind(self.program, self._readers, self.tensors, self._outputs)

    def _with_epilogue(self, sums: int, value: int, name: str) -> tuple[int, int, Nest | None]:
        """What a step stores that makes ``value`` of sums in registers: a value, its tensor, and how it is computed."""
        last, nest = self._behind().epilogue(value) if self.fits else (sums, None)
        tensor = self._tensor(last)
        if nest is not None:
            nest = Nest(self.program, [(last, tensor)], {**self.tensors, value: PRODUCT}, f"{name}_epilogue")
        if last != sums:
            self._guards[f"elements(&f.of[{last}]) == elements(&f.of[{sums}])"] = None
        return last, tensor, nest

    def _beneath(self, value: int) -> int:
        """The value below views that the step walks itself; in the general schedule transposes only."""
        what = self.program.values[value]
        while value not in self.tensors and isinstance(what, View) and not has_choices(what):
            if not self.fits and not isinstance(what.index_map, Transpose):
                break
            value = what.operands[0]
            what = self.program.values[value]
        return value

    # -------------------------------------------------------------------------------------------- nests

    def _nests(self) -> None:
        """Steps for the outputs that are not in memory yet."""
        for concat in list(self._parts):
            self._finish(concat)
        written = {tensor - self._inputs for tensor in self.tensors.values()}
        for group in self.program.groups:
            left = [position for position in group if position not in written]
            if left:
                self._lookups_ready([self.program.outputs[position] for position in left])
                for together in self._together(left):
                    self._nest(together)

    def _together(self, positions: Sequence[int]) -> list[list[int]]:
        """Outputs that one nest computes: all of them only where the schedule knows that they have one shape."""
        return [[position] for position in positions] if not self.fits and len(positions) > 1 else [list(positions)]

    def _choices_in_memory(self, value: int) -> bool:
        """Have concats and pads that are read several times in memory; false where there are none."""
        before = len(self.tensors)
        for source in sorted(self._cone([value])):
            what = self.program.values[source]
            if isinstance(what, View) and has_choices(what) and len(self._readers[source]) > 1:
                self.in_memory(source)
        return len(self.tensors) > before

    def _nest(self, positions: Sequence[int]) -> None:
        values = [self.program.outputs[position] for position in positions]
        stores = [(value, self._inputs + position) for value, position in zip(values, positions, strict=True)]
        try:
            step = Nest(self.program, stores, dict(self.tensors), self._next())
        except TooLargeError:
            if len(positions) == 1:
                if not self._choices_in_memory(values[0]):
                    raise
                self._nest(positions)
                return
            half = len(positions) // 2
            self._nest(positions[:half])
            self._nest(positions[half:])
            return
        self._add(step, values, [tensor for _, tensor in stores])
        for value in values[1:]:
            self._guards[f"same_shape(&f.of[{values[0]}], &f.of[{value}])"] = None
