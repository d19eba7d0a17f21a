"""What kernels execute for contractions, pools and recurrent layers: operations as scheduled, and what slows them.

A kernel's schedule decides what it costs: vectors are filled up with idle lanes, few rows keep fewer sums in flight,
the matrix unit works on tiles, and transforms replace multiplications. The formulas follow the kernels' own plans
(``kernels/c/contraction.h``, ``matrix_unit.h``, ``convolution.h``, ``winograd.h``, ``pooling.h``, ``recurrence.h``,
``integers.h``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, prod

from graphopt.graph import Node, Shape
from graphopt.operators.blocked import DOMAIN, LARGEST_TILE
from graphopt.operators.formulas import integer
from graphopt.operators.plan_numbers import PLAN
from graphopt.operators.products import FACTORS, LANES, Shapes, factor_shapes

FEWEST_SUMS = 8
"""Sums that must be in flight for the multipliers not to wait."""
PAGE, NEAR_PAGES = 4096, 64
"""Bytes of a page of memory, and pages whose addresses a core has at hand: beyond, channels of a pixel take longer."""
UNIT_PIXELS = 2 * PLAN.unit_rows
PARTS_SHARE = PLAN.parts / 2
"""Bytes of weights in the parts that the matrix unit multiplies, over those of float32."""
UNIT_WAITS = 0.5
"""Share that products by the matrix unit wait for, where weights lie beyond the second-level cache."""
PARTS_BYTES = PLAN.parts * 2 * PLAN.unit_rows * PLAN.unit_depth
GATES = {"GRU": 3, "LSTM": 4}
POOLS = ("MaxPool", "AveragePool")


@dataclass(frozen=True, slots=True)
class Executed:
    """The work of one execution inside of a kernel.

    Attributes:
        regime: which schedule, where it has a rate of its own: ``unit`` (matrix unit), ``dots`` (few columns),
            ``row`` (one row, or one position), ``computed`` (by what no session can prepare), ``winograd``,
            ``pointwise``, ``strided``; else empty.
        operations: as executed, idle lanes included.
        counts: what is worked through besides, by name.
        parameter_share: bytes of weights as the kernel keeps them, over those of the operator.
        again: bytes of weights that are read more than once, and how often more.
        waits: share of the time to fetch weights that is waited for; the rest goes by while others are used.
    """

    regime: str
    operations: float
    counts: Mapping[str, float] = field(default_factory=dict)
    parameter_share: float = 1.0
    again: tuple[float, float] = (0.0, 0.0)
    waits: float = 0.0


def executed(node: Node, inputs: Shapes, result: Shape, *, computed: bool, unit: bool) -> Executed | None:
    """What a kernel executes for an operator; None where the operator's own operations say it.

    Args:
        node: the operator.
        inputs: shapes of the operands by slot.
        result: shape of the first result.
        computed: whether the right factor (the weights of a convolution) is no constant.
        unit: whether the machine's kernels use a matrix unit.
    """
    if node.op_type in POOLS:
        return _pool(node, inputs[0] or (), result)
    left, right = factor_shapes(node, inputs)
    if not left or not right or not result or not prod((*left, *right, *result)):
        return None
    if node.op_type in GATES and len(left) == len(right) == 3:
        return _recurrent(node, left, right)
    if node.op_type in FACTORS:
        return _integers(node, left, right, result, computed)
    if node.op_type in ("Conv", "FusedConv"):
        return _convolution(node, left, right, result, computed, unit) if 3 <= len(left) == len(right) <= 4 else None
    if node.op_type in ("MatMul", "FusedMatMul", "Gemm", "FusedGemm") and len(right) > 1:
        depth = left[-2] if integer(node, "transA", 0) and len(left) > 1 else left[-1]
        return _product(result, depth, right, computed, unit)
    return None


# ----------------------------------------------------------------------------------------------------- matrix products


def _product(result: Shape, depth: int, right: Shape, computed: bool, unit: bool) -> Executed:
    columns = result[-1]
    batches = prod(right[:-2])  # one right operand for all: the rows of all are rows of one product
    rows = max(1, prod(result[:-1]) // max(1, batches))
    if not computed and batches == 1 and columns > PLAN.few_columns and unit and unit_pays(rows, columns, depth):
        kept = PARTS_SHARE * 4 * prod(right)
        again = kept, ceil(rows / PLAN.split_rows) - 1
        return Executed("unit", *_by_unit(rows, columns, depth), PARTS_SHARE, again, UNIT_WAITS)
    blocks = ceil(rows / PLAN.wide_rows) * ceil(columns / (2 * LANES)) * ceil(depth / PLAN.depth_run)
    counts: dict[str, float] = {"": blocks, "results": prod(result), "weights": prod(right)}
    if not computed and batches == 1 and columns <= PLAN.few_columns:  # dot products along the depth
        return Executed("dots", 2.0 * rows * columns * ceil(depth / LANES) * LANES, {"": prod(result)})
    if computed:
        counts = {"": prod(result), "weights": prod(right), "matrices": batches - 1}
    regime = "computed" if computed else "row" if rows == 1 else ""
    return Executed(regime, batches * padded_operations(rows, columns, depth), counts)


def padded_operations(rows: int, columns: int, depth: int) -> float:
    """Operations of a product by vectors, idle lanes and idle multipliers included."""
    groups = ceil(rows / PLAN.wide_rows)
    vectors = ceil(columns / LANES)
    in_flight = min(2, vectors)  # vectors of columns at once
    busy = groups * max(rows / groups, FEWEST_SUMS / in_flight)
    return 2.0 * busy * vectors * LANES * depth


def unit_pays(rows: int, columns: int, depth: int) -> bool:
    """Whether kernels leave a product to the matrix unit: its time in cycles against that of vectors."""
    left, results, weights = rows * depth, rows * columns, columns * depth
    tiles = ceil(rows / PLAN.unit_rows) * ceil(columns / PLAN.unit_rows) * ceil(depth / PLAN.unit_depth)
    vectors = ceil(columns / LANES) * max(rows, 4) * depth
    unit = PLAN.unit_tile_cycles * tiles + PLAN.unit_left_cycles * left + PLAN.unit_result_cycles * results
    plain = PLAN.vector_sum_cycles * vectors + PLAN.vector_left_cycles * left + PLAN.vector_result_cycles * results
    return unit + PLAN.unit_weight_cycles * weights < plain + PLAN.vector_weight_cycles * weights


def _by_unit(rows: int, columns: int, depth: int) -> tuple[float, dict[str, float]]:
    """Operations of the tiles; blocks of tiles, and elements that are split into parts."""
    row_tiles, column_tiles = ceil(rows / PLAN.unit_rows), ceil(columns / PLAN.unit_rows)
    products = row_tiles * column_tiles * ceil(depth / PLAN.unit_depth)
    operations = 2.0 * products * PLAN.unit_rows**2 * PLAN.unit_depth
    return operations, {"": ceil(row_tiles / 2) * ceil(column_tiles / 2), "split": rows * depth}


# -------------------------------------------------------------------------------------------------------- convolutions


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Sizes of a convolution over height and width; channels count per group."""

    batch: int
    groups: int
    channels: int
    out: int
    kernel: tuple[int, int]
    size: tuple[int, int]
    plain: bool
    plain_input: bool
    border: int

    @property
    def input_blocks(self) -> int:
        return self.channels if self.plain_input else ceil(self.channels / LANES)

    @property
    def output_blocks(self) -> int:
        return ceil(self.out / LANES)

    @property
    def taps(self) -> int:
        return prod(self.kernel)


