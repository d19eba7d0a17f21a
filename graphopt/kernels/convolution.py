"""The C of convolutions: tile functions of the sizes that a library needs, and tables for ``c/convolution.h``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from graphopt.graph import Shape
from graphopt.kernels.program import Convolution, Program
from graphopt.kernels.scalar import number
from graphopt.operators.blocked import LARGEST_TILE, block_size
from graphopt.operators.lowering import Literal

LARGEST_SMALL_TILE = {0: 4, 1: 4, 2: 3}
"""``LARGEST_TILE`` for 16 registers, and for tile functions that serve any step."""

DEPTHWISE_TAPS = (3, 5, 7)
"""Numbers of taps along a row for which depthwise convolutions have tile functions of their own."""

WINOGRAD_TAPS = 5
"""Most taps along a dimension that are summed with fewer multiplications."""


@dataclass(frozen=True, order=True)
class Family:
    """Tile functions for one step from pixel to pixel.

    Attributes:
        depthwise: each input block makes one output block.
        plain: the input is not blocked.
        stride: pixels of the input from one pixel of the result to the next; 0 for any.
        pointwise: the window is one pixel.
        taps: that the window has along a row, without gaps; 0 for any number.
    """

    depthwise: bool
    plain: bool
    stride: int
    pointwise: bool = False
    taps: int = 0

    @property
    def name(self) -> str:
        """C identifier."""
        blocked = "pointwise" if self.pointwise else "blocked"
        kind = "depthwise" if self.depthwise else "plain" if self.plain else blocked
        if self.taps:
            return f"{kind}_{self.stride}_of_{self.taps}"
        return f"{kind}_{self.stride}" if self.stride else f"{'depthwise' if self.depthwise else 'dense'}_any"

    @property
    def pixel(self) -> str:
        """C text of the floats from pixel to pixel."""
        if not self.stride:
            return "t->pixel"
        return str(self.stride) if self.plain else f"{self.stride} * BLOCK"


def dense_tile(family: Family, pixels: int, blocks: int) -> Iterable[str]:
    """C of a tile function: sums of ``pixels`` pixels and ``blocks`` output blocks, in registers."""
    cells = [(p, f) for p in range(pixels) for f in range(blocks)]
    step = "t->step" if family.plain or not family.stride else "1"
    yield f"static void {family.name}_{pixels}_{blocks}(const tile *t, int64_t at, int64_t place)"
    yield "{"
    yield f"    const int64_t pixel = {family.pixel}, step = {step}, weights_output = t->weights_output;"
    yield from _starts(cells)
    yield "    (void)pixel, (void)weights_output;"
    if family.pointwise:
        yield "    const float *x = t->input + at, *w = t->weights;"
        yield "    const int64_t next = t->input_block - BLOCK;"
        yield "    for (int64_t b = t->blocks; b > 0; b--, x += next) {"
        yield "        for (int c = 0; c < BLOCK; c++, x += step, w += BLOCK) {"
        yield from _products(pixels, blocks)
        yield from ("        }", "    }")
    else:
        yield "    const float *block = t->input + at, *block_weights = t->weights;"
        yield "    const int64_t input_block = t->input_block, tap_y = t->tap_y, tap_x = t->tap_x;"
        yield "    const int64_t weights_input = t->weights_input, row_weights = t->weights_row;"
        yield "    for (int64_t b = t->blocks; b > 0; b--, block += input_block, block_weights += weights_input) {"
        yield "        const float *row = block, *w_row = block_weights;"
        yield "        for (int64_t y = t->taps_y; y > 0; y--, row += tap_y, w_row += row_weights) {"
        yield "            const float *at_tap = row, *w = w_row;"
        yield "            for (int64_t tap = t->taps_x; tap > 0; tap--, at_tap += tap_x) {"
        yield "                const float *x = at_tap;"
        yield "                for (int64_t c = t->length; c > 0; c--, x += step, w += BLOCK) {"
        yield from _products(pixels, blocks)
        yield from ("                }", "            }", "        }", "    }")
    yield from _finish(cells)
    yield from ("}", "")


def _products(pixels: int, blocks: int) -> Iterable[str]:
    """The innermost statements: a value of each pixel times a vector of weights of each block."""
    for f in range(blocks):
        yield f"            const channels w{f} = load(w + {f} * weights_output);"
    for p in range(pixels):
        yield f"            const channels x{p} = all(x[{p} * pixel]);"
        yield from (f"            sum{p}_{f} += x{p} * w{f};" for f in range(blocks))


def depthwise_tile(family: Family, pixels: int) -> Iterable[str]:
    """C of a tile function: sums of ``pixels`` pixels of one block, channel by channel.

    Where the number of taps is known, each value is read once for all the pixels that it counts for; a single pixel may
    stand at a border, where there are fewer taps.
    """
    cells = [(p, 0) for p in range(pixels)]
    yield f"static void {family.name}_{pixels}_0(const tile *t, int64_t at, int64_t place)"
    yield "{"
    yield f"    const int64_t pixel = {family.pixel};"
    yield from _starts(cells)
    yield "    (void)pixel;"
    yield "    for (int64_t y = 0; y < t->taps_y; y++) {"
    yield "        const float *w = t->weights + y * t->weights_row, *x = t->input + at + y * t->tap_y;"
    if family.taps and pixels > 1:
        yield from (f"        const channels w{tap} = load(w + {tap} * BLOCK);" for tap in range(family.taps))
        for column in range(pixels + family.taps - 1):
            yield f"        const channels x{column} = load(x + {column} * BLOCK);"
            first, last = max(0, column - pixels + 1), min(family.taps - 1, column)
            yield from (f"        sum{column - k}_0 += x{column} * w{k};" for k in range(first, last + 1))
        yield "    }"
        yield from _finish(cells)
        yield from ("}", "")
        return
    yield "        for (int64_t tap = 0; tap < t->taps_x; tap++, w += BLOCK, x += t->tap_x) {"
    yield "            const channels weight = load(w);"
    yield from (f"            sum{p}_0 += load(x + {p} * pixel) * weight;" for p in range(pixels))
    yield from ("        }", "    }")
    yield from _finish(cells)
    yield from ("}", "")


def _starts(cells: Sequence[tuple[int, int]]) -> Iterable[str]:
    """The beginning of a tile function: the bias, for the first run of sums."""
    yield "    const float *start = t->first ? t->start : NO_BIAS;"
    yield from (f"    channels sum{p}_{f} = load(start + {f} * BLOCK);" for p, f in cells)


def _finish(cells: Sequence[tuple[int, int]]) -> Iterable[str]:
    """The end of a tile function: earlier runs, an added tensor, bounds, stores."""
    blocks = 1 + max(f for _, f in cells)
    for f in range(blocks):
        yield f"    float *to{f} = t->result + {f} * t->result_block + place;"
    yield "    if (!t->first) {"
    yield from (f"        sum{p}_{f} += load(to{f} + {p} * BLOCK);" for p, f in cells)
    yield "    }"
    yield "    else if (t->sum) {"
    for f in range(blocks):
        yield f"        const float *added{f} = t->sum + {f} * t->result_block + place;"
    yield from (f"        sum{p}_{f} += load(added{f} + {p} * BLOCK);" for p, f in cells)
    yield "    }"
    yield "    if (t->last && t->bounded) {"
    yield from (f"        sum{p}_{f} = bounded(sum{p}_{f}, t->low, t->high);" for p, f in cells)
    yield "    }"
    yield from (f"    store(to{f} + {p} * BLOCK, sum{p}_{f});" for f in range(blocks) for p, g in cells if g == f)


ANY_STEP = (Family(True, False, 0), Family(False, False, 0))
"""For any step from pixel to pixel."""


def family_functions(family: Family) -> str:
    """C of all tile functions of a family, and its table. Equal for all libraries, so it is compiled once."""
    lines = [f"/* Tile functions, {family.name}. Products are added in one step with their sum where that can be. */"]
    lines += ["#if defined(__clang__)", "#pragma clang fp contract(fast)", "#elif defined(__GNUC__)"]
    lines += ["#pragma GCC push_options", '#pragma GCC optimize("fp-contract=fast")', "#endif"]
    small = list(_functions(family, LARGEST_SMALL_TILE))
    if family.stride:
        lines += ["#if defined(__AVX512F__) && BLOCK == 16", "", *_functions(family, LARGEST_TILE), "#else", "", *small]
        lines += ["#endif", ""]
    else:
        lines += small
    lines += ["#if defined(__GNUC__) && !defined(__clang__)", "#pragma GCC pop_options", "#endif", ""]
    return "\n".join(lines)


def _functions(family: Family, largest: Mapping[int, int]) -> Iterable[str]:
    entries = [
        (blocks, pixels)
        for blocks, most in sorted(largest.items())
        if (blocks == 0) == family.depthwise
        for pixels in range(1, most + 1)
    ]
    for blocks, pixels in entries:
        yield from dense_tile(family, pixels, blocks) if blocks else depthwise_tile(family, pixels)
    yield f"extern const tile_family {family.name};"
    yield f"const tile_family {family.name} = {{"
    kind = f"{int(family.depthwise)}, {int(family.plain)}, {int(family.pointwise)}, {family.taps}"
    yield f"    {kind}, {family.pixel if family.stride else 0},"
    rows = ", ".join(f"[{b}][{p}] = {family.name}_{p}_{b}" for b, p in entries)
    yield f"    {{{rows}}},"
    yield from ("};", "")


# ------------------------------------------------------------------ programs


def name_of(program: Program, value: int) -> str:
    """C identifier of the description of a convolution."""
    return f"{program.name}_convolution{value}"


def description(program: Program, index: int, value: Convolution) -> Iterable[str]:
    """C of what a convolution's operator says."""
    window = value.window
    same = ("", "upper", "lower").index(window.same)
    pairs = (window.strides, window.dilations, window.before, window.after)
    yield f"static const convolution {name_of(program, index)} = {{"
    present = ", ".join(str(int(operand >= 0)) for operand in value.operands[2:])
    yield f"    {present}, {window.dimensions}, {int(window.block > 0)},"
    yield f"    {same}, {window.groups}, {', '.join(f'{{{first}, {second}}}' for first, second in pairs)},"
    yield f"    {number(Literal(window.low, 'float32'))}, {number(Literal(window.high, 'float32'))},"
    yield from ("};", "")


