"""Products of matrices by the processor's matrix unit: as accurate as float32, for all shapes and values."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper, numpy_helper

from graphopt.kernels.compile import processor_flags, uses_matrix_unit
from tests.kernel_checks import FUSED, IR_VERSION, OPSET, Array, Case, KernelLibrary

pytestmark = pytest.mark.skipif(
    not {"amx_bf16", "amx_tile", "avx512_bf16", "avx512f"} <= processor_flags(), reason="no matrix unit"
)

UNIT = 2.0**-24


def _node(op_type: str, inputs: str, output: str, domain: str = "", **attributes: object) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], domain=domain, **attributes)


CASES = (
    Case("plain", (_node("MatMul", "x w", "y"),), {"x": np.ones((4, 6), "f4"), "w": np.ones((6, 5), "f4")}, ("y",)),
    Case(
        "scaled",
        (_node("Gemm", "x w b", "y", alpha=0.75, transB=1),),
        {"x": np.ones((4, 6), "f4"), "w": np.ones((5, 6), "f4"), "b": np.ones(5, "f4")},
        ("y",),
    ),
    Case(
        "gated",
        (_node("Gemm", "x w b", "p"), _node("Abs", "p", "s"), _node("Add", "s p", "t"), _node("Mul", "t g", "y")),
        {
            "x": np.ones((4, 6), "f4"),
            "w": np.ones((6, 5), "f4"),
            "b": np.ones(5, "f4"),
            "g": np.ones((4, 5), "f4"),
        },
        ("y",),
    ),
    Case(
        "batch",
        (_node("Transpose", "x", "t", perm=[1, 0, 2]), _node("MatMul", "t w", "y")),
        {"x": np.ones((4, 3, 6), "f4"), "w": np.ones((6, 5), "f4")},
        ("y",),
    ),
    Case(  # x is split once for both
        "towers",
        (_node("MatMul", "x w", "p"), _node("MatMul", "x v", "q"), _node("Mul", "p q", "y")),
        {"x": np.ones((4, 6), "f4"), "w": np.ones((6, 5), "f4"), "v": np.ones((6, 5), "f4")},
        ("y",),
    ),
    Case(  # the parts of y take the place of those of x
        "layers",
        (
            _node("MatMul", "x w", "p"),
            _node("Relu", "p", "r"),
            _node("MatMul", "r v", "q"),
            _node("MatMul", "q v", "y"),
        ),
        {"x": np.ones((4, 6), "f4"), "w": np.ones((6, 5), "f4"), "v": np.ones((5, 5), "f4")},
        ("y",),
    ),
)
WEIGHTS = ("w", "v", "b")
NAMES = [case.name for case in CASES if case.name != "layers"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary(CASES, tmp_path_factory.mktemp("matrix_unit"))


def _run(library: KernelLibrary, name: str, feeds: Mapping[str, Array], threads: int = 1) -> Array:
    """The kernel in a session that holds the weights, so that they are packed once."""
    case = library.cases[name]
    node = helper.make_node(name, list(case.feeds), ["y"], domain=FUSED)
    inputs = [helper.make_tensor_value_info(n, 1, None) for n in feeds if n not in WEIGHTS]
    constants = [numpy_helper.from_array(feeds[n], n) for n in feeds if n in WEIGHTS]
    graph = helper.make_graph([node], name, inputs, [helper.make_tensor_value_info("y", 1, None)], constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(library.paths[name]))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {n: v for n, v in feeds.items() if n not in WEIGHTS})[0])


def _feeds(name: str, rows: int, columns: int, depth: int, seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return random.standard_normal(shape).astype(np.float32)

    weights = {"w": normal(columns, depth) if name == "scaled" else normal(depth, columns)}
    x = normal(rows, 3, depth) if name == "batch" else normal(rows, depth)
    feeds = {"x": x, **weights, "v": normal(depth, columns), "b": normal(columns), "g": normal(rows, columns)}
    wanted = next(case.feeds for case in CASES if case.name == name)
    return {n: feeds[n] for n in wanted}


def _expected(name: str, feeds: Mapping[str, Array]) -> tuple[Array, Array]:
    """The result in float64, and what its error is measured by: the same with absolute values."""
    x, w = (feeds[n].astype(np.float64) for n in ("x", "w"))
    if name == "scaled":
        b = feeds["b"]
        return 0.75 * (x @ w.T) + b, 0.75 * (abs(x) @ abs(w.T)) + abs(b)
    if name == "batch":
        x = x.transpose(1, 0, 2)
    if name == "towers":
        v = feeds["v"].astype(np.float64)
        return (x @ w) * (x @ v), 2 * (abs(x) @ abs(w)) * (abs(x) @ abs(v))
    if name != "gated":
        return x @ w, abs(x) @ abs(w)
    g, b = feeds["g"], feeds["b"]
    product = x @ w + b
    return (abs(product) + product) * g, 2 * (abs(x) @ abs(w) + abs(b)) * abs(g)


@settings(max_examples=60, deadline=None)
@example("plain", 64, 1, 557, 0)
@example("gated", 65, 3, 300, 1)
@example("scaled", 7, 4, 64, 2)
@example("plain", 200, 320, 1300, 3)
@example("gated", 64, 330, 300, 4)
@given(
    st.sampled_from(NAMES),
    st.integers(1, 300),
    st.integers(1, 200),
    st.integers(1, 1500),
    st.integers(0, 99),
)
def test_any_shape(library: KernelLibrary, name: str, rows: int, columns: int, depth: int, seed: int) -> None:
    feeds = _feeds(name, rows, columns, depth, seed)
    expected, scale = _expected(name, feeds)
    found = _run(library, name, feeds)
    assert np.max(np.abs(found - expected) / scale) < 8 * UNIT


@pytest.mark.parametrize("name", NAMES)
def test_the_same_for_any_threads(library: KernelLibrary, name: str) -> None:
    feeds = _feeds(name, 200, 320, 1300, 1)
    np.testing.assert_array_equal(_run(library, name, feeds), _run(library, name, feeds, threads=2))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38, 2.0**31])
@pytest.mark.parametrize("where", ["x", "w"])
def test_values_that_the_unit_cannot_take(library: KernelLibrary, where: str, value: float) -> None:
    feeds = _feeds("plain", 64, 96, 256, 2)
    feeds[where][40, 50] = value
    with np.errstate(all="ignore"):
        expected = feeds["x"] @ feeds["w"]
    np.testing.assert_allclose(
        _run(library, "plain", feeds), expected, rtol=1e-4, atol=1e-4 * np.fmin(abs(value), 1e30)
    )


@pytest.mark.parametrize("value", [np.inf, 2.0**31])
def test_rows_that_the_unit_cannot_take_for_several_products(library: KernelLibrary, value: float) -> None:
    feeds = _feeds("towers", 200, 96, 256, 5)
    feeds["x"][150, 50] = value
    with np.errstate(all="ignore"):
        expected = (feeds["x"] @ feeds["w"]) * (feeds["x"] @ feeds["v"])
    found = _run(library, "towers", feeds)
    np.testing.assert_allclose(np.delete(found, 150, 0), np.delete(expected, 150, 0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found[150], expected[150], rtol=1e-4)


@pytest.mark.parametrize(("rows", "columns", "depth"), [(64, 96, 224), (100, 224, 96), (33, 130, 130)])
def test_products_one_behind_the_other(library: KernelLibrary, rows: int, columns: int, depth: int) -> None:
    random = np.random.default_rng(6)
    x, w, v = (
        random.standard_normal(shape).astype(np.float32)
        for shape in ((rows, depth), (depth, columns), (columns, columns))
    )
    expected = np.maximum(x.astype(np.float64) @ w, 0) @ v @ v
    found = _run(library, "layers", {"x": x, "w": w, "v": v})
    assert np.max(np.abs(found - expected)) < 1e-5 * np.max(np.abs(expected))


def test_tiny_values_count_as_zero_only_below_the_smallest_product(library: KernelLibrary) -> None:
    feeds = _feeds("plain", 64, 96, 256, 3)
    feeds["x"] = feeds["x"] * np.float32(2.0**-60)
    expected, scale = _expected("plain", feeds)
    assert np.max(np.abs(_run(library, "plain", feeds) - expected) / scale) < 8 * UNIT
    feeds["x"] = feeds["x"] * np.float32(2.0**-60)  # now parts of elements are subnormal
    expected, _ = _expected("plain", feeds)
    assert np.max(np.abs(_run(library, "plain", feeds) - expected)) < 256 * 2.0**-95


@pytest.mark.skipif(not uses_matrix_unit(), reason="left alone in all tests")
def test_the_unit_is_used_and_can_be_left_alone(library: KernelLibrary) -> None:
    """With the unit sums are made in another order, so they differ in their last bits."""
    script = Path(__file__)
    program = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from tests import test_kernels_matrix_unit as t; from tests.kernel_checks import KernelLibrary\n"
        "class Built: cases = {c.name: c for c in t.CASES}; paths = {'plain': Path(sys.argv[1])}\n"
        "np.save(sys.argv[2], t._run(Built, 'plain', t._feeds('plain', 128, 256, 512, 4)))"
    )
    results = []
    for setting in ("on", "off"):
        file = library.paths["plain"].with_name(f"{setting}.npy")
        subprocess.run(
            [sys.executable, "-c", program, str(library.paths["plain"]), str(file)],
            check=True,
            cwd=script.parent.parent,
            env={**os.environ, "GRAPHOPT_MATRIX_UNIT": setting},
        )
        results.append(np.load(file))
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)
    assert np.any(results[0] != results[1])
