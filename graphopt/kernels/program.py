"""The loop program: a pattern as values over index spaces, before it becomes C.

A program is a list of values in single-assignment order. An *input* is a tensor in memory. A *map* computes each
element from one element of each (broadcast) operand. A *view* moves elements by an index map. A *reduce* combines all
elements along the last axes. A *lookup* takes slices where integers say. A *contraction* sums products of the elements
of two operands. ``check`` is the specification: what it accepts, the emitter turns into C.
"""

from dataclasses import dataclass

from graphopt.graph import Shape
from graphopt.kernels.scalar import PRIMITIVES, STORAGE
from graphopt.operators.lowering import (
    POSITIONS,
    REDUCTIONS,
    Call,
    Concat,
    Expression,
    Gather,
    IndexMap,
    Layer,
    Literal,
    Operand,
    Pad,
    Pool,
    Transpose,
    Window,
)

MAX_RANK = 8
MAX_INPUTS = 128
MAX_OUTPUTS = 32
MAX_WINDOW = 1 << 20
MOST_CHANNELS = 64
MOST_TAPS = 64


@dataclass(frozen=True, slots=True)
class Input:
    """Tensor number ``position`` of the call.

    Attributes:
        structural: the plan reads its integers.
        once: it has one element in every example, so it is read outside of the loop.
    """

    position: int
    dtype: str
    structural: bool = False
    once: bool = False


@dataclass(frozen=True, slots=True)
class Map:
    """One element of the result from one element of each operand; ``operands`` are values by slot, -1 where absent."""

    expression: Expression
    operands: tuple[int, ...]
    dtype: str
    cost: int


@dataclass(frozen=True, slots=True)
class View:
    """Elements of the operands through an index map; ``values`` are the operands by slot that the plan reads."""

    index_map: IndexMap
    operands: tuple[int, ...]
    values: tuple[int, ...]
    dtype: str
    origin: str


@dataclass(frozen=True, slots=True)
class Reduce:
    """All elements along the last ``axes`` dimensions combined, or where a bound stands; they stay, with size one."""

    kind: str
    operand: int
    axes: int
    dtype: str

    @property
    def operands(self) -> tuple[int, ...]:
        """The operand, as other values have theirs."""
        return (self.operand,)


@dataclass(frozen=True, slots=True)
class Lookup:
    """Slices of ``data`` along an axis, one for each of ``indices``; negative ones count from the end (ONNX Gather)."""

    data: int
    indices: int
    axis: int
    dtype: str

    @property
    def operands(self) -> tuple[int, ...]:
        """Data and indices, as other values have theirs."""
        return (self.data, self.indices)


@dataclass(frozen=True, slots=True)
class Contraction:
    """Sums of products: a left operand [..., M, K] and a right one [..., K, N], leading sizes broadcast."""

    operands: tuple[int, int]
    dtype: str


