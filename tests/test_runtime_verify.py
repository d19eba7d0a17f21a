"""Comparing outputs: the measure, the verdicts, other batch sizes."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper

from graphopt import kernels
from graphopt.errors import GraphoptError
from graphopt.runtime.compare import Tolerance, Verdict, compare, compare_values
from graphopt.runtime.feeds import inputs_of, seeded_inputs, with_batch
from graphopt.runtime.session import open_session
from graphopt.runtime.verify import verify
from tests.runtime_models import fused_model, model, other_library, tensor

NAN, INF = float("nan"), float("inf")


def floats(*values: float, dtype: str = "float32") -> np.ndarray:
    return np.array(values, dtype)


def test_equal_arrays_are_equal_nan_and_infinities_included() -> None:
    values = floats(1, NAN, INF, -INF, -0.0)
    found = compare("y", values, values.copy())
    assert (found.verdict, found.max_absolute, found.differing) == (Verdict.EQUAL, 0.0, 0)


def test_error_is_relative_to_the_tensor_not_to_the_element() -> None:
    found = compare("y", floats(1000.0, 1e-5), floats(1000.0, 2e-5))
    assert found.verdict == Verdict.CLOSE
    assert found.max_relative == pytest.approx(1e-8, rel=1e-3)
    assert compare("y", floats(1e-2, 1e-5), floats(1e-2, 2e-3)).verdict == Verdict.DIFFERENT


@pytest.mark.parametrize(
    ("expected", "found", "part", "nans", "infinities"),
    [
        (floats(1, NAN), floats(1, 2), "1 NaN", 1, 0),
        (floats(1, 2), floats(NAN, 2), "1 NaN", 1, 0),
        (floats(1, INF), floats(1, 2), "1 infinities", 0, 1),
        (floats(1, INF), floats(1, -INF), "1 infinities", 0, 1),
        (floats(1, INF), floats(1, NAN), "1 NaN", 1, 0),
    ],
)
def test_misplaced_specials_differ(
    expected: np.ndarray, found: np.ndarray, part: str, nans: int, infinities: int
) -> None:
    result = compare("y", expected, found)
    assert result.verdict == Verdict.DIFFERENT
    assert part in result.reason
    assert (result.nan_mismatches, result.infinity_mismatches) == (nans, infinities)


def test_dtype_and_shape_must_be_the_same() -> None:
    assert "float32 became float64" in compare("y", floats(1), floats(1, dtype="float64")).reason
    result = compare("y", np.zeros((2, 3)), np.zeros((3, 2)))
    assert (result.verdict, result.reason) == (Verdict.DIFFERENT, "shape [2, 3] became [3, 2]")
    assert compare("y", np.zeros((0, 3)), np.zeros((0, 3))).verdict == Verdict.EQUAL


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_integers_and_bools_must_be_equal(dtype: str) -> None:
    expected = np.array([0, 1, 1], dtype)
    assert compare("y", expected, expected.copy()).verdict == Verdict.EQUAL
    result = compare("y", expected, np.array([1, 1, 1], dtype))
    assert (result.verdict, result.differing) == (Verdict.DIFFERENT, 1)
    assert ("ArgMax" in result.reason) == (dtype == "int64")


def test_integer_differences_do_not_wrap() -> None:
    result = compare("y", np.array([255, 0], np.uint8), np.array([0, 255], np.uint8), {"uint8": Tolerance(0, 1)})
    assert (result.verdict, result.max_absolute) == (Verdict.DIFFERENT, 255.0)
    step = compare("y", np.array([255, 7], np.uint8), np.array([254, 7], np.uint8), {"uint8": Tolerance(0, 1)})
    assert step.verdict == Verdict.CLOSE


def test_half_precision_neither_overflows_nor_needs_float32_precision() -> None:
    big = floats(65504, -65504, dtype="float16")
    assert compare("y", big, -big).max_absolute == 131008.0
    for dtype in (np.dtype("float16"), np.dtype(ml_dtypes.bfloat16)):
        values = np.linspace(-1, 1, 50).astype(dtype)
        assert compare("y", values, (values * dtype.type(1.004)).astype(dtype)).verdict == Verdict.CLOSE
        assert compare("y", values, (values * dtype.type(1.2)).astype(dtype)).verdict == Verdict.DIFFERENT


def test_strings_sequences_maps_and_absent_optionals() -> None:
    words = np.array(["a", "b"], object)
    assert compare_values("y", words, words.copy())[0].verdict == Verdict.EQUAL
    assert compare_values("y", words, np.array(["a", "c"], object))[0].verdict == Verdict.DIFFERENT
    pair = [floats(1), floats(2, 3)]
    assert [c.name for c in compare_values("y", pair, pair)] == ["y[0]", "y[1]"]
    assert compare_values("y", pair, pair[:1])[0].reason == "list of 2 became list of 1"
    assert compare_values("y", {"a": floats(1)}, {"b": floats(1)})[0].verdict == Verdict.DIFFERENT
    assert compare_values("y", None, None)[0].verdict == Verdict.EQUAL
    assert compare_values("y", None, floats(1))[0].verdict == Verdict.DIFFERENT


def test_outputs_without_a_finite_element_are_pointed_out() -> None:
    result = compare("y", floats(NAN, NAN), floats(NAN, NAN))
    assert result.verdict == Verdict.EQUAL
    assert "no finite element" in result.reason


@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=3, max_side=5), elements=st.floats(width=32)))
@settings(max_examples=100, deadline=None)
def test_every_array_equals_itself_and_json_holds_numbers(values: np.ndarray) -> None:
    result = compare("y", values, values.copy())
    assert result.verdict == Verdict.EQUAL
    json.dumps(result.to_dict(), allow_nan=False)


@given(
    arrays.arrays(np.float32, 7, elements=st.floats(-100, 100, width=32)),
    arrays.arrays(np.float32, 7, elements=st.floats(width=32)),
)
@settings(max_examples=100, deadline=None)
def test_verdict_follows_the_formula(expected: np.ndarray, found: np.ndarray) -> None:
    allowed = 1e-6 + 1e-3 * float(np.abs(expected.astype(np.float64)).max())
    with np.errstate(invalid="ignore"):
        errors = np.abs(expected.astype(np.float64) - found.astype(np.float64))
    beyond = int(np.count_nonzero(~(errors <= allowed)))
    result = compare("y", expected, found)
    assert result.differing == beyond
    assert (result.verdict == Verdict.DIFFERENT) == (beyond > 0)
    json.dumps(result.to_dict(), allow_nan=False)


def scaled(factor: float, dims: tuple[int | str, ...] = ("N", 3)) -> onnx.ModelProto:
    weights = {"k": np.array(factor, np.float32)}
    node = helper.make_node("Mul", ["x", "k"], ["y"], name="mul")
    return model([node], [tensor("x", dims)], [tensor("y", None)], weights=weights)


def test_verify_at_captured_and_other_batch_sizes() -> None:
    result = verify(scaled(2.0), scaled(2.0), [{"x": (2, 3)}], batches=(1, 2, 3))
    assert [case.batch for case in result.cases] == [None, 1, 3]
    assert (result.verdict, result.passed) == (Verdict.EQUAL, True)
    wrong = verify(scaled(2.0), scaled(2.1), [{"x": (2, 3)}], batches=(1,))
    assert [case.verdict for case in wrong.cases] == [Verdict.DIFFERENT] * 2
    assert not wrong.passed
    assert wrong.max_relative == pytest.approx(0.05, rel=1e-3)
    json.dumps(wrong.to_dict(), allow_nan=False)


def test_verify_close_and_tolerances() -> None:
    assert verify(scaled(2.0), scaled(2.0001), [{"x": (2, 3)}]).verdict == Verdict.CLOSE
    tight = {"float32": Tolerance(1e-6, 0)}
    assert verify(scaled(2.0), scaled(2.0001), [{"x": (2, 3)}], tolerances=tight).verdict == Verdict.DIFFERENT


def test_a_batch_that_the_original_cannot_run_is_skipped() -> None:
    def fixed(factor: float) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Reshape", ["x", "shape"], ["r"]),
            helper.make_node("Mul", ["r", "k"], ["y"]),
        ]
        weights = {"shape": np.array([2, 3]), "k": np.array(factor, np.float32)}
        return model(nodes, [tensor("x", ("N", 3))], [tensor("y", None)], weights=weights)

    result = verify(fixed(2.0), fixed(2.0), [{"x": (2, 3)}], batches=(1, 3))
    assert [case.verdict for case in result.cases] == [Verdict.EQUAL, Verdict.SKIPPED, Verdict.SKIPPED]
    assert "does not run" in result.cases[1].reason
    assert "\n" not in result.cases[1].reason
    assert result.passed
    # The other way round the second model fails where the first one runs.
    broken = verify(scaled(2.0), fixed(2.0), [{"x": (2, 3)}], batches=(3,))
    assert [case.verdict for case in broken.cases] == [Verdict.EQUAL, Verdict.DIFFERENT]


def test_the_original_must_run_at_captured_shapes() -> None:
    bad = model([helper.make_node("MatMul", ["x", "x"], ["y"])], [tensor("x", ("N", "M"))], [tensor("y", None)])
    with pytest.raises(GraphoptError, match="does not run at its captured shapes"):
        verify(bad, bad, [{"x": (2, 3)}])
    with pytest.raises(GraphoptError, match="the model says"):
        verify(scaled(2.0), scaled(2.0), [{"x": (2, 4)}])


def test_random_originals_are_told_from_wrong_candidates() -> None:
    generator = np.random.default_rng(0)
    noise = lambda feeds: {"y": generator.random((2, 3), np.float32)}  # noqa: E731
    result = verify(noise, scaled(2.0), [{"x": (2, 3)}], model=scaled(2.0))
    assert result.verdict == Verdict.DIFFERENT
    assert "differs from itself" in result.cases[0].reason


def amplified(*first: onnx.NodeProto) -> onnx.ModelProto:
    """A model that amplifies rounding: what x, after some first nodes that make it d, leaves when cut to whole 1e-5."""
    nodes = [
        *first,
        helper.make_node("Mul", ["d", "large"], ["l"]),
        helper.make_node("Floor", ["l"], ["f"]),
        helper.make_node("Sub", ["l", "f"], ["y"]),
        helper.make_node("Greater", ["y", "half"], ["above"]),
    ]
    weights = {"large": 1e5, "half": 0.5, "three": 0.3}
    return model(
        nodes,
        [tensor("x", ("N", 64))],
        [tensor("y", None), tensor("above", None, TensorProto.BOOL)],
        weights={name: np.array(value, np.float32) for name, value in weights.items()},
    )


def test_noise_of_the_original_is_no_difference() -> None:
    original = amplified(helper.make_node("Identity", ["x"], ["d"]))
    multiplied = helper.make_node("Mul", ["x", "three"], ["m"])
    rounded = amplified(multiplied, helper.make_node("Div", ["m", "three"], ["d"]))
    result = verify(original, rounded, [{"x": (99, 64)}])
    assert result.verdict == Verdict.CLOSE
    for output in result.cases[0].outputs:
        assert "the original itself moves" in output.reason
        assert output.differing > 0
    doubled = model(
        [helper.make_node("Mul", ["x", "k"], ["y"]), helper.make_node("Less", ["x", "k"], ["above"])],
        [tensor("x", ("N", 64))],
        [tensor("y", None), tensor("above", None, TensorProto.BOOL)],
        weights={"k": np.array(100, np.float32)},
    )
    assert verify(original, doubled, [{"x": (99, 64)}]).verdict == Verdict.DIFFERENT
    assert verify(doubled, rounded, [{"x": (99, 64)}]).verdict == Verdict.DIFFERENT


def test_sessions_functions_and_files_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "scaled.onnx"
    onnx.save(scaled(2.0), path)
    session = open_session(path)
    assert verify(path, session, [{"x": (1, 3)}]).passed
    assert verify(session, path, [{"x": (1, 3)}]).passed
    assert verify(session, lambda feeds: {"y": feeds["x"] * 2}, [{"x": (1, 3)}]).passed
    assert verify(lambda feeds: {"y": feeds["x"] * 2}, session, [{"x": (1, 3)}], model=scaled(2.0)).passed
    with pytest.raises(GraphoptError, match="graph"):
        verify(lambda feeds: {"y": feeds["x"]}, session, [{"x": (1, 3)}])
    other = verify(session, lambda feeds: {"z": feeds["x"]}, [{"x": (1, 3)}])
    assert "other outputs: y, z" in other.cases[0].reason


@pytest.mark.skipif(kernels.find_compiler() is None, reason="no C compiler")
def test_a_wrong_kernel_is_found(tmp_path: Path) -> None:
    path = tmp_path / "fused.onnx"
    onnx.save(fused_model(), path)
    result = verify(path, path, [{"x": (2, 3)}], kernels_b=other_library(tmp_path))
    assert result.verdict == Verdict.DIFFERENT


def test_indices_stay_inside_their_table() -> None:
    table = model(
        [helper.make_node("Gather", ["w", "i"], ["y"])],
        [tensor("i", ("N",), TensorProto.INT64)],
        [tensor("y", None)],
        weights={"w": np.eye(3, dtype=np.float32)},
    )
    assert verify(table, table, [{"i": (50,)}], batches=(3,)).passed


def test_with_batch_changes_every_axis_with_the_symbol() -> None:
    inputs = [tensor("x", ("batch", 3)), tensor("state", (2, "batch", 4)), tensor("rate", ())]
    nodes = [helper.make_node("Identity", [name], [name + "_out"]) for name in ("x", "state", "rate")]
    made = model(nodes, inputs, [tensor("x_out", None), tensor("state_out", None), tensor("rate_out", None)])
    shapes = {"x": (5, 3), "state": (2, 5, 4), "rate": ()}
    expected = {"x": (7, 3), "state": (2, 7, 4), "rate": ()}
    assert with_batch(made, shapes, 7) == expected
    assert with_batch(open_session(made), shapes, 7) == expected
    assert with_batch(inputs_of(made), shapes, 5) == shapes
    assert shapes["x"] == (5, 3)


def test_with_batch_where_it_is_not_free() -> None:
    assert with_batch(scaled(1.0, (2, 3)), {"x": (2, 3)}, 7) is None
    assert with_batch(scaled(1.0, (2, "N")), {"x": (2, 3)}, 7) is None
    assert with_batch(scaled(1.0, ()), {"x": ()}, 7) is None


def test_with_batch_without_symbols() -> None:
    unnamed = scaled(1.0)
    unnamed.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_param")
    assert with_batch(unnamed, {"x": (2, 3)}, 7) == {"x": (7, 3)}


def test_seeded_inputs_of_a_session_and_of_its_model_are_the_same() -> None:
    made = scaled(1.0)
    first, second = (seeded_inputs(m, {"x": (4, 3)}, seed=3)["x"] for m in (made, open_session(made)))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, seeded_inputs(made, {"x": (4, 3)}, seed=4)["x"])
