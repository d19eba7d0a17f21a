"""The scalar functions of the kernels: their error over all float32 values, and their special values."""

import ctypes
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from scipy import special

from graphopt.kernels.compile import FLAGS, find_compiler
from graphopt.kernels.emit import SUPPORT

Array = np.ndarray
BOUND = re.compile(r"Error below (\d+(?:\.\d+)?) ULP[^/]*\*/\s*ALWAYS float (\w+)_f32")
STEP = 1009
"""Every so many bit patterns are tried: 4 million of them."""


def _softplus(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, e, 1) / (1 + e))


def _inverse_three_quarters(x: Array) -> Array:
    return np.asarray(np.where(x < 0, np.nan, np.abs(x) ** -0.75))


REFERENCES: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "log": np.log,
    "erf": special.erf,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "inverse_three_quarters": _inverse_three_quarters,
    "sin": np.sin,
    "cos": np.cos,
}

DRIVER = """
#define DEFINE_ALL(name, from, to, function) \\
    void all_##name(int64_t n, const from *x, to *y) { for (int64_t i = 0; i < n; i++) y[i] = function(x[i]); }
DEFINE_ALL(exp, float, float, exp_f32)
DEFINE_ALL(exp_scaled, float, float, exp_scaled_f32)
DEFINE_ALL(log, float, float, log_f32)
DEFINE_ALL(erf, float, float, erf_f32)
DEFINE_ALL(tanh, float, float, tanh_f32)
DEFINE_ALL(sigmoid, float, float, sigmoid_f32)
DEFINE_ALL(softplus, float, float, softplus_f32)
DEFINE_ALL(inverse_three_quarters, float, float, inverse_three_quarters_f32)
DEFINE_ALL(sin, float, float, sin_f32)
DEFINE_ALL(cos, float, float, cos_f32)
DEFINE_ALL(from_half, uint16_t, float, half_to_float)
DEFINE_ALL(to_half, float, uint16_t, float_to_half)
DEFINE_ALL(from_bfloat, uint16_t, float, bfloat_to_float)
DEFINE_ALL(to_bfloat, float, uint16_t, float_to_bfloat)
"""


@pytest.fixture(scope="module", params=["native", "portable"])
def functions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The functions as this machine runs them, and without a fused multiply-add."""
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("scalar")
    (folder / "scalar.c").write_text((SUPPORT / "scalar.h").read_text() + DRIVER)
    flags = ["-shared", *(flag for flag in FLAGS if flag != "-fvisibility=hidden")]
    if request.param == "native":
        flags.append("-march=native")
    command = [*compiler, *flags, "scalar.c", "-o", "scalar.so", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0 and request.param == "native":
        pytest.skip("no -march=native")
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "scalar.so"))


def _apply(functions: ctypes.CDLL, name: str, x: Array, dtype: type) -> Array:
    x = np.ascontiguousarray(x)
    y: Array = np.empty(x.shape, dtype)
    function = functions[f"all_{name}"]
    function(ctypes.c_int64(x.size), ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data))
    return y


def _ulps(found: Array, exact: Array) -> Array:
    """Distance to the exact value in units in the last place of the float32 next to it."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        unit = np.spacing(np.minimum(np.abs(rounded), np.finfo(np.float32).max)).astype(np.float64)
        error = np.abs(found.astype(np.float64) - exact) / unit
    same = (found == rounded) | (np.isnan(found) & np.isnan(exact))
    return np.where(same, 0.0, error)


def _stated() -> dict[str, float]:
    text = (SUPPORT / "scalar.h").read_text()
    return {name: float(bound) for bound, name in BOUND.findall(text)}


def test_every_function_states_its_error() -> None:
    stated = _stated()
    assert set(REFERENCES) <= set(stated)
    assert all(bound <= 4 for bound in stated.values())


@pytest.mark.parametrize("name", REFERENCES)
def test_error_over_all_of_float32(functions: ctypes.CDLL, name: str) -> None:
    bits = np.arange(0, 2**32, STEP, dtype=np.uint64).astype(np.uint32)
    near = np.random.default_rng(0).uniform(-20, 20, 500_000).astype(np.float32)
    x = np.concatenate([bits.view(np.float32), near])
    with np.errstate(all="ignore"):
        exact = REFERENCES[name](x.astype(np.float64))
    found = _apply(functions, name, x, np.float32)
    error = _ulps(found, exact)
    worst = int(np.nanargmax(np.where(np.isnan(error), np.inf, error)))
    assert error[worst] <= _stated()[name], f"{name}({x[worst]!r}) = {found[worst]!r}, exactly {exact[worst]!r}"