def _convolution(node: Node, image: Shape, weights: Shape, result: Shape, computed: bool, unit: bool) -> Executed:
    groups = max(1, integer(node, "group", 1))
    blocked = node.domain == DOMAIN
    kernel, size, extent = _plane(weights), _plane(result), _plane(image)
    turned = extent[1] == kernel[1] == size[1] == 1  # columns are what kernels run along
    if turned:
        kernel, size, extent = kernel[::-1], size[::-1], extent[::-1]
    elif prod(kernel) == 1 and size == extent:  # pixel by pixel: one long row
        size = extent = (1, prod(size))
    strides, dilations = (_numbers(node, name) for name in ("strides", "dilations"))
    depthwise = blocked and groups > 1 and weights[1] == 1 and weights[0] == groups
    reach = (kernel[1] - 1) * dilations[1]
    before = _padding(node, 2 if turned else 1, max(0, (size[1] - 1) * strides[1] + reach + 1 - extent[1]))
    first = min(ceil(before / strides[1]), size[1])
    border = size[1] - (min(max(ceil((extent[1] + before - reach) / strides[1]), first), size[1]) - first)
    plain_input = not blocked or (groups == 1 and weights[1] < LANES)
    sizes = _Sizes(result[0], groups, weights[1], weights[0] // groups, kernel, size, not blocked, plain_input, border)
    if depthwise:
        return _depthwise(sizes, prod(extent))
    if not computed and blocked and not plain_input:
        tiled = _winograd(sizes) if strides == dilations == (1, 1) else None
        work = groups * (tiled[0] if tiled is not None else _direct_work(sizes))
        by_unit = _windows_by_unit(sizes, strides, dilations) if unit else None
        if by_unit is not None and by_unit[0] < work:
            return by_unit[1]
        if tiled is not None:
            return tiled[1]
    return _direct(sizes, prod(extent), bordered=border > 0 or size[0] > (extent[0] - kernel[0]) // strides[0] + 1)


def _padding(node: Node, back: int, needed: int) -> int:
    """Elements in front of an image, along its last dimension or the one ``back`` from the end."""
    automatic, pads = node.attributes.get("auto_pad", "NOTSET"), node.attributes.get("pads")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        return needed // 2 if automatic == "SAME_UPPER" else needed - needed // 2
    given = pads if isinstance(pads, tuple) and automatic != "VALID" else ()
    found = given[len(given) // 2 - back] if len(given) >= 2 * back else 0
    return found if isinstance(found, int) else 0


def _plane(shape: Shape) -> tuple[int, int]:
    """Height and width; along one dimension height is 1."""
    return (shape[2] if len(shape) > 3 else 1), shape[-1]


def _numbers(node: Node, name: str) -> tuple[int, int]:
    """An attribute along height and width."""
    given = node.attributes.get(name)
    values = [n for n in given if isinstance(n, int)] if isinstance(given, tuple) else []
    return (values[-2] if len(values) > 1 else 1), (values[-1] if values else 1)


def _tiles(width: int, kind: int) -> tuple[int, float]:
    """Tiles that cover a row of pixels, and the pixels that they take the time of."""
    largest = LARGEST_TILE[kind]
    count = ceil(width / largest)
    return count, count * max(width / count, FEWEST_SUMS / max(1, kind))


def _depthwise(sizes: _Sizes, image: int) -> Executed:
    height, width = sizes.size
    rows = sizes.batch * height * ceil(sizes.groups / LANES)
    tiles, pixels = _tiles(width, 0)
    copied = sizes.border * (sizes.taps * 4 // 3) >= width > 0 and sizes.border > 0
    elements = sizes.batch * ceil(sizes.groups / LANES) * LANES * image
    counts = {
        "": rows * tiles,
        "image": elements,
        "copied": elements if copied else 0,
        "border": 0 if copied else rows * sizes.border,
    }
    return Executed("pointwise" if sizes.taps == 1 else "", 2.0 * rows * pixels * LANES * sizes.taps, counts)


def _direct(sizes: _Sizes, image: int, *, bordered: bool) -> Executed:
    """Sums over the taps and channels of each pixel."""
    height, width = sizes.size
    pointwise = sizes.taps == 1 and not bordered
    pitch = 1 if sizes.plain_input else LANES
    runs = ceil(sizes.input_blocks / max(1, min(sizes.input_blocks, PLAN.sum_run // (sizes.taps * pitch))))
    products = 2.0 * LANES * sizes.taps * sizes.input_blocks * pitch
    rows = sizes.batch * sizes.groups * height
    operations, tiles = 0.0, 0
    left = sizes.output_blocks
    while left:
        kind = ceil(left / ceil(left / PLAN.most_blocks))
        each, pixels = _tiles(width, kind)
        operations += rows * pixels * kind * products
        tiles += rows * each * runs
        left -= kind
    stored = rows * width * sizes.output_blocks * LANES
    chunks = max(1, ceil(height * width * sizes.output_blocks * LANES / PLAN.chunk_floats))
    weights = sizes.groups * sizes.output_blocks * LANES * sizes.input_blocks * pitch * sizes.taps
    copied = bordered and sizes.border * 16 >= width
    pages = sizes.input_blocks * min(1.0, 4 * image / PAGE) if sizes.plain_input else 0
    counts = {
        "": tiles,
        "pages": tiles * sizes.input_blocks / runs if pages > NEAR_PAGES else 0,
        "results": stored * runs,
        "weights": sizes.batch * chunks * weights,
        "copied": sizes.batch * sizes.groups * sizes.input_blocks * pitch * image if copied else 0,
    }
    row = pointwise and not sizes.plain and sizes.batch * prod(sizes.size) == 1
    return Executed("row" if row else "pointwise" if pointwise else "", operations, counts)


def _direct_work(sizes: _Sizes) -> float:
    """What kernels count of direct sums when they choose a schedule."""
    pairs = sizes.input_blocks * sizes.output_blocks * LANES
    direct = float(sizes.batch * prod(sizes.size) * sizes.taps * pairs)
    weights = sizes.taps * pairs * PLAN.weight_operations
    return max(direct, weights) + min(direct, weights) / 4


def _windows_by_unit(
    sizes: _Sizes, strides: tuple[int, int], dilations: tuple[int, int]
) -> tuple[float, Executed] | None:
    """Windows by the matrix unit, and what kernels count of that; see ``kernels/c/convolution_unit.h``."""
    if max(strides) > PLAN.most_unit_stride:
        return None
    reach = [(k - 1) * d // s for k, d, s in zip(sizes.kernel, dilations, strides, strict=True)]
    used = prod(
        len({tap * d % s for tap in range(k)}) for k, d, s in zip(sizes.kernel, dilations, strides, strict=True)
    )
    depth = ceil(sizes.input_blocks / 2)
    steps = sizes.taps * depth
    weights = sizes.output_blocks * steps * PARTS_BYTES
    far = weights > PLAN.far_weights
    rows, columns = sizes.size

    def plane(height: int, width: int) -> int:
        return (height + reach[0]) * (width + reach[1])

    def room(height: int, width: int) -> int:
        return (prod(strides) * depth * PLAN.parts * (plane(height, width) | 1) + UNIT_PIXELS + width + reach[1]) * 64

    while room(rows, columns) > (PLAN.far_parts_bytes if far else PLAN.near_parts_bytes):
        if rows > 1:
            rows -= 1
        elif columns > UNIT_PIXELS:
            columns = (columns - 1) // UNIT_PIXELS * UNIT_PIXELS
        else:
            return None
    down, across = ceil(sizes.size[0] / rows), ceil(sizes.size[1] / columns)
    rows = ceil(sizes.size[0] / down)
    if across > 1:
        columns = ceil(ceil(sizes.size[1] / across) / UNIT_PIXELS) * UNIT_PIXELS
    chunks = sizes.batch * sizes.groups * down * across
    parts = 2 if chunks < 2 and sizes.output_blocks >= 4 else 1
    pixels = (rows - 1) * (columns + reach[1]) + columns
    tiles = chunks * ceil(pixels / UNIT_PIXELS) * sizes.output_blocks
    split = chunks * parts * depth * used * plane(rows, columns)
    step = PLAN.odd_step_cycles if sizes.output_blocks % 2 else PLAN.even_step_cycles
    cycles = tiles * (steps * step + PLAN.window_tile_cycles) + PLAN.split_pixel_cycles * split
    cycles += PLAN.fetched_byte_cycles * weights * (chunks if far else sizes.groups)
    work = PLAN.cycle_operations * cycles + PLAN.unit_operations
    again = (float(weights * sizes.groups), chunks / sizes.groups - 1 if far else 0.0)
    counts: dict[str, float] = {"": tiles, "split": split, "odd": tiles * steps if sizes.output_blocks % 2 else 0}
    operations = 2.0 * tiles * steps * UNIT_PIXELS * LANES * PLAN.unit_depth
    return work, Executed("unit", operations, counts, PARTS_SHARE, again)


def _winograd(sizes: _Sizes) -> tuple[float, Executed] | None:
    """Fewer multiplications by transforms of tiles, and what kernels count of that; see ``kernels/c/winograd.h``."""
    pairs = sizes.input_blocks * sizes.output_blocks * LANES
    taps = sizes.taps
    least = PLAN.transform_share * _direct_work(sizes)
    best: tuple[float, float, float, int] | None = None
    for points in ((4, 4), (6, 6), (1, 6), (6, 1)):
        if any((own == 1) != (k == 1) or (own > 1 and k >= own) for own, k in zip(points, sizes.kernel, strict=True)):
            continue
        results = [own - k + 1 if own > 1 else 1 for own, k in zip(points, sizes.kernel, strict=True)]
        if any(r not in (1, 2, 4) for r in results) or (min(results) > 1 and results[0] != results[1]):
            continue
        tiles = sizes.batch * prod(ceil(size / r) for size, r in zip(sizes.size, results, strict=True))
        places = prod(points)
        products = places * tiles * pairs * (1 + 4 / min(tiles, PLAN.fewest_tiles))
        transforms = (PLAN.tile_operations + PLAN.place_operations * places) * tiles
        transforms *= sizes.input_blocks + sizes.output_blocks
        loaded = places * pairs * PLAN.weight_operations
        work = max(products, loaded) + min(products, loaded) / 4 + transforms
        if work < least:
            least, best = work, (products, transforms, float(tiles), places)
    if best is None:
        return None
    products, transforms, all_tiles, places = best
    blocks = sizes.input_blocks + min(sizes.output_blocks, PLAN.most_blocks)
    most = max(PLAN.fewest_tiles, PLAN.working_floats // (places * blocks * LANES))
    kept = 4.0 * sizes.groups * places * pairs * LANES
    again = (kept, ceil(all_tiles / most) - 1)
    operations = 2.0 * LANES * products * sizes.groups
    return least, Executed("winograd", operations, {"": transforms * sizes.groups}, places / taps, again, 1.0)


# --------------------------------------------------------------------------------------------------------------- pools


def _pool(node: Node, image: Shape, result: Shape) -> Executed | None:
    """Rows of a window are combined for all columns of the image, then its columns; see ``kernels/c/pooling.h``."""
    if not 3 <= len(image) == len(result) <= 4 or not prod((*image, *result)):
        return None
    blocked = node.domain == DOMAIN
    kernel, size, width = _numbers(node, "kernel_shape"), _plane(result), image[-1]
    rows = prod(image[:2]) * size[0]
    regime = "strided" if not blocked and _numbers(node, "strides")[1] > 1 else ""
    operations = float(rows * (width * kernel[0] + size[1] * kernel[1]))
    return Executed(regime, operations, {"": rows / LANES if blocked else rows})


# --------------------------------------------------------------------------------------------------- recurrent layers


def _recurrent(node: Node, source: Shape, weights: Shape) -> Executed:
    """The input's share of all steps is one product; each step multiplies the state and computes the gates."""
    gates = GATES[node.op_type]
    steps, batch, size = source
    directions, width = weights[0], weights[1]
    hidden = width // gates
    share = directions * padded_operations(steps * batch, width, size)
    state = directions * steps * padded_operations(batch, width, hidden)
    counts = {"": steps * directions, "input": share, "gates": directions * steps * batch * width}
    return Executed("", state, counts, 1.0, (4.0 * width * hidden, directions * (steps - 1)))


# ----------------------------------------------------------------------------------------------- products of integers


def _integers(node: Node, left: Shape, right: Shape, result: Shape, computed: bool) -> Executed | None:
    """Tiles of 16 rows, 16 columns and a depth of 64, of which constants lie prepared; see ``kernels/c/integers.h``."""
    if "Conv" in node.op_type:
        if len(left) != len(right) or len(right) < 3 or right[1] != left[1]:
            return None
        batches, rows, depth = result[0], right[0], prod(right[1:])
        columns, taps = prod(result[2:]), prod(right[2:])
        runs = batches * depth * prod(result[2:-1]) if taps > 1 or columns != prod(left[2:]) else 0
        prepared = {"left": rows * depth if computed else 0, "right": batches * depth * columns, "runs": runs}
    else:
        if len(right) < 2:
            return None
        rows, depth, columns = (left[-2] if len(left) > 1 else 1), left[-1], right[-1]
        batches = prod(result[:-2])
        if prod(right[:-2]) == 1 and prod(left) == batches * rows * depth:
            batches, rows = 1, batches * rows
        prepared = {"left": batches * rows * depth, "right": batches * depth * columns if computed else 0}
        prepared["quantized"] = prod(left) if node.op_type == "DynamicQuantizeMatMul" else 0
    tiles = batches * ceil(rows / PLAN.unit_rows) * ceil(columns / PLAN.unit_rows)
    pairs = batches * ceil(rows / (2 * PLAN.unit_rows)) * ceil(columns / (2 * PLAN.unit_rows))
    sums = 0 if node.op_type in ("MatMulInteger", "ConvInteger") else prod(result)
    deep = ceil(depth / (2 * PLAN.unit_depth)) * 2 * PLAN.unit_depth  # bytes in place of bfloat16
    operations = 2.0 * tiles * PLAN.unit_rows**2 * deep
    return Executed("", operations, {"": pairs, "results": prod(result), **prepared, "scaled": sums})
