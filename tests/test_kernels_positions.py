"""Kernels of ArgMax and ArgMin against numpy: ties, NaN, rows of any length, any axis, work before and after."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.kernel_checks import Array, Case, KernelLibrary

SIZES = [1, 2, 15, 16, 17, 31, 33, 64, 100, 1023, 1024, 1025, 1040, 2100]
DTYPES = ["float32", "float64", "float16", "int8", "uint8", "int32", "int64"]


def _case(name: str, op_type: str, dtype: str, **attributes: Any) -> Case:
    node = helper.make_node(op_type, ["x"], ["y"], **attributes)
    return Case(name, (node,), {"x": np.zeros((2, 3, 4), dtype)}, ("y",), opset=13)


def _between(name: str, op_type: str) -> Case:
    """What the positions are of is computed, and what becomes of them too: both in the same step."""
    nodes = (
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node(op_type, ["a"], ["p"], axis=-1, keepdims=1),
        helper.make_node("ReduceMax", ["a"], ["m"], axes=[-1], keepdims=1),
        helper.make_node("Cast", ["p"], ["q"], to=1),
        helper.make_node("Sub", ["q", "m"], ["y"]),
    )
    return Case(name, nodes, {"x": np.zeros((2, 3, 4), np.float32)}, ("y", "p"), opset=13)


PLAIN = {
    (op_type, dtype, last): _case(f"{op_type}_{dtype}_{last}", op_type, dtype, axis=-1, select_last_index=last)
    for number, dtype in enumerate(DTYPES)
    for op_type in ("ArgMax", "ArgMin")
    for last in (0, 1)
    if dtype == "float32" or (number + last) % 2 == (op_type == "ArgMin")
}
AXES = {
    (op_type, axis, keep): _case(f"{op_type}_at{axis}_{keep}", op_type, "float32", axis=axis, keepdims=keep)
    for op_type, axis, keep in (("ArgMax", 0, 1), ("ArgMax", 1, 0), ("ArgMin", 1, 1), ("ArgMin", 2, 0))
}
BETWEEN = {op_type: _between(f"{op_type}_between", op_type) for op_type in ("ArgMax", "ArgMin")}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary([*PLAIN.values(), *AXES.values(), *BETWEEN.values()], tmp_path_factory.mktemp("positions"))


def _values(shape: tuple[int, ...], dtype: str, seed: int, kinds: int) -> Array:
    """Few different numbers, so that there are ties; some of them undefined or infinite where the dtype has such."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, kinds, shape).astype(dtype)
    if values.dtype.kind == "f":
        for special in (np.nan, np.inf, -np.inf):
            values[rng.random(shape) < 0.3 / shape[-1]] = special
    return values


def _expected(op_type: str, x: Array, axis: int, last: int) -> Array:
    """Numpy's answer: the first, or the first from the end; NaN wins."""
    find = np.argmax if op_type == "ArgMax" else np.argmin
    found = find(np.flip(x, axis) if last else x, axis=axis)
    return np.expand_dims(x.shape[axis] - 1 - found if last else found, axis).astype(np.int64)


@given(
    which=st.sampled_from(sorted(PLAIN)),
    rows=st.integers(1, 30),
    columns=st.sampled_from(SIZES),
    kinds=st.sampled_from([1, 3, 100]),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_positions_in_rows(
    library: KernelLibrary, which: tuple[str, str, int], rows: int, columns: int, kinds: int, seed: int
) -> None:
    op_type, dtype, last = which
    x = _values((rows, 2, columns), dtype, seed, kinds)
    (found,) = library.run(PLAIN[which].name, {"x": x})
    np.testing.assert_array_equal(found, _expected(op_type, x, -1, last))


@given(
    which=st.sampled_from(sorted(AXES)),
    shape=st.tuples(*[st.sampled_from([1, 2, 17, 33, 70])] * 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_positions_along_any_axis(
    library: KernelLibrary, which: tuple[str, int, int], shape: tuple[int, int, int], seed: int
) -> None:
    op_type, axis, keep = which
    x = _values(shape, "float32", seed, 40)
    (found,) = library.run(AXES[which].name, {"x": x})
    expected = _expected(op_type, x, axis, 0)
    np.testing.assert_array_equal(found, expected if keep else expected.squeeze(axis))


@given(op_type=st.sampled_from(sorted(BETWEEN)), columns=st.sampled_from(SIZES), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_positions_among_other_work(library: KernelLibrary, op_type: str, columns: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(5, 3, columns)).astype(np.float32)
    found, positions = library.run(BETWEEN[op_type].name, {"x": x})
    above = np.maximum(x, 0)
    np.testing.assert_array_equal(positions, _expected(op_type, above, -1, 0))
    np.testing.assert_array_equal(found, positions.astype(np.float32) - above.max(-1, keepdims=True))
