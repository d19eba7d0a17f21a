"""How an operator is computed inside a kernel: scalar expressions for values, index maps for layout.

An operator lowers in one of five ways. An *element-wise* operator gives one scalar expression, over one element of each
(broadcast) operand. A *row-wise* operator gives one expression per result, in which values reduced along axes, moved
values and sums of products of integers may stand as operands. A *layout* operator gives a chain of index maps, each of
which says from which element of its operand an element of its result comes. A *picking* operator takes slices where
index values say. A *matrix product* gives index maps that bring its operands into rows and columns, and an expression
over each sum. ``graphopt.kernels`` strings them together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.graph import Node, OperatorGraph

# ------------------------------------------------------------------ scalar expressions


@dataclass(frozen=True, slots=True)
class Operand:
    """One element of operand number ``slot``."""

    slot: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A number."""

    value: float | int | bool
    dtype: str


@dataclass(frozen=True, slots=True)
class Call:
    """A primitive of ``graphopt.kernels.scalar.PRIMITIVES`` applied to expressions."""

    primitive: str
    arguments: "tuple[Expression, ...]"
    dtype: str


@dataclass(frozen=True, slots=True)
class Reduced:
    """An expression over all elements along some axes, taken together; the axes stay with size one.

    Attributes:
        kind: one of ``REDUCTIONS``.
        argument: what is reduced.
        axes: negative, counted from the end; ascending.
        dtype: of the result: the argument's, or int64 for a position.
    """

    kind: str
    argument: "Expression"
    axes: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Moved:
    """An expression's values through index maps, first the one next to it."""

    argument: "Expression"
    maps: "tuple[IndexMap, ...]"
    dtype: str


@dataclass(frozen=True, slots=True)
class IntegerSums:
    """Sums of products of integers of eight bits less their zero points, int32: [..., M, K] by [..., K, N].

    Attributes:
        left: the left operand; weights [M, channels, window] where there is a window.
        right: the right operand; an image [batch, channels, positions] where there is a window.
        left_zero: one zero point for all of the left operand, or one for each channel of weights; None for zero.
        right_zero: one for all of the right operand, or for matrices one for each column; None for zero.
        window: of a convolution of one group.
    """

    left: "Expression"
    right: "Expression"
    left_zero: "Expression | None"
    right_zero: "Expression | None"
    window: "Window | None" = None
    dtype: str = "int32"


@dataclass(frozen=True, slots=True)
class SquaresAround:
    """For each element the sum of the squares of ``size`` channels (axis 1) around it, its own among them, as ONNX LRN.

    Of an even number one more stands behind than in front; beyond the ends are zeros.
    """

    argument: "Expression"
    size: int
    dtype: str = "float32"


Expression = Operand | Literal | Call | Reduced | Moved | IntegerSums | SquaresAround

POSITIONS = ("first_greatest", "last_greatest", "first_least", "last_least")
"""Kinds of reduction to where a bound stands, counted from 0 along one axis; NaN is beyond every number."""

REDUCTIONS = ("sum", "mean", "maximum", "minimum", "product", *POSITIONS)
"""Kinds of reduction. Of no elements, sum, mean and positions are 0, the product is 1, bounds are the least or greatest
number."""

COMPARISONS = frozenset({"equal", "less", "less_equal", "is_nan", "is_inf", "is_positive_inf", "is_negative_inf"})


def call(primitive: str, *arguments: Expression) -> Call:
    """Apply a primitive; the result has the last argument's dtype, or bool for comparisons."""
    return Call(primitive, arguments, "bool" if primitive in COMPARISONS else arguments[-1].dtype)


def cast(x: Expression, dtype: str) -> Expression:
    """Convert to another dtype."""
    return x if x.dtype == dtype else Call("cast", (x,), dtype)


def literal(value: float | int, like: Expression) -> Literal:
    """A number of the same dtype as an expression."""
    return Literal(value, like.dtype)


# ------------------------------------------------------------------ index maps


@dataclass(frozen=True, slots=True)
class Dim:
    """A size known when shapes are: times * (product of the operand's sizes along axes) / divided."""

    axes: tuple[int, ...] = ()
    times: int = 1
    divided: int = 1


@dataclass(frozen=True, slots=True)
class Values:
    """Integers known when the kernel plans: those of operand number ``slot``, or fixed ones."""

    slot: int = -1
    fixed: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Transpose:
    """``result.shape[k] = operand.shape[permutation[k]]``."""

    permutation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reshape:
    """Same elements in storage order, new sizes: computed from the operand's, or an ONNX Reshape target."""

    sizes: tuple[Dim, ...] | None = None
    target: Values | None = None
    allow_zero: bool = False


@dataclass(frozen=True, slots=True)
class Expand:
    """Broadcast to a target shape (ONNX Expand)."""

    target: Values


@dataclass(frozen=True, slots=True)
class Slice:
    """ONNX Slice: bounds may be negative or beyond; axes and steps may be absent."""

    starts: Values
    ends: Values
    axes: Values | None = None
    steps: Values | None = None


@dataclass(frozen=True, slots=True)
class Take:
    """The first ``size`` elements along an axis."""

    axis: int
    size: int


@dataclass(frozen=True, slots=True)
class Part:
    """Part number ``part`` of ONNX Split along an axis into ``parts``, with sizes or equal."""

    axis: int
    part: int
    parts: int
    sizes: Values | None = None


@dataclass(frozen=True, slots=True)
class Concat:
    """All operands one after the other along an axis."""

    axis: int