def shape(program: Program, index: int, value: Convolution) -> Iterable[str]:
    """Statements that find the shape of a convolution when the kernel plans."""
    yield f"error = shape_convolution(&{name_of(program, index)}, {_shapes(value)}, &f.of[{index}]);"
    yield "if (error)"
    yield "    return error;"


def _shapes(value: Convolution) -> str:
    return ", ".join(f"&f.of[{operand}]" if operand >= 0 else "NULL" for operand in value.operands)


class ConvolutionStep:
    """A step that computes one convolution.

    Attributes:
        tensor: that it writes.
        reads: tensors that it reads.
        lines: none; what it needs stands before ``make_plan`` or in ``c/convolution.h``.
    """

    def __init__(self, program: Program, value: int, what: Convolution, tensors: dict[int, int], tensor: int) -> None:
        """Prepare the call.

        Args:
            program: with the value.
            value: number of the convolution.
            what: the convolution.
            tensors: number of the tensor of each value that is in memory; all operands are.
            tensor: where the result goes.
        """
        self.lines: list[str] = []
        self._shapes = _shapes(what)
        self._name = name_of(program, value)
        self.tensor = tensor
        self.reads = {tensors[operand] for operand in what.operands if operand >= 0}
        numbers = (*(tensors.get(operand, -1) for operand in what.operands), tensor)
        self._tensors = ", ".join(str(number) for number in numbers)

    def plan_call(self) -> list[str]:
        """C statements that plan the step."""
        return [
            f"error = plan_convolution_step(p, &{self._name}, {self._shapes},",
            f"    (const int[]){{{self._tensors}}});",
        ]


