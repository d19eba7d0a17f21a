"""The C of convolutions: tile functions of the sizes that a library needs, and tables for ``c/convolution.h``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from graphopt.graph import Shape
from graphopt.kernels.program import Convolution, Program
from graphopt.kernels.scalar import number
from graphopt.operators.blocked import block_size
from graphopt.operators.lowering import Literal

MOST_BLOCKS = 4
LARGEST_TILE = {0: 12, 1: 16, 2: 14, 3: 9, 4: 7}
"""Most pixels of a tile by output blocks (0: depthwise): what 32 vector registers hold."""
LARGEST_SMALL_TILE = {0: 4, 1: 4, 2: 3}
"""The same for 16 registers, and for tile functions that serve any step."""


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
    """

    depthwise: bool
    plain: bool
    stride: int
    pointwise: bool = False

    @property
    def name(self) -> str:
        """C identifier."""
        blocked = "pointwise" if self.pointwise else "blocked"
        kind = "depthwise" if self.depthwise else "plain" if self.plain else blocked
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
    """C of a tile function: sums of ``pixels`` pixels of one block, channel by channel."""
    cells = [(p, 0) for p in range(pixels)]
    yield f"static void {family.name}_{pixels}_0(const tile *t, int64_t at, int64_t place)"
    yield "{"
    yield f"    const int64_t pixel = {family.pixel};"
    yield from _starts(cells)
    yield "    (void)pixel;"
    yield "    for (int64_t y = 0; y < t->taps_y; y++) {"
    yield "        const float *w = t->weights + y * t->weights_row, *x = t->input + at + y * t->tap_y;"
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


def families(tiles: Iterable[tuple[Family, int, int]]) -> Iterable[str]:
    """C of all tile functions of a library, and the table of its families.

    Args:
        tiles: family, pixels and output blocks (0: depthwise) of what its convolutions use at the shapes observed.
    """
    wanted = {(f, p, b) for f, p, b in tiles if p <= LARGEST_TILE[b]}
    wanted |= {(f, 1, b) for f, _, b in wanted} | {(f, 1, 1) for f, _, b in wanted if b}
    small = {(f, p, b) for f, _, b in wanted for p in range(1, LARGEST_SMALL_TILE.get(b, 0) + 1)}
    for family in ANY_STEP:
        kinds = (0,) if family.depthwise else (1, 2)
        small |= {(family, p, b) for b in kinds for p in range(1, LARGEST_SMALL_TILE[b] + 1)}
    order = sorted({f for f, _, _ in wanted} - set(ANY_STEP)) + list(ANY_STEP)
    yield "/* Tile functions of convolutions. Products are added in one step with their sum where the processor can. */"
    yield from ("#if defined(__clang__)", "#pragma clang fp contract(fast)", "#elif defined(__GNUC__)")
    yield from ("#pragma GCC push_options", '#pragma GCC optimize("fp-contract=fast")', "#endif")
    yield from ("#if defined(__AVX512F__) && BLOCK == 16", "")
    yield from _functions(order, wanted | {entry for entry in small if not entry[0].stride})
    yield from ("#else", "")
    yield from _functions(order, small)
    yield from ("#endif", "")
    names = ", ".join(f"&{family.name}" for family in order)
    yield from ("#if defined(__GNUC__) && !defined(__clang__)", "#pragma GCC pop_options", "#endif")
    yield f"const tile_family *const TILE_FAMILIES[] = {{{names}, NULL}};"
    yield ""


def _functions(order: Sequence[Family], tiles: set[tuple[Family, int, int]]) -> Iterable[str]:
    for family in order:
        entries = sorted((b, p) for f, p, b in tiles if f == family)
        for blocks, pixels in entries:
            yield from dense_tile(family, pixels, blocks) if blocks else depthwise_tile(family, pixels)
        yield f"static const tile_family {family.name} = {{"
        kind = f"{int(family.depthwise)}, {int(family.plain)}, {int(family.pointwise)}"
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


def tiles(programs: Sequence[Program]) -> Iterable[str]:
    """C of the tile functions of a library."""
    found = [(p, index) for p in programs for index, value in enumerate(p.values) if isinstance(value, Convolution)]
    if not found:
        yield "const tile_family *const TILE_FAMILIES[] = {NULL};"
        return
    block = block_size() or 16
    wanted: set[tuple[Family, int, int]] = set()
    for program, index in found:
        value = program.values[index]
        assert isinstance(value, Convolution)
        for example in program.examples:
            wanted |= set(_tiles(value, block, example, example[index]))
    yield from families(wanted)


def _tiles(
    value: Convolution, block: int, example: Sequence[Shape | None], result: Shape | None
) -> Iterable[tuple[Family, int, int]]:
    """Tiles for a convolution at the shapes of an example: family, pixels, output blocks."""
    window = value.window
    image, weights = (example[operand] for operand in value.operands[:2])
    if image is None or weights is None or result is None:
        return
    depthwise = window.block > 0 and window.groups > 1 and weights[1] == 1 and weights[0] == window.groups
    plain = not window.block or (window.groups == 1 and weights[1] < block)
    width, stride, kernel = result[-1], window.strides[1], weights[-1]
    row = width == image[-1] == kernel == 1 and not window.before[1]
    if row:
        width, stride, kernel = result[2], window.strides[0], weights[2]
    one_tap = prod(weights[2:]) == 1 and not any((*window.before, *window.after))
    if one_tap and prod(window.strides) == 1:
        width = prod(result[2:])
    family = Family(depthwise, plain, stride, one_tap and not (depthwise or plain))
    blocks = -(-(weights[0] // window.groups) // block)
    kinds = {0} if depthwise else _kinds(blocks) | _kinds(-(-blocks // max(1, min(blocks // 8, 8))))
    steps_of_one = prod(window.strides) * prod(window.dilations) == 1
    if steps_of_one and not (depthwise or plain) and 1 < max(weights[2:]) <= WINOGRAD_TAPS:
        yield from (  # of the products of c/winograd.h
            (Family(False, False, 1, True), pixels, kind)
            for kind in _kinds(blocks)
            for pixels in {1, 2, 4, LARGEST_TILE[kind] * 2 // 3, LARGEST_TILE[kind]}
        )
    for kind in kinds:
        border = width - (width - (kernel - 1) * window.dilations[1 - row] // stride)
        for pixels in _sizes(width, LARGEST_TILE[kind]) | _sizes(max(1, width - border), LARGEST_TILE[kind]):
            yield family, pixels, kind


def _kinds(blocks: int) -> set[int]:
    """How many output blocks there are in the tiles that share them out."""
    kinds = set()
    while blocks > 0:
        kind = -(-blocks // (-(-blocks // MOST_BLOCKS)))
        kinds.add(kind)
        blocks -= kind
    return kinds


def _sizes(width: int, most: int) -> set[int]:
    """Sizes of tiles that cover a row well: the largest, an even one or the even share of few tiles, and the rest."""
    tiles = -(-width // most)
    even = next((size for size in range(min(most, width), most // 2, -1) if width % size == 0), 0)
    size = even or -(-width // tiles)
    return {size for at_once in (size, min(most, width)) for size in (at_once, width % at_once) if size} | {1}
