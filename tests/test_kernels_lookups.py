"""Kernels that only look up: slices of any size, many and few indices, along either axis."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.kernel_checks import Array, Case, KernelLibrary

DTYPES = {"float32": np.float32, "uint8": np.uint8, "int64": np.int64}
INDEX_DTYPES = {"int32": np.int32, "int64": np.int64}
NAMES = [f"{dtype}_{index}_{axis}" for dtype in DTYPES for index in INDEX_DTYPES for axis in (0, 1)]


def feeds(name: str, rows: int, width: int, count: int, seed: int) -> dict[str, Array]:
    """A table and indices into it, from its end too."""
    dtype, index, axis = name.split("_")
    random = np.random.default_rng(seed)
    size = (rows, width)[int(axis)]
    return {
        "t": random.integers(0, 256, (rows, width)).astype(DTYPES[dtype]),
        "i": random.integers(-size, size, count).astype(INDEX_DTYPES[index]),
    }


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    cases = [
        Case(
            name, (helper.make_node("Gather", ["t", "i"], ["y"], axis=int(name[-1])),), feeds(name, 9, 5, 3, 0), ("y",)
        )
        for name in NAMES
    ]
    return KernelLibrary(cases, tmp_path_factory.mktemp("lookups"))


@given(
    st.sampled_from(NAMES),
    st.integers(1, 90),
    st.sampled_from([1, 2, 3, 10, 16, 17, 64, 100]),
    st.integers(1, 200),
    st.integers(0, 1 << 30),
)
@settings(max_examples=80, deadline=None)
def test_slices(library: KernelLibrary, name: str, rows: int, width: int, count: int, seed: int) -> None:
    given_ = feeds(name, rows, width, count, seed)
    expected = np.take(given_["t"], given_["i"], axis=int(name[-1]))
    np.testing.assert_array_equal(library.run(name, given_)[0], expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [0, 70, 149])
def test_an_index_out_of_range_is_an_error(library: KernelLibrary, name: str, at: int) -> None:
    wrong = feeds(name, 30, 16, 150, 1)
    wrong["i"][at] = wrong["t"].shape[int(name[-1])]
    with pytest.raises(Exception, match="outside of its tensor"):
        library.run(name, wrong)
