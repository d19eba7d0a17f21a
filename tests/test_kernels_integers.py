"""Products of matrices and convolutions of integers, bit by bit against onnxruntime and against sums in numpy."""

import itertools
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from graphopt.kernels import lowerable
from tests.kernel_checks import Array, Case, KernelLibrary, in_onnxruntime, random_values

MICROSOFT = "com.microsoft"
# shapes of both operands: rows, depth and columns that fill no tile, fill several, or are one; batches
MATRICES = {
    "small": ((3, 5), (5, 7)),
    "tiles": ((33, 130), (130, 47)),
    "one_row": ((1, 64), (64, 100)),
    "one_column": ((20, 33), (33, 1)),
    "wide": ((70, 12), (12, 1100)),
    "batch": ((2, 3, 17, 21), (2, 3, 21, 34)),
    "broadcast": ((3, 17, 21), (2, 1, 21, 34)),
    "folded": ((2, 3, 17, 21), (21, 40)),
    "no_depth": ((4, 0), (0, 6)),
    "deep": ((2, 2100), (2100, 18)),
}
# image, weights, and attributes
WINDOWS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "pointwise": ((1, 24, 8, 20), (17, 24, 1, 1), {}),
    "padded": ((2, 5, 9, 11), (33, 5, 3, 3), {"pads": [1, 1, 1, 1]}),
    "strided": ((1, 3, 12, 13), (6, 3, 3, 3), {"strides": [2, 2], "pads": [1, 0, 2, 1]}),
    "dilated": ((1, 2, 12, 13), (4, 2, 3, 2), {"dilations": [2, 3], "pads": [4, 5, 4, 5]}),
    "line": ((2, 4, 40), (18, 4, 5), {"pads": [2, 2], "strides": [3]}),
    "large": ((1, 8, 40, 50), (16, 8, 3, 3), {"pads": [1, 1, 1, 1]}),
    "all_outside": ((1, 2, 2, 2), (3, 2, 2, 2), {"pads": [5, 5, 5, 5], "strides": [3, 3]}),
}
SIGNS = tuple(itertools.product(("uint8", "int8"), repeat=2))


def _values(shape: tuple[int, ...], dtype: str, seed: int) -> Array:
    """Integers of the whole range, the least and the greatest often."""
    values, bounds = random_values(shape, dtype, seed), np.iinfo(dtype)
    values.flat[::3] = bounds.max
    values.flat[::7] = bounds.min
    return values


def _zero(dtype: str, seed: int, shape: tuple[int, ...] = ()) -> Array:
    return np.asarray(random_values((*shape, 1), dtype, seed)[..., 0])


def _case(
    name: str, op_type: str, operands: dict[str, Array], constants: str, domain: str = "", **attributes: Any
) -> Case:
    node = helper.make_node(op_type, list(operands), ["y"], domain=domain, **attributes)
    return Case(name, (node,), operands, ("y",), constant_inputs=frozenset(constants.split()) & set(operands))


def _matrix_cases() -> list[Case]:
    found = []
    for number, (name, (left, right)) in enumerate(MATRICES.items()):
        a_type, b_type = SIGNS[number % 4]
        a, b = _values(left, a_type, number), _values(right, b_type, number + 20)
        zeros = {
            "az": _zero(a_type, number),
            "bz": _zero(b_type, number + 1, (right[-1],) if number % 2 and len(right) == 2 else ()),
        }
        found.append(
            _case(f"integer_{name}", "MatMulInteger", {"a": a, "b": b, **zeros}, "b az bz" if number % 3 else "")
        )
    for a_type, b_type in SIGNS:
        a, b = _values((18, 70), a_type, 1), _values((70, 35), b_type, 2)
        found.append(_case(f"plain_{a_type}_{b_type}", "MatMulInteger", {"a": a, "b": b}, "b"))
    for number, (name, (left, right)) in enumerate(MATRICES.items()):
        columns = (right[-1],) if number % 2 and len(right) == 2 else ()
        operands = {
            "a": _values(left, "uint8", number),
            "as": np.float32(0.02),
            "az": _zero("uint8", number),
            "b": _values(right, "int8", number),
            "bs": np.asarray(random_values((*columns, 1), "float32", 3)[..., 0] / 50 + np.float32(0.1)),
            "bz": np.zeros(columns, np.int8),
            "ys": np.float32(0.3 * max(1, left[-1])),
            "yz": np.uint8(120),
        }
        operands = {key: np.asarray(value) for key, value in operands.items()}
        found.append(
            _case(
                f"quantized_{name}",
                "QLinearMatMul",
                operands,
                "as az b bs bz ys yz" if number % 2 else "as az bs bz ys yz",
            )
        )
    scales = {"as": np.array(0.1, np.float32), "bs": np.array([0.2], np.float32)}
    a, b = _values((2, 9, 40), "uint8", 5), _values((40, 22), "int8", 6)
    zeros, bias = {"az": _zero("uint8", 3), "bz": _zero("int8", 4)}, {"bias": random_values((22,), "float32", 7)}
    found.append(
        _case("to_float", "MatMulIntegerToFloat", {"a": a, "b": b, **scales, **zeros, **bias}, "b bs bz", MICROSOFT)
    )
    x = random_values((2, 9, 40), "float32", 8)
    dynamic = {"a": x, "b": b.view(np.uint8), "bs": np.array(0.2, np.float32), "bz": _zero("uint8", 4), **bias}
    found.append(_case("dynamic", "DynamicQuantizeMatMul", dynamic, "b bs bz bias", MICROSOFT))
    return found