@dataclass(frozen=True, slots=True)
class IntegerContraction:
    """Sums of products of integers of eight bits less their zero points, int32.

    Attributes:
        operands: left and right, and their zero points, which may be absent (-1).
        window: of a convolution of weights (left) and an image (right); None for matrices [..., M, K] and [..., K, N].
        dtype: int32.
    """

    operands: tuple[int, int, int, int]
    window: Window | None
    dtype: str = "int32"


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution: ``operands`` are input, weights, bias and a tensor to add; the last two may be absent (-1)."""

    window: Window
    operands: tuple[int, int, int, int]
    dtype: str


@dataclass(frozen=True, slots=True)
class ChannelWindow:
    """For each element the sum of the squares of the channels around it, along axis 1; beyond the ends are zeros.

    Attributes:
        operand: [batch, channels, ...].
        size: channels that are summed; of an even number, one more behind an element than in front of it.
        block: channels per block of the blocked layout that operand and result are in; 0 for plain ones.
        dtype: float32.
    """

    operand: int
    size: int
    block: int
    dtype: str

    @property
    def operands(self) -> tuple[int, ...]:
        """The operand, as other values have theirs."""
        return (self.operand,)


@dataclass(frozen=True, slots=True)
class Pooled:
    """The greatest or the mean element under each position of a window; of no elements the least number, or NaN."""

    pool: Pool
    operand: int
    dtype: str

    @property
    def operands(self) -> tuple[int, ...]:
        """The operand, as other values have theirs."""
        return (self.operand,)


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Hidden states of a recurrent layer, [steps, directions, batch, hidden].

    Attributes:
        layer: what it computes.
        inputs: for each direction the input's share of the gates, [steps, batch, gates * hidden].
        states: recurrent weights [directions, gates * hidden, hidden], biases [directions, 2 * gates * hidden], first
            hidden and cell states [directions, batch, hidden]; all but the weights may be absent (-1).
        cells: whether the last cell states stand behind the hidden ones, as one more step.
        dtype: float32.
    """

    layer: Layer
    inputs: tuple[int, ...]
    states: tuple[int, int, int, int]
    cells: bool
    dtype: str

    @property
    def operands(self) -> tuple[int, ...]:
        """All of them, as other values have theirs."""
        return (*self.inputs, *self.states)


Computed = (
    Map | View | Reduce | Lookup | Contraction | IntegerContraction | Convolution | ChannelWindow | Pooled | Recurrence
)
Value = Input | Computed


@dataclass(frozen=True, slots=True)
class Program:
    """A kernel before it is C.

    Attributes:
        name: C identifier and operator type.
        values: in single-assignment order.
        outputs: value of each output.
        groups: outputs that had the same shape in every example, so that one nest computes them together.
        overwrites: input whose storage output 0 may take; -1 for none.
        comment: lines that say what it computes, for the reader of the C.
        examples: for each example the shape of every value, None where it is unknown.
    """

    name: str
    values: tuple[Value, ...]
    outputs: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    overwrites: int
    comment: tuple[str, ...]
    examples: tuple[tuple[Shape | None, ...], ...] = ()

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The program's inputs by position."""
        return tuple(value for value in self.values if isinstance(value, Input))


def present(value: Value) -> list[int]:
    """The operands of a value, without those that are absent; none of an input."""
    return [] if isinstance(value, Input) else [operand for operand in value.operands if operand >= 0]


def readers_of(program: Program) -> list[list[int]]:
    """For each value the values that are computed from it, once for each time."""
    found: list[list[int]] = [[] for _ in program.values]
    for number, value in enumerate(program.values):
        for operand in present(value):
            found[operand].append(number)
    return found


def check(program: Program) -> list[str]:
    """What is wrong with a program, one line each; empty for a valid one."""
    wrong: list[str] = []
    if not program.name.isidentifier() or not program.name.isascii():
        wrong.append(f"name {program.name!r} is no identifier")
    if [value.position for value in program.inputs] != list(range(len(program.inputs))):
        wrong.append("inputs are not in order")
    if len(program.inputs) > MAX_INPUTS or len(program.outputs) > MAX_OUTPUTS:
        wrong.append(f"more than {MAX_INPUTS} inputs or {MAX_OUTPUTS} outputs")
    if not program.outputs:
        wrong.append("no outputs")
    if sorted(output for group in program.groups for output in group) != list(range(len(program.outputs))):
        wrong.append("groups do not partition the outputs")
    for index, value in enumerate(program.values):
        where = f"value {index}"
        if value.dtype not in STORAGE:
            wrong.append(f"{where}: no kernels for element type {value.dtype or 'unknown'}")
        if isinstance(value, Input):
            continue
        if any(operand >= index for operand in value.operands):
            wrong.append(f"{where}: operand is not computed before it")
            continue
        if isinstance(value, Map):
            wrong += [f"{where}: {line}" for line in _check_expression(value, program)]
        elif isinstance(value, Reduce):
            wrong += [f"{where}: {line}" for line in _check_reduce(value, program)]
        elif isinstance(value, Convolution):
            wrong += [f"{where}: {line}" for line in _check_convolution(value, program)]
        elif isinstance(value, ChannelWindow):
            wrong += [f"{where}: {line}" for line in _check_channels(value, program)]
        elif isinstance(value, Pooled):
            wrong += [f"{where}: {line}" for line in _check_pooled(value, program)]
        elif isinstance(value, Lookup):
            wrong += [f"{where}: {line}" for line in _check_lookup(value, program)]
        elif isinstance(value, Recurrence):
            wrong += [f"{where}: {line}" for line in _check_recurrence(value, program)]
        elif isinstance(value, Contraction):
            wrong += [f"{where}: {line}" for line in _check_contraction(value, program)]
        elif isinstance(value, IntegerContraction):
            wrong += [f"{where}: {line}" for line in _check_integers(value, program)]
        else:
            wrong += [f"{where}: {line}" for line in _check_view(value, program)]
    wrong += [f"output {value} is not a value" for value in program.outputs if value >= len(program.values)]
    return wrong


