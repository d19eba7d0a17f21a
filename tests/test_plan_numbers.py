"""What predictions say that a kernel executes is what the kernels' own C plans, for random sizes."""

import ctypes
import platform
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import kernels
from graphopt.graph import Node
from graphopt.kernels.compile import FLAGS, find_compiler
from graphopt.kernels.emit import INCLUDES, PRAGMAS, kernel_support, support
from graphopt.operators.blocked import DOMAIN, block_size
from graphopt.operators.executed import Executed, executed

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or block_size() != 16, reason="predictions count the plans of AVX-512"
)

HARNESS = """
#define EXPORTED __attribute__((visibility("default")))
const tile_family *const TILE_FAMILIES[] = {NULL};

EXPORTED int product_by_unit(int64_t rows, int64_t columns, int64_t depth)
{
    return matrix_unit_pays(rows, columns, depth);
}

static int planned(int64_t batch, int64_t channels, int64_t out, int64_t size, int64_t taps, int64_t groups,
                   int64_t stride, convolution_plan *plan)
{
    convolution c;
    memset(&c, 0, sizeof c);
    c.dimensions = 2;
    c.blocked = 1;
    c.groups = groups;
    c.stride[0] = c.stride[1] = stride;
    c.dilation[0] = c.dilation[1] = 1;
    c.before[0] = c.before[1] = c.after[0] = c.after[1] = taps / 2;
    shape x = {4, {batch, channels, size, size}}, w = {4, {out, channels / groups, taps, taps}}, y;
    return !plan_convolution(&c, &x, &w, NULL, NULL, plan, &y);
}

/* 0: direct sums, 1: transforms, 2: matrix unit, 4: from copies; -1: no plan. */
EXPORTED int convolution_plan_of(int64_t batch, int64_t channels, int64_t out, int64_t size, int64_t taps,
                                 int64_t groups, int64_t stride)
{
    convolution_plan plan;
    if (!planned(batch, channels, out, size, taps, groups, stride, &plan))
        return -1;
    if (plan.depthwise)
        return plan.copies ? 4 : 0;
    winograd_plan winograd;
    plan_winograd(&plan, &winograd);
    int found = winograd.x.points ? 1 : 0;
#if defined(CONVOLUTION_UNIT)
    unit_plan unit;
    if (plan_unit(&plan, &unit) && unit.work < winograd.work)
        found = 2;
#endif
    return found;
}

/* Tiles of results and pixels that are split, by the matrix unit; 0 where it cannot take a convolution. */
EXPORTED int unit_chunks_of(int64_t batch, int64_t channels, int64_t out, int64_t size, int64_t taps, int64_t stride,
                            int64_t *tiles, int64_t *split)
{
#if defined(CONVOLUTION_UNIT)
    convolution_plan plan;
    unit_plan unit;
    if (!planned(batch, channels, out, size, taps, 1, stride, &plan) || !plan_unit(&plan, &unit))
        return 0;
    int64_t chunks = batch * unit.row_chunks * unit.column_chunks;
    *tiles = chunks * quotient_up(unit_pixels(&unit, unit.rows, unit.columns), UNIT_PIXELS) * plan.output_blocks;
    *split = chunks * unit.parts * unit.depth_tiles * used_planes(&plan) * unit.plane_rows * unit.plane_columns;
    return 1;
#else
    return 0;
#endif
}
"""


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The C plans of all kernels as functions."""
    folder: Path = tmp_path_factory.mktemp("plans")
    text = "\n".join([PRAGMAS, INCLUDES, support("onnxruntime_abi.h"), kernel_support(), HARNESS])
    (folder / "plans.c").write_text(text)
    compiler = find_compiler()
    assert compiler is not None
    command = [*compiler, *FLAGS, "-march=native", "-O0", "-w", "-shared", "plans.c", "-o", "plans.so", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "plans.so"))
    library.product_by_unit.argtypes = [ctypes.c_int64] * 3
    library.convolution_plan_of.argtypes = [ctypes.c_int64] * 7
    library.unit_chunks_of.argtypes = [ctypes.c_int64] * 6 + [ctypes.POINTER(ctypes.c_int64)] * 2
    return library


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 1200), st.integers(5, 2000), st.integers(1, 2000))
def test_products_go_where_predictions_expect_them(plans: ctypes.CDLL, rows: int, columns: int, depth: int) -> None:
    node = Node("n", "", "MatMul", 21, ("x", "w"), ("y",), {})
    shapes = [(rows, depth), (depth, columns)]
    unit = kernels.uses_matrix_unit()
    found = executed(node, shapes, (rows, columns), computed=False, unit=unit)
    assert found is not None
    assert (found.regime == "unit") == bool(plans.product_by_unit(rows, columns, depth))


@settings(max_examples=500, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 24),
    st.integers(1, 24),
    st.integers(1, 80),
    st.sampled_from([1, 2, 3, 5, 7]),
    st.sampled_from([1, 2, 3]),
)
def test_convolutions_are_planned_as_predictions_expect(
    plans: ctypes.CDLL, batch: int, blocks: int, out: int, size: int, taps: int, stride: int
) -> None:
    found = _executed((batch, 16 * blocks, size, size), (16 * out, 16 * blocks, taps, taps), 1, stride)
    planned = plans.convolution_plan_of(batch, 16 * blocks, 16 * out, size, taps, 1, stride)
    assert {"winograd": 1, "unit": 2}.get(found.regime, 0) == planned
    if found.regime == "unit":  # in the same chunks
        tiles, split = ctypes.c_int64(), ctypes.c_int64()
        assert plans.unit_chunks_of(
            batch, 16 * blocks, 16 * out, size, taps, stride, ctypes.byref(tiles), ctypes.byref(split)
        )
        assert (found.counts[""], found.counts["split"]) == (tiles.value, split.value)


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 24), st.integers(1, 80), st.sampled_from([1, 2, 3, 5, 7]), st.sampled_from([1, 2, 3]))
def test_narrow_images_are_copied_as_predictions_expect(
    plans: ctypes.CDLL, blocks: int, size: int, taps: int, stride: int
) -> None:
    channels = 16 * blocks
    found = _executed((1, channels, size, size), (channels, 1, taps, taps), channels, stride)
    assert bool(found.counts.get("copied")) == (
        plans.convolution_plan_of(1, channels, channels, size, taps, channels, stride) == 4
    )


def _executed(image: tuple[int, ...], weights: tuple[int, ...], groups: int, stride: int) -> Executed:
    """What predictions count with."""
    taps = weights[-1]
    attributes = {"strides": (stride, stride), "group": groups, "pads": (taps // 2,) * 4}
    node = Node("n", DOMAIN, "Conv", 1, ("x", "w"), ("y",), attributes)
    left = (image[2] + 2 * (taps // 2) - taps) // stride + 1
    result = (image[0], weights[0], left, left)
    found = executed(node, [image, weights], result, computed=False, unit=kernels.uses_matrix_unit())
    assert found is not None
    return found