@dataclass(frozen=True, slots=True)
class Pad:
    """ONNX Pad with a constant: pads from ``pads``; the value is operand ``value_slot``, zero when absent (-1)."""

    rank: int
    pads: Values
    value_slot: int = -1
    axes: Values | None = None


@dataclass(frozen=True, slots=True)
class PadTo:
    """Zeros behind along an axis, up to a multiple of ``multiple``."""

    axis: int
    multiple: int


@dataclass(frozen=True, slots=True)
class Gather:
    """ONNX Gather along an axis with indices known when the kernel plans."""

    axis: int
    indices_slot: int


@dataclass(frozen=True, slots=True)
class Tile:
    """ONNX Tile."""

    repeats: Values


IndexMap = Transpose | Reshape | Expand | Slice | Take | Part | Concat | Pad | PadTo | Gather | Tile


# ------------------------------------------------------------------ lowerings


class CannotLowerError(Exception):
    """This use of the operator has no kernel; the message says why."""


@dataclass(frozen=True, slots=True)
class Elementwise:
    """Lowering of an element-wise operator.

    Attributes:
        expression: (node, operand expressions by slot, None where absent) to one expression per result.
        cost: rough operations per element, to decide when threads pay.
    """

    expression: Callable[[Node, Sequence[Expression | None]], Expression]
    cost: int = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """Lowering of a layout operator.

    Attributes:
        maps: (graph, node, result index) to index maps, first the one next to the operands. Only the first map may
            have several operands (Concat); others have the map before them as operand.
    """

    maps: Callable[[OperatorGraph, Node, int], tuple[IndexMap, ...]]


@dataclass(frozen=True, slots=True)
class Rowwise:
    """Lowering of an operator that reduces along axes, before and after element-wise work.

    Attributes:
        expressions: (graph, node, operand expressions by slot, None where absent) to one expression per result, None
            for a result that the kernel does not give.
        cost: rough operations per element, to decide when threads pay.
    """

    expressions: Callable[[OperatorGraph, Node, Sequence[Expression | None]], tuple[Expression | None, ...]]
    cost: int = 4


@dataclass(frozen=True, slots=True)
class Picking:
    """Lowering of an operator that takes slices of operand 0 along an axis, where the integers of operand 1 say.

    Attributes:
        axis: the node's axis, which may be negative.
    """

    axis: Callable[[Node], int]


@dataclass(frozen=True, slots=True)
class MatrixProduct:
    """Lowering of an operator that multiplies its first two operands as matrices.

    Attributes:
        maps: (graph, node) to the index maps that bring the left operand to [..., M, K] and the right one to
            [..., K, N].
        expression: (node, operand expressions by slot) to the result; slot 0 stands for an element of the product.
        cost: rough operations per element of the result, without the sums.
    """

    maps: Callable[[OperatorGraph, Node], tuple[tuple[IndexMap, ...], tuple[IndexMap, ...]]]
    expression: Callable[[Node, Sequence[Expression | None]], Expression]
    cost: int = 1


@dataclass(frozen=True, slots=True)
class Window:
    """Which elements of its input a convolution multiplies, and the bounds of its result.

    Sizes along height and width; a convolution in one dimension has height 1.

    Attributes:
        dimensions: 1 or 2.
        block: channels per block of the blocked layout that the operator works in; 0 for plain tensors.
        groups: the channels' parts that are convolved apart.
        strides, dilations, before, after: as in ONNX; pads in front and behind.
        same: pads are found from the sizes: ``""``, ``"upper"`` or ``"lower"`` (ONNX auto_pad).
        low, high: bounds of the result (Relu, Clip).
    """

    dimensions: int
    block: int
    groups: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    same: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Pool:
    """How the elements under a window that slides over an image are combined.

    Attributes:
        kind: ``"maximum"`` or ``"mean"``.
        window: as of a convolution of one group without bounds.
        kernel: taps along height and width.
        rounds_up: a last window may reach beyond the padding (ONNX ceil_mode).
        counts_pads: a mean divides by all taps, not by those inside of the image.
    """

    kind: str
    window: Window
    kernel: tuple[int, int]
    rounds_up: bool
    counts_pads: bool


@dataclass(frozen=True, slots=True)
class Pooling:
    """Lowering of a pooling operator.

    Attributes:
        pool: (graph, node) to what it computes.
    """

    pool: Callable[[OperatorGraph, Node], Pool]


@dataclass(frozen=True, slots=True)
class Convolving:
    """Lowering of a convolution of slot 0 by the weights in slot 1, plus a bias (slot 2) and a tensor (slot 3).

    Attributes:
        window: (graph, node) to its window.
        expression: (node, an element of the bounded sum) to the result: other activations.
    """

    window: Callable[[OperatorGraph, Node], Window]
    expression: Callable[[Node, Expression], Expression]


@dataclass(frozen=True, slots=True)
class Layer:
    """What a recurrent layer computes in each step.

    Attributes:
        gates: 3 for a GRU, 4 for an LSTM.
        hidden: elements of its state.
        reversed: for each direction, whether the last step comes first.
        reset_after: the reset gate scales the product of the state, not the state (ONNX: linear_before_reset).
    """

    gates: int
    hidden: int
    reversed: tuple[bool, ...]
    reset_after: bool = False


@dataclass(frozen=True, slots=True)
class Recurring:
    """Lowering of a recurrent layer with the operands and results of ONNX's GRU and LSTM.

    Attributes:
        layer: (graph, node) to what it computes.
    """

    layer: Callable[[OperatorGraph, Node], Layer]


Lowering = Convolving | Elementwise | Layout | Rowwise | Picking | MatrixProduct | Pooling | Recurring