def _check_expression(value: Map, program: Program) -> list[str]:
    wrong: list[str] = []

    def visit(expression: Expression) -> None:
        if isinstance(expression, Operand):
            slot = expression.slot
            if slot >= len(value.operands) or value.operands[slot] < 0:
                wrong.append(f"slot {slot} is absent")
            elif program.values[value.operands[slot]].dtype != expression.dtype:
                wrong.append(f"slot {slot} is not {expression.dtype}")
        elif isinstance(expression, Call):
            if expression.primitive != "cast" and expression.primitive not in PRIMITIVES:
                wrong.append(f"unknown primitive {expression.primitive}")
            if expression.dtype not in STORAGE:
                wrong.append(f"no kernels for element type {expression.dtype}")
            for argument in expression.arguments:
                visit(argument)
        elif not isinstance(expression, Literal):
            wrong.append(f"{type(expression).__name__} inside of an expression")

    visit(value.expression)
    if value.expression.dtype != value.dtype:
        wrong.append(f"computes {value.expression.dtype}, declared {value.dtype}")
    return wrong


def _check_reduce(value: Reduce, program: Program) -> list[str]:
    wrong = []
    if value.kind not in REDUCTIONS:
        wrong.append(f"unknown reduction {value.kind}")
    if value.axes < 0 or value.axes > MAX_RANK:
        wrong.append(f"{value.axes} axes")
    dtype = program.values[value.operand].dtype
    if value.dtype != ("int64" if value.kind in POSITIONS else dtype) or dtype == "bool":
        wrong.append(f"reduces {dtype} to {value.dtype}")
    return wrong


def _check_convolution(value: Convolution, program: Program) -> list[str]:
    wrong = []
    if any(program.values[operand].dtype != "float32" for operand in present(value)):
        wrong.append("convolves other than float32")
    if value.dtype != "float32":
        wrong.append(f"convolves to {value.dtype}")
    return wrong + _check_window(value.window)


def _check_window(window: Window) -> list[str]:
    wrong = []
    if window.dimensions not in (1, 2) or window.block not in (0, 8, 16) or window.groups < 1:
        wrong.append("a window of other than one or two dimensions, blocks of 8 or 16 and one group or more")
    if min(*window.strides, *window.dilations) < 1 or min(*window.before, *window.after) < 0:
        wrong.append("strides and dilations below one, or pads below zero")
    if max(*window.strides, *window.dilations, *window.before, *window.after, window.groups) > MAX_WINDOW:
        wrong.append(f"strides, dilations, pads or groups over {MAX_WINDOW}")
    return wrong


def _check_channels(value: ChannelWindow, program: Program) -> list[str]:
    wrong = []
    if program.values[value.operand].dtype != "float32" or value.dtype != "float32":
        wrong.append("sums squares of other than float32")
    if not 1 <= value.size <= MOST_CHANNELS or value.block not in (0, 8, 16):
        wrong.append(f"a window of other than 1 to {MOST_CHANNELS} channels, plain or in blocks of 8 or 16")
    return wrong


