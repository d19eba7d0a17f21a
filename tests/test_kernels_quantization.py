"""Quantizing and dequantizing in kernels, against onnxruntime bit by bit: special values, scales along any axis."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from graphopt.kernels import lowerable
from tests.kernel_checks import Array, Case, KernelLibrary, in_onnxruntime, random_values, special_values

QUANTIZED = ("uint8", "int8", "uint16", "int16")
MICROSOFT = "com.microsoft"
# scales to their shape; the axis that they lie along
SCALES: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
    "one": ((), {}),
    "list": ((1,), {}),
    "rows": ((3,), {"axis": 0}),
    "columns": ((7,), {"axis": -1}),
    "middle": ((5,), {}),
}


def _case(name: str, x: Array, scale: Array, zero: Array | None, domain: str = "", **attributes: Any) -> Case:
    operands = {"x": x, "scale": scale, **({} if zero is None else {"zero": zero})}
    op_type = "QuantizeLinear" if x.dtype.kind == "f" else "DequantizeLinear"
    node = helper.make_node(op_type, list(operands), ["y"], domain=domain, **attributes)
    return Case(name, (node,), operands, ("y",), constant_inputs=frozenset({"scale", "zero"} & set(operands)))


def _reals(shape: tuple[int, ...], seed: int) -> Array:
    """Numbers of every size, among them halves of the scale and those that no integer holds."""
    values = random_values(shape, "float32", seed) * np.float32(20)
    special = special_values("float32")
    values.flat[: special.size] = special
    values.flat[special.size : special.size + 8] = np.arange(-4, 4, dtype=np.float32) / 4
    return values


def _cases() -> list[Case]:
    random, found = np.random.default_rng(1), []
    for name, (shape, along) in SCALES.items():
        scale = random.choice([0.5, 0.25, 0.1, 3.0], shape).astype(np.float32)
        for number, dtype in enumerate(QUANTIZED):
            zero = random_values(shape, dtype, number)
            key, domain = f"{name}_{dtype}", MICROSOFT if number < 2 and name == "middle" else ""
            found.append(_case(f"to_{key}", _reals((3, 5, 7), number), scale, zero, domain, **along))
            found.append(_case(f"from_{key}", random_values((3, 5, 7), dtype, 9), scale, zero, domain, **along))
        found.append(_case(f"from_{name}_int32", random_values((3, 5, 7), "int32", 8), scale, None, **along))
    found.append(_case("without_zero", _reals((9, 9), 5), np.array(0.5, np.float32), None))
    # beyond what float16 holds, and for its NaN, onnxruntime gives what the processor happens to
    half = np.nan_to_num(np.clip(_reals((9, 9), 6), -999, 999)).astype(np.float16)
    found.append(_case("to_half", half, np.array(0.25, np.float16), np.array(3, np.uint8)))
    found.append(_case("from_half", random_values((9,), "int8", 7), np.array(0.3, np.float16), np.array(3, np.int8)))
    found.append(_case("scalar", np.array(2.5, np.float32), np.array(1, np.float32), np.array(0, np.int8)))
    return found


CASES = _cases()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary(CASES, tmp_path_factory.mktemp("quantization"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kernels_give_what_onnxruntime_gives(case: Case, library: KernelLibrary) -> None:
    with np.errstate(all="ignore"):
        (found,) = library.run(case.name, case.feeds)
        (held,) = library.run_with_constants(case.name, case.feeds)
    (expected,) = in_onnxruntime(case)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(held, expected)
    assert found.dtype == expected.dtype


def test_blocks_of_scales_have_no_kernel() -> None:
    x, scale = np.zeros((4, 8), np.int8), np.ones((4, 2), np.float32)
    case = _case("blocks", x, scale, np.zeros((4, 2), np.int8), axis=1, block_size=4)
    assert "in blocks" in str(lowerable(case.body()))


def test_a_chain_between_integers_is_one_pass(tmp_path: Path) -> None:
    """Dequantize, add, quantize: as onnxruntime computes it, for any scales."""
    nodes = (
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "t", "z"], ["y"]),
    )
    feeds = {
        "x": random_values((5, 33), "uint8", 1),
        "s": np.array(0.125, np.float32),
        "z": np.array(128, np.uint8),
        "b": random_values((33,), "float32", 2),
        "t": np.array(0.25, np.float32),
    }
    case = Case("chain", nodes, feeds, ("y",), constant_inputs=frozenset("szt"))
    KernelLibrary([case], tmp_path).check("chain")


def _ranges() -> list[Array]:
    """Numbers on both sides of zero, on one, only zeros, of one element, and long rows."""
    values = random_values((3, 5, 7), "float32", 1)
    half = np.arange(-64, 192, dtype=np.float32) / 2  # every other one is a tie
    return [values, abs(values) + 2, -abs(values), np.zeros((4, 3), np.float32), np.array(2.5, np.float32), half] + [
        random_values((1, n), "float32", n) for n in (1, 1023, 5000)
    ]


DYNAMIC = [
    Case(f"dynamic{n}", (helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"]),), {"x": x}, ("y", "s", "z"))
    for n, x in enumerate(_ranges())
]


def _softmaxes() -> list[Case]:
    found = []
    for number, (shape, axis, opset) in enumerate(
        [
            ((4, 33), -1, 13),
            ((2, 3, 400), 2, 13),
            ((2, 5, 7), 1, 13),
            ((2, 5, 7), 1, 12),
            ((3, 2), -1, 13),
            ((70,), 0, 13),
        ]
    ):
        for dtype in ("uint8", "int8"):
            signed = dtype == "int8"
            operands = {
                "x": random_values(shape, dtype, number) if number % 2 else np.full(shape, 3, dtype),
                "xs": np.array([0.2, 0.011, 0.9][number % 3], np.float32),
                "xz": np.array(7, dtype),
                "ys": np.array(1 / 255, np.float32),
                "yz": np.array(-128 if signed else 0, dtype),
            }
            operands["x"].flat[: operands["x"].size // 2] = random_values(
                (operands["x"].size // 2,), dtype, number + 50
            )
            node = helper.make_node("QLinearSoftmax", list(operands), ["y"], domain=MICROSOFT, axis=axis, opset=opset)
            constants = frozenset(operands) - {"x"}
            found.append(Case(f"softmax{number}_{dtype}", (node,), operands, ("y",), constant_inputs=constants))
    return found


SOFTMAXES = _softmaxes()


@pytest.fixture(scope="module")
def reducing(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary([*DYNAMIC, *SOFTMAXES], tmp_path_factory.mktemp("reducing"))


@pytest.mark.parametrize("case", DYNAMIC, ids=lambda case: case.name)
def test_quantizing_by_the_range_of_a_tensor(case: Case, reducing: KernelLibrary) -> None:
    found = reducing.run(case.name, case.feeds)
    for mine, theirs in zip(found, in_onnxruntime(case), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
    if not case.feeds["x"].any():
        return  # of zeros alone, the reference evaluator's scale is 1 / 255
    reference = [case.expected(case.feeds)[name] for name in case.outputs]
    np.testing.assert_allclose(found[1], reference[1], rtol=1e-6)
    assert np.abs(found[0].astype(int) - reference[0].astype(int)).max() <= 1


@pytest.mark.parametrize("case", SOFTMAXES, ids=lambda case: case.name)
def test_softmax_of_quantized_rows(case: Case, reducing: KernelLibrary) -> None:
    """As onnxruntime, but for sums that decide how to round: and then one step apart."""
    (expected,) = in_onnxruntime(case)
    for (found,) in (reducing.run(case.name, case.feeds), reducing.run_with_constants(case.name, case.feeds)):
        apart = (found.view(np.uint8) - expected.view(np.uint8)).view(np.int8)
        assert found.dtype == expected.dtype
        assert np.abs(apart).max() <= 1 and np.count_nonzero(apart) <= 0.001 * found.size
