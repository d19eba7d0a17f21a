"""What kernels execute: padded products, the matrix unit, transformed convolutions, steps of recurrent layers."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.graph import Node, Shape
from graphopt.operators.executed import Executed, executed, padded_operations, unit_pays

SIZES = st.integers(1, 300)
BLOCKED = "com.microsoft.nchwc"
AS_IT_IS = {"computed": False, "unit": False}


def product(rows: int, depth: int, columns: int, *, unit: bool = False, computed: bool = False) -> Executed:
    node = Node("n", "", "MatMul", 21, ("x", "w"), ("y",), {})
    found = executed(node, [(rows, depth), (depth, columns)], (rows, columns), computed=computed, unit=unit)
    assert found is not None
    return found


def convolution(image: tuple[int, ...], weights: tuple[int, ...], **attributes: object) -> Executed:
    node = Node("n", BLOCKED, "Conv", 1, ("x", "w"), ("y",), attributes)  # type: ignore[arg-type]
    result = (image[0], weights[0], *image[2:])
    found = executed(node, [image, weights], result, computed=False, unit=False)
    assert found is not None
    return found


@given(SIZES, SIZES, SIZES, st.booleans(), st.booleans())
def test_lanes_that_are_filled_up_are_worked_too(
    rows: int, depth: int, columns: int, unit: bool, computed: bool
) -> None:
    found = product(rows, depth, columns, unit=unit, computed=computed)
    assert found.operations >= 2 * rows * depth * columns
    assert (found.regime == "unit") == (unit and not computed and unit_pays(rows, columns, depth))


@pytest.mark.parametrize("operator", ["MatMul", "MatMulNBits", "QGemm", "Conv", "NhwcFusedConv", "GRU", "MaxPool"])
@given(st.lists(st.integers(0, 9), max_size=5), st.lists(st.integers(0, 9), max_size=5), st.lists(SIZES, max_size=5))
def test_shapes_that_no_kernel_has_are_no_error(
    operator: str, left: list[int], right: list[int], result: list[int]
) -> None:
    node = Node("n", "", operator, 21, ("x", "w"), ("y",), {})
    found = executed(node, [tuple(left), tuple(right)], tuple(result), computed=False, unit=True)
    assert found is None or found.operations >= 0


def test_few_rows_keep_the_multipliers_waiting() -> None:
    assert padded_operations(4, 64, 100) == padded_operations(1, 64, 100) == 2 * 4 * 64 * 100  # eight sums in flight
    assert padded_operations(28, 32, 10) == 2 * 28 * 32 * 10  # two blocks of 14 rows, nothing idle
    assert padded_operations(28, 33, 10) == 2 * 28 * 48 * 10  # a third vector of columns


def test_the_matrix_unit_computes_whole_tiles() -> None:
    found = product(120, 300, 190, unit=True)
    assert found.regime == "unit"
    assert found.operations == 2 * 8 * 12 * 10 * 16 * 16 * 32  # 8 x 12 tiles of sums, 10 of the depth
    assert found.counts == {"": 4 * 6, "split": 36000}
    assert product(1, 4096, 4096, unit=True).regime == "row"


def test_a_window_of_three_by_three_is_transformed() -> None:
    found = convolution((1, 64, 28, 28), (64, 64, 3, 3))
    tiles, places, pairs = 7 * 7, 36, 4 * 4 * 16  # 4 x 4 results of a tile of 6 x 6
    assert found.regime == "winograd"
    assert found.operations == pytest.approx(2 * 16 * places * tiles * pairs * (1 + 4 / 24))
    assert found.parameter_share == 4


@pytest.mark.parametrize("attributes", [{"strides": (2, 2)}, {"dilations": (2, 2)}])
def test_a_window_that_leaves_out_positions_is_summed_directly(attributes: dict[str, object]) -> None:
    assert convolution((1, 64, 28, 28), (64, 64, 3, 3), **attributes).regime == ""


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 5, 7]))
def test_direct_sums_are_never_fewer_than_defined(blocks: int, out: int, height: int, width: int, window: int) -> None:
    image, weights = (1, 16 * blocks, height, width), (16 * out, 16 * blocks, window, window)
    found = convolution(image, weights, pads=(window // 2,) * 4, dilations=(2, 2))
    assert found.operations >= (1 - 1e-12) * 2 * prod(weights) * height * width  # a quotient may round down


def test_pools_combine_rows_of_their_windows_first() -> None:
    window = {"kernel_shape": (3, 2), "strides": (1, 2)}
    sizes: list[Shape] = [(2, 32, 9, 8), (2, 32, 7, 4)]
    for domain, regime, rows in (("", "strided", 2 * 32 * 7), (BLOCKED, "", 2 * 2 * 7)):
        found = executed(Node("n", domain, "MaxPool", 12, ("x",), ("y",), window), sizes[:1], sizes[1], **AS_IT_IS)
        assert found == Executed(regime, 2 * 32 * 7 * (3 * 8 + 2 * 4), {"": rows})


def test_a_recurrent_layer_reads_its_weights_in_each_step() -> None:
    node = Node("n", "", "LSTM", 21, ("x", "w", "r"), ("y",), {"hidden_size": 32})
    found = executed(node, [(10, 4, 16), (2, 128, 16), (2, 128, 32)], (10, 2, 4, 32), computed=False, unit=False)
    assert found is not None
    assert found.counts[""] == 20
    assert found.again == (4 * 128 * 32, 2 * 9)
    assert found.operations == 20 * padded_operations(4, 128, 32)


@given(st.integers(1, 3), st.integers(1, 80), st.integers(1, 200), st.integers(1, 80), st.booleans())
def test_products_of_integers_work_through_whole_tiles(
    number: int, rows: int, depth: int, columns: int, computed: bool
) -> None:
    right = (number, depth, columns) if computed else (depth, columns)
    node = Node("n", "", "MatMulInteger", 21, ("x", "w"), ("y",), {})
    found = executed(node, [(number, rows, depth), right], (number, rows, columns), computed=computed, unit=True)
    assert found is not None
    matrices = number if computed and number > 1 else 1  # rows by one matrix are rows of one product
    height = number * rows // matrices
    tiles = [(r, c) for r in range(0, height, 16) for c in range(0, columns, 16)] * matrices
    deep = len(range(0, depth, 64)) * 64
    assert found.operations == 2 * len(tiles) * 16 * 16 * deep
    assert found.counts[""] == sum(r % 32 == c % 32 == 0 for r, c in tiles)
    assert found.counts["left"] == number * rows * depth
    assert found.counts["right"] == (number * depth * columns if computed else 0)


def test_a_convolution_of_integers_copies_what_lies_under_its_window() -> None:
    node = Node("n", "", "QLinearConv", 21, ("x", "s", "z", "w", "s", "z", "s", "z"), ("y",), {})
    image, weights, result = (2, 5, 12, 10), (20, 5, 3, 3), (2, 20, 12, 10)
    found = executed(node, [image, (), (), weights, (), (), (), ()], result, computed=False, unit=True)
    assert found is not None
    assert found.counts == {
        "": 2 * 1 * 4,
        "results": 2 * 20 * 120,
        "left": 0,
        "right": 2 * 45 * 120,
        "runs": 2 * 45 * 12,
        "scaled": 2 * 20 * 120,
    }


@pytest.mark.parametrize(("channels", "length", "far"), [(100, 2000, True), (60, 2000, False), (100, 300, False)])
def test_channels_on_many_pages_are_read_from_far(channels: int, length: int, far: bool) -> None:
    """A tile of pixels reads a line of each channel: more than 64 pages are too many at a time."""
    node = Node("n", "", "Conv", 21, ("x", "w"), ("y",), {})
    shapes = [(1, channels, length), (16, channels, 1)]
    found = executed(node, shapes, (1, 16, length), computed=False, unit=False)
    assert found is not None
    assert found.counts["pages"] == (-(-length // 16) * channels if far else 0)