def test_error_of_the_scaled_exponential(functions: ctypes.CDLL) -> None:
    x = -np.concatenate([np.geomspace(1e-45, 131, 500_000), np.linspace(0, 131, 500_000), [0.0]]).astype(np.float32)
    error = _ulps(_apply(functions, "exp_scaled", x, np.float32), np.exp(x.astype(np.float64)) * 2.0**64)
    assert error.max() <= _stated()["exp_scaled"]
    beyond = _apply(functions, "exp_scaled", np.array([-132, -1e30, -np.inf, np.nan], np.float32), np.float32)
    assert (beyond[:3] <= 2.0**-124).all() and np.isnan(beyond[3])


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("exp", [(0.0, 1), (-0.0, 1), (np.inf, np.inf), (-np.inf, 0), (89.0, np.inf), (-104.0, 0)]),
        ("log", [(1.0, 0), (0.0, -np.inf), (-0.0, -np.inf), (np.inf, np.inf), (-1.0, np.nan), (-np.inf, np.nan)]),
        ("erf", [(0.0, 0), (-0.0, -0.0), (np.inf, 1), (-np.inf, -1)]),
        ("tanh", [(0.0, 0), (-0.0, -0.0), (np.inf, 1), (-np.inf, -1)]),
        ("sigmoid", [(0.0, 0.5), (np.inf, 1), (-np.inf, 0)]),
        ("softplus", [(np.inf, np.inf), (-np.inf, 0)]),
        ("inverse_three_quarters", [(0.0, np.inf), (-0.0, np.inf), (1.0, 1), (np.inf, 0), (-1e-45, np.nan)]),
        ("sin", [(0.0, 0), (-0.0, -0.0), (1e-45, 1e-45), (np.inf, np.nan), (-np.inf, np.nan)]),
        ("cos", [(0.0, 1), (-0.0, 1), (1e-45, 1), (np.inf, np.nan), (-np.inf, np.nan)]),
    ],
)
def test_special_values(functions: ctypes.CDLL, name: str, pairs: list[tuple[float, float]]) -> None:
    x, expected = np.array([*pairs, (np.nan, np.nan)], np.float32).T
    found = _apply(functions, name, x, np.float32)
    np.testing.assert_array_equal(found, expected)
    zero = expected == 0
    np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(expected[zero]))


def test_every_half_and_bfloat(functions: ctypes.CDLL) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    for name, dtype in (("half", np.float16), ("bfloat", ml_dtypes.bfloat16)):
        wide = _apply(functions, f"from_{name}", bits, np.float32)
        expected = bits.view(dtype).astype(np.float32)
        np.testing.assert_array_equal(wide, expected)
        np.testing.assert_array_equal(np.signbit(wide), np.signbit(expected))
        number = ~np.isnan(wide)
        back = _apply(functions, f"to_{name}", wide, np.uint16)
        np.testing.assert_array_equal(back[number], bits[number])
        assert np.isnan(back.view(dtype)[~number].astype(np.float32)).all()


def test_rounding_to_half_and_bfloat(functions: ctypes.CDLL) -> None:
    bits = np.arange(0, 2**32, STEP, dtype=np.uint64).astype(np.uint32)
    near = np.arange(0x33000000, 0x47900000, 61, dtype=np.uint32)  # about the range of float16
    x = np.concatenate([bits, near, near | 0x80000000, np.arange(0x38800FFF - 9, 0x38801001 + 9, dtype=np.uint32)])
    x = x.view(np.float32)
    number = ~np.isnan(x)
    for name, dtype in (("half", np.float16), ("bfloat", ml_dtypes.bfloat16)):
        found = _apply(functions, f"to_{name}", x, np.uint16)
        with np.errstate(all="ignore"):
            expected = x.astype(dtype).view(np.uint16)
        np.testing.assert_array_equal(found[number], expected[number])
        assert np.isnan(found.view(dtype)[~number].astype(np.float32)).all()


def test_support_files_are_where_the_package_says() -> None:
    assert (Path(SUPPORT) / "scalar.h").is_file()
