"""Kernels with matrix products: operands through index maps, constant operands, epilogues, every shape."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import NodeProto, helper, numpy_helper

from tests.contraction_patterns import ContractionPattern, random_contraction
from tests.kernel_checks import FUSED, IR_VERSION, OPSET, Array, Case, KernelLibrary, element_type

MS = "com.microsoft"
GENERATOR = np.random.default_rng(5)


def _node(op_type: str, inputs: str, output: str, domain: str = "", **attributes: object) -> NodeProto:
    return helper.make_node(
        op_type, ["" if i == "-" else i for i in inputs.split()], output.split(), domain=domain, **attributes
    )


def _random(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def _ints(*values: int) -> Array:
    return np.array(values, np.int64)


def _case(name: str, nodes: list[NodeProto], feeds: Mapping[str, Array], output: str = "y", **constants: Array) -> Case:
    return Case(name, tuple(nodes), dict(feeds), tuple(output.split()), constants)


AB = {"a": _random(5, 7), "b": _random(7, 9)}
CASES = [
    _case("product", [_node("MatMul", "a b", "y")], AB),
    _case("batches", [_node("MatMul", "a b", "y")], {"a": _random(2, 3, 5, 7), "b": _random(2, 3, 7, 9)}),
    _case("broadcast_right", [_node("MatMul", "a b", "y")], {"a": _random(2, 3, 5, 7), "b": _random(7, 9)}),
    _case("broadcast_left", [_node("MatMul", "a b", "y")], {"a": _random(5, 7), "b": _random(4, 7, 9)}),
    _case("broadcast_both", [_node("MatMul", "a b", "y")], {"a": _random(2, 1, 5, 7), "b": _random(1, 3, 7, 9)}),
    _case(
        "transposed",
        [_node("FusedMatMul", "a b", "y", MS, transA=1, transB=1, alpha=0.5)],
        {"a": _random(2, 7, 5), "b": _random(2, 9, 7)},
    ),
    _case(
        "batch_behind",
        [_node("FusedMatMul", "a b", "y", MS, transBatchA=1, transBatchB=1)],
        {"a": _random(5, 3, 7), "b": _random(7, 3, 9)},
    ),
    _case(
        "batch_behind_transposed",
        [_node("FusedMatMul", "a b", "y", MS, transBatchA=1, transA=1, transBatchB=1, transB=1)],
        {"a": _random(7, 3, 5), "b": _random(9, 3, 7)},
    ),
    _case("gemm", [_node("Gemm", "a b c", "y", alpha=0.5, beta=2.0)], {**AB, "c": _random(9)}),
    _case(
        "gemm_transposed",
        [_node("Gemm", "a b c", "y", transA=1, transB=1)],
        {"a": _random(7, 5), "b": _random(9, 7), "c": _random(5, 1)},
    ),
    _case("gemm_alone", [_node("Gemm", "a b", "y", transB=1)], {"a": _random(5, 7), "b": _random(9, 7)}),
    _case("gemm_relu", [_node("FusedGemm", "a b c", "y", MS, activation="Relu")], {**AB, "c": _random(9)}),
    _case(
        "gemm_leaky",
        [_node("FusedGemm", "a b c", "y", MS, activation="LeakyRelu", activation_alpha=0.25)],
        {**AB, "c": _random(5, 9)},
    ),
    _case(
        "residual",
        [_node("MatMul", "a b", "p"), _node("Add", "p c", "q"), _node("Gelu", "q", "g", MS), _node("Add", "g r", "y")],
        {"a": _random(2, 5, 7), "b": _random(7, 9), "c": _random(9), "r": _random(2, 5, 9)},
    ),
    _case(
        "gated",
        [_node("MatMul", "a b", "p"), _node("Sigmoid", "p", "s"), _node("Mul", "p s", "q"), _node("Mul", "q g", "y")],
        {**AB, "g": _random(5, 1)},
    ),
    _case(
        "two_results",
        [_node("MatMul", "a b", "p"), _node("Relu", "p", "y"), _node("Neg", "p", "z")],
        AB,
        "p y z",
    ),
    _case(
        "chain",
        [_node("FusedGemm", "a b c", "h", MS, activation="Relu"), _node("Gemm", "h d e", "y", transB=1)],
        {**AB, "c": _random(9), "d": _random(4, 9), "e": _random(4)},
    ),
    _case(
        "computed_operands",
        [_node("Mul", "a s", "l"), _node("Exp", "b", "r"), _node("MatMul", "l r", "y")],
        {**AB, "s": _random(7)},
    ),
    _case(
        "joined_operands",
        [_node("Concat", "a a2", "l", axis=1), _node("MatMul", "l b", "y")],
        {"a": _random(5, 3), "a2": _random(5, 4), "b": _random(7, 9)},
    ),
    _case(
        "normalised",
        [
            _node("Gemm", "a b c", "p"),
            _node("Softmax", "p", "s", axis=-1),
            _node("MatMul", "s d", "y"),
        ],
        {**AB, "c": _random(9), "d": _random(9, 6)},
    ),
    _case(
        "attention",
        [
            _node("MatMul", "x w", "p"),
            _node("Reshape", "p heads", "r"),
            _node("Transpose", "r", "t", perm=[2, 0, 3, 1, 4]),
            _node("Split", "t", "q k v", axis=0, num_outputs=3),
            _node("FusedMatMul", "q k", "u", MS, transB=1, alpha=0.5),
            _node("Add", "u mask", "m"),
            _node("Softmax", "m", "s", axis=-1),
            _node("MatMul", "s v", "o"),
            _node("Transpose", "o", "ot", perm=[0, 1, 3, 2, 4]),
            _node("Reshape", "ot merged", "z"),
            _node("Gemm", "z w2 b2", "y"),
        ],
        {
            "x": _random(2, 6, 8),
            "w": _random(8, 24),
            "mask": _random(6, 6),
            "w2": _random(8, 8),
            "b2": _random(8),
            "heads": _ints(0, 0, 3, 2, 4),
            "merged": _ints(-1, 8),
        },
    ),
    _case(
        "interaction",
        [
            _node("Unsqueeze", "d one", "u"),
            _node("Concat", "u e", "x", axis=1),
            _node("FusedMatMul", "x x", "p", MS, transB=1),
            _node("Reshape", "p flat", "f"),
            _node("Gather", "f lower", "g", axis=1),
            _node("Concat", "d g", "y", axis=1),
        ],
        {"d": _random(6, 4), "e": _random(6, 3, 4), "flat": _ints(-1, 16), "lower": _ints(4, 8, 9, 12, 13, 14)},
        one=_ints(1),
    ),
    _case(
        "both_directions",
        [
            _node("Transpose", "x", "t", perm=[2, 0, 1, 3]),
            _node("Reshape", "t joined", "r"),
            _node("MatMul", "a r", "y"),
        ],
        {"a": _random(4, 1, 6), "x": _random(6, 2, 4, 20), "joined": _ints(4, 6, 40)},
    ),
    _case(
        "windows",
        [
            _node("Reshape", "x split", "r"),
            _node("Transpose", "r", "t", perm=[0, 1, 3, 2, 4, 5]),
            _node("Reshape", "t rows", "f"),
            _node("Gemm", "f w c", "g"),
            _node("Reshape", "g joined", "h"),
            _node("Transpose", "h", "i", perm=[0, 1, 3, 2, 4, 5]),
            _node("Reshape", "i whole", "y"),
        ],
        {
            "x": _random(2, 6, 4, 5),
            "w": _random(5, 5),
            "c": _random(5),
            "split": _ints(2, 3, 2, 2, 2, 5),
            "rows": _ints(-1, 5),
            "joined": _ints(2, 3, 2, 2, 2, 5),
            "whole": _ints(2, 6, 4, 5),
        },
    ),
]

UNSHAPED = ("product", "broadcast_both", "gemm_transposed", "residual", "chain", "attention", "interaction")
GENERAL = [replace(case, name=f"{case.name}_general", shaped=False) for case in CASES if case.name in UNSHAPED]
"""Kernels that know no example's shapes."""
WEIGHTS = ("b", "c", "d", "w", "w2", "b2", "e")
"""Inputs that are also tried as constants of the model."""
SIZES = (1, 3, 16, 17, 31, 32, 33, 64, 65, 97, 300)


