"""What kernels execute: padded products, the matrix unit, transformed convolutions, steps of recurrent layers."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.graph import Node
from graphopt.operators.executed import Executed, executed, padded_operations, unit_pays

SIZES = st.integers(1, 300)
BLOCKED = "com.microsoft.nchwc"


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


@pytest.mark.parametrize("operator", ["MatMul", "MatMulNBits", "QGemm", "Conv", "NhwcFusedConv", "GRU"])
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


def test_a_recurrent_layer_reads_its_weights_in_each_step() -> None:
    node = Node("n", "", "LSTM", 21, ("x", "w", "r"), ("y",), {"hidden_size": 32})
    found = executed(node, [(10, 4, 16), (2, 128, 16), (2, 128, 32)], (10, 2, 4, 32), computed=False, unit=False)
    assert found is not None
    assert found.counts[""] == 20
    assert found.again == (4 * 128 * 32, 2 * 9)
    assert found.operations == 20 * padded_operations(4, 128, 32)