def tiles(programs: Sequence[Program]) -> tuple[str, ...]:
    """C of the tile functions of a library, in parts: one for each family, and the table of them."""
    found = [(p, index) for p in programs for index, value in enumerate(p.values) if isinstance(value, Convolution)]
    wanted: set[Family] = set()
    for program, index in found:
        value = program.values[index]
        assert isinstance(value, Convolution)
        for example in program.examples:
            wanted |= set(_families(value, block_size() or 16, example))
    order = [*sorted(wanted, key=lambda family: (-family.taps, family)), *ANY_STEP] if found else []
    declared = [f"extern const tile_family {family.name};" for family in order]
    names = "".join(f"&{family.name}, " for family in order)
    table = [*declared, f"const tile_family *const TILE_FAMILIES[] = {{{names}NULL}};", ""]
    return (*(family_functions(family) for family in order), "\n".join(table))


def _families(value: Convolution, block: int, example: Sequence[Shape | None]) -> Iterable[Family]:
    """Families that a convolution uses at the shapes of an example."""
    window = value.window
    image, weights = (example[operand] for operand in value.operands[:2])
    if image is None or weights is None:
        return
    depthwise = window.block > 0 and window.groups > 1 and weights[1] == 1 and weights[0] == window.groups
    plain = not window.block or (window.groups == 1 and weights[1] < block)
    row = image[-1] == weights[-1] == 1 and not window.before[1]
    one_tap = prod(weights[2:]) == 1 and not any((*window.before, *window.after))
    step, gap = window.strides[0 if row else 1], window.dilations[0 if row else 1]
    taps = weights[2] if row else weights[-1]
    known = taps if depthwise and step == gap == 1 and taps in DEPTHWISE_TAPS else 0
    yield Family(depthwise, plain, step, one_tap and not (depthwise or plain), known)
    steps_of_one = prod(window.strides) * prod(window.dilations) == 1
    if steps_of_one and not (depthwise or plain) and 1 < max(weights[2:]) <= WINOGRAD_TAPS:
        yield Family(False, False, 1, True)  # of the products of c/winograd.h