PATTERNS = [random_contraction(seed) for seed in range(30_000, 30_010)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    random = [pattern.case(shaped=number % 3 != 0) for number, pattern in enumerate(PATTERNS)]
    return KernelLibrary([*CASES, *GENERAL, *random], tmp_path_factory.mktemp("contraction"))


def _check(library: KernelLibrary, name: str, feeds: Mapping[str, Array], threads: int = 1) -> None:
    library.check(name, feeds, relative=2e-5, absolute=2e-5, threads=threads)


@pytest.mark.parametrize("name", [case.name for case in (*CASES, *GENERAL)])
def test_example(library: KernelLibrary, name: str) -> None:
    _check(library, name, library.cases[name].feeds)


@pytest.mark.parametrize("name", ["product", "product_general"])
def test_shapes(library: KernelLibrary, name: str) -> None:
    random = np.random.default_rng(3)
    for _ in range(60):
        m, k, n = (int(random.choice(SIZES)) for _ in range(3))
        _check(library, name, {"a": _random(m, k), "b": _random(k, n)}, threads=int(random.integers(1, 3)))


def test_epilogue_at_many_shapes(library: KernelLibrary) -> None:
    random = np.random.default_rng(4)
    for _ in range(40):
        batch, m, k, n = (int(random.choice(SIZES[:9])) for _ in range(4))
        feeds = {"a": _random(batch % 7, m, k), "b": _random(k, n), "c": _random(n), "r": _random(batch % 7, m, n)}
        _check(library, "residual", feeds, threads=int(random.integers(1, 3)))
        _check(library, "residual", {**feeds, "r": _random(m, 1), "c": _random(1)})


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_random_patterns_at_many_shapes(library: KernelLibrary, pattern: ContractionPattern) -> None:
    for seed in range(6):
        library.check(pattern.name, pattern.feeds(seed), relative=1e-4, absolute=1e-4, threads=1 + seed % 2)


@pytest.mark.parametrize("shapes", [((0, 4), (4, 3)), ((3, 4), (4, 0)), ((2, 0), (0, 3)), ((0, 0), (0, 0))])
def test_empty(library: KernelLibrary, shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    feeds = {"a": _random(*shapes[0]), "b": _random(*shapes[1])}
    for name in ("product", "product_general", "two_results"):
        _check(library, name, feeds)


def test_shapes_that_contradict(library: KernelLibrary) -> None:
    with pytest.raises(Exception, match="contradict"):
        library.run("product", {"a": _random(3, 4), "b": _random(5, 3)})


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_constant_weights(library: KernelLibrary, name: str) -> None:
    case = library.cases[name]
    weights = {n: v for n, v in case.feeds.items() if n in WEIGHTS}
    if not weights:
        pytest.skip("no operand that a model would hold as a constant")
    feeds = {n: v for n, v in case.feeds.items() if n not in weights}
    session = _with_constants(case, weights, library.paths[name])
    values = case.expected(case.feeds)
    for _ in range(2):
        for output, found in zip(case.outputs, session.run(None, feeds), strict=True):
            np.testing.assert_allclose(found, values[output], rtol=2e-5, atol=2e-5)


def _with_constants(case: Case, weights: Mapping[str, Array], library: Path) -> onnxruntime.InferenceSession:
    values = case.expected(case.feeds)
    node = helper.make_node(case.name, list(case.feeds), list(case.outputs), domain=FUSED)
    graph = helper.make_graph(
        [node],
        case.name,
        [
            helper.make_tensor_value_info(n, element_type(str(v.dtype)), None)
            for n, v in case.feeds.items()
            if n not in weights
        ],
        [helper.make_tensor_value_info(o, element_type(str(values[o].dtype)), None) for o in case.outputs],
        [numpy_helper.from_array(value, n) for n, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_sums_are_accurate_and_the_same_for_any_threads(library: KernelLibrary) -> None:
    """Within a few units in the last place of the sum of absolute products."""
    feeds = {"a": _random(70, 3000), "b": _random(3000, 200)}
    one, two = (library.run("product", feeds, threads=threads)[0] for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
    a, b = (value.astype(np.float64) for value in feeds.values())
    assert np.max(np.abs(one - a @ b) / (np.abs(a) @ np.abs(b))) < 8 * 2.0**-24