def _window_cases() -> list[Case]:
    found = []
    for number, (name, (image, weights, attributes)) in enumerate(WINDOWS.items()):
        x_type, w_type = SIGNS[number % 2]
        x, w = _values(image, x_type, number), _values(weights, w_type, number + 30)
        zeros = {"xz": _zero(x_type, number + 2), "wz": _zero(w_type, number + 5)}
        found.append(
            _case(
                f"integer_{name}", "ConvInteger", {"x": x, "w": w, **zeros}, "w wz" if number % 2 else "", **attributes
            )
        )
        channels = (weights[0],) if number % 2 else ()
        operands = {
            "x": x.view(np.uint8),
            "xs": np.array(0.02, np.float32),
            "xz": zeros["xz"].astype(np.uint8),
            "w": w.view(np.int8),
            "ws": np.asarray(abs(random_values((*channels, 1), "float32", 3)[..., 0]) / 50 + np.float32(0.1)),
            "wz": np.zeros(channels, np.int8),
            "ys": np.array(0.3 * weights[1], np.float32),
            "yz": np.array(120, np.uint8),
            "bias": random_values((weights[0],), "int32", 4) // 8,
        }
        found.append(_case(f"quantized_{name}", "QLinearConv", operands, "xs xz w ws wz ys yz bias", **attributes))
    return found


def _chain(name: str, nodes: tuple[NodeProto, ...], feeds: dict[str, Any], constants: str) -> Case:
    operands = {key: np.asarray(value) for key, value in feeds.items()}
    return Case(name, nodes, operands, ("y",), constant_inputs=frozenset(constants.split()))


def _behind_cases() -> list[Case]:
    """Sums with work behind them: operands for each column, each row, each channel, each element, and all of them."""
    node = helper.make_node
    scaled = (node("Cast", ["i"], ["f"], to=1), node("Mul", ["f", "s"], ["g"]), node("Add", ["g", "bias"], ["h"]))
    matrix = node("MatMulInteger", ["a", "b", "az", "bz"], ["i"])
    quantizing = node("QuantizeLinear", ["r", "ys", "yz"], ["y"])
    ends = {"ys": np.float32(40), "yz": np.uint8(100)}
    found = []
    for number, (name, (left, right)) in enumerate(MATRICES.items()):
        if name == "no_depth":
            continue
        a, b = _values(left, "uint8", number), _values(right, "int8", number + 20)
        rows, columns = left[-2], right[-1]
        sums = (*np.broadcast_shapes(left[:-2], right[:-2]), rows, columns)
        operands = {
            **{"a": a, "b": b, "az": _zero("uint8", number), "bz": _zero("int8", number), "s": np.float32(0.01)},
            "bias": random_values((columns,) if number % 2 else (rows, 1), "float32", 3),
            "x": random_values(sums, "float32", 4),
        }
        nodes = (matrix, *scaled, node("Add", ["h", "x"], ["y" if number % 3 else "r"]))
        if number % 3 == 0:
            nodes, operands = (*nodes, quantizing), {**operands, **ends}
        found.append(_chain(f"behind_{name}", nodes, operands, "b bz" if number % 2 else "bz"))
    for name in ("pointwise", "padded", "strided", "line"):
        image, weights, attributes = WINDOWS[name]
        x, w = _values(image, "uint8", 1), _values(weights, "uint8", 2)
        channels = (weights[0], *(1 for _ in image[2:]))
        operands = {
            **{"x": x, "w": w, "xz": _zero("uint8", 3), "wz": _zero("uint8", 4)},
            **{"s": random_values(channels, "float32", 5), "bias": random_values(channels, "float32", 6), **ends},
        }
        window = node("ConvInteger", ["x", "w", "xz", "wz"], ["i"], **attributes)
        nodes = (window, *scaled, node("Relu", ["h"], ["r"]), quantizing)
        found.append(_chain(f"behind_window_{name}", nodes, operands, "w wz"))
    return found


CASES = [*_matrix_cases(), *_window_cases()]
BEHIND = _behind_cases()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary([*CASES, *BEHIND], tmp_path_factory.mktemp("integers"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kernels_give_what_onnxruntime_gives(case: Case, library: KernelLibrary) -> None:
    expected = case.expected(case.feeds)["y"]
    (stock_result,) = in_onnxruntime(case)
    for (found,) in (library.run(case.name, case.feeds), library.run_with_constants(case.name, case.feeds)):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        if found.dtype == np.float32:
            np.testing.assert_allclose(found, stock_result, rtol=1e-5, atol=1e-5)
        elif "no_depth" not in case.name:  # onnxruntime leaves what has no depth as it finds it
            np.testing.assert_array_equal(found, stock_result)
        if found.dtype == np.int32:
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("case", BEHIND, ids=lambda case: case.name)
def test_work_behind_sums_gives_the_same_numbers(case: Case, library: KernelLibrary) -> None:
    expected = case.expected(case.feeds)["y"]
    for (found,) in (library.run(case.name, case.feeds), library.run_with_constants(case.name, case.feeds)):
        np.testing.assert_array_equal(found, expected)


def test_what_has_no_kernel() -> None:
    x, w = np.zeros((1, 4, 5, 5), np.uint8), np.zeros((4, 2, 3, 3), np.uint8)
    assert "in groups" in str(lowerable(_case("groups", "ConvInteger", {"x": x, "w": w}, "", group=2).body()))
    vector = _case("vector", "MatMulInteger", {"a": np.zeros(4, np.uint8), "b": np.zeros((4, 2), np.uint8)}, "")
    assert "of a vector" in str(lowerable(vector.body()))