def _check_pooled(value: Pooled, program: Program) -> list[str]:
    wrong = _check_window(value.pool.window)
    if program.values[value.operand].dtype != "float32" or value.dtype != "float32":
        wrong.append("pools other than float32")
    if value.pool.kind not in ("maximum", "mean") or value.pool.window.groups != 1:
        wrong.append("a pool of other than the greatest or the mean, in one group")
    if min(value.pool.kernel) < 1 or max(value.pool.kernel) > MOST_TAPS:
        wrong.append(f"a window of other than 1 to {MOST_TAPS} taps along a dimension")
    if value.pool.counts_pads and value.pool.rounds_up:
        wrong.append("a mean that counts pads, of windows beyond them")
    if value.pool.window.same and max(value.pool.window.dilations) > 1:
        wrong.append("pads found from the sizes of a dilated window")
    return wrong


def _check_lookup(value: Lookup, program: Program) -> list[str]:
    wrong = []
    if program.values[value.data].dtype != value.dtype:
        wrong.append("changes the element type")
    if program.values[value.indices].dtype not in ("int32", "int64"):
        wrong.append("indices are not int32 or int64")
    if value.axis < 0:
        wrong.append("negative axis")
    return wrong


def _check_contraction(value: Contraction, program: Program) -> list[str]:
    dtypes = {program.values[operand].dtype for operand in value.operands} | {value.dtype}
    return [] if dtypes == {"float32"} else [f"no contraction of {', '.join(sorted(dtypes))}"]


def _check_integers(value: IntegerContraction, program: Program) -> list[str]:
    wrong = []
    left, right, left_zero, right_zero = (program.values[o].dtype if o >= 0 else None for o in value.operands)
    if left not in ("int8", "uint8") or right not in ("int8", "uint8"):
        wrong.append(f"sums products of {left} and {right}")
    if left_zero not in (None, left) or right_zero not in (None, right) or value.dtype != "int32":
        wrong.append("zero points of another element type, or sums other than int32")
    window = value.window
    if window is not None and (window.dimensions not in (1, 2) or window.block or window.groups != 1 or window.same):
        wrong.append("a window of other than one or two dimensions, one group and given pads")
    return wrong


def _check_recurrence(value: Recurrence, program: Program) -> list[str]:
    wrong = []
    dtypes = {program.values[operand].dtype for operand in present(value)} | {value.dtype}
    if dtypes != {"float32"}:
        wrong.append(f"no recurrent layer of {', '.join(sorted(dtypes))}")
    layer = value.layer
    if layer.gates not in (3, 4) or len(layer.reversed) not in (1, 2) or layer.hidden < 1:
        wrong.append("a layer of other than three or four gates, one or two directions and a state")
    if len(value.inputs) != len(layer.reversed) or min(*value.inputs, value.states[0]) < 0:
        wrong.append("no input for each direction, or no weights")
    if (value.cells or value.states[3] >= 0) and layer.gates != 4:
        wrong.append("cell states of a layer that has none")
    return wrong


def _check_view(value: View, program: Program) -> list[str]:
    wrong = [
        f"reads integers of value {index}, which is not a structural input"
        for index in value.values
        if not (index < len(program.values) and _is_structural(program.values[index]))
    ]
    if not isinstance(value.index_map, (Concat, Pad)) and len(value.operands) != 1:
        wrong.append("more than one operand")
    if any(program.values[operand].dtype != value.dtype for operand in value.operands):
        wrong.append("changes the element type")
    if isinstance(value.index_map, Transpose):
        permutation = value.index_map.permutation
        if sorted(permutation) != list(range(len(permutation))):
            wrong.append("not a permutation")
    if isinstance(value.index_map, Gather) and value.index_map.axis < 0:
        wrong.append("negative axis")
    return wrong


def _is_structural(value: Value) -> bool:
    return isinstance(value, Input) and value.structural
