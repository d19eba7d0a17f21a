"""Kernels of reductions, normalisations and lookups against the reference evaluator and onnxruntime, at many shapes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper

from graphopt.operators import quantization, table
from graphopt.operators.blocked import block_size
from graphopt.operators.lowering import Rowwise
from tests.kernel_checks import BLOCKED, Array, Case, KernelLibrary, assert_same, random_values

MICROSOFT = "com.microsoft"
ONE = np.array([1])


def _node(op_type: str, operands: str, results: str = "y", domain: str = "", **attributes: Any) -> NodeProto:
    taken, given_ = (["" if name == "-" else name for name in text.split()] for text in (operands, results))
    return helper.make_node(op_type, taken, given_, domain=domain, **attributes)


def _real(*shape: int, dtype: str = "float32", seed: int = 0) -> Array:
    return random_values(shape, dtype, seed)


def _positive(*shape: int) -> Array:
    return np.abs(_real(*shape)) + np.float32(0.5)


def _reduce(op_type: str, axes: Sequence[int] | None, *, keepdims: int = 1, dtype: str = "float32") -> Case:
    words = "all" if axes is None else "_".join(str(axis).replace("-", "m") for axis in axes)
    attributes = {} if axes is None else {"axes": list(axes)}
    values = _positive(3, 4, 5) if op_type in ("ReduceLogSum", "ReduceProd") else _real(3, 4, 5, dtype=dtype)
    node = _node(op_type, "x", keepdims=keepdims, **attributes)
    return Case(f"{op_type}_{words}_{keepdims}_{dtype}", (node,), {"x": values.astype(dtype)}, ("y",), opset=11)


REDUCED = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
AXES: tuple[tuple[int, ...] | None, ...] = ((2,), (1,), (0,), (0, 1), (1, 2), (0, 2), None)
FEW_AXES: tuple[tuple[int, ...], ...] = ((2,), (1,), (0, 2))
REDUCTIONS = [
    *(_reduce("ReduceSum", axes, keepdims=n % 2) for n, axes in enumerate(AXES)),
    *(_reduce(f"Reduce{kind}", axes, keepdims=n % 2) for kind in REDUCED[1:] for n, axes in enumerate(FEW_AXES)),
    *(_reduce(f"Reduce{kind}", (1,), dtype=dtype) for kind in REDUCED[:5] for dtype in ("float64", "int32")),
    *(_reduce(f"Reduce{kind}", (-1,), dtype="int64") for kind in ("Sum", "Max", "Min", "Prod")),
    *(_reduce(f"Reduce{kind}", (-1,), dtype=dtype) for kind in REDUCED[:5] for dtype in ("float64", "float16")),
]

_NORM = {"x": _real(3, 4, 24), "s": _real(24, seed=1), "b": _real(24, seed=2)}
_SKIP = {**_NORM, "k": _real(3, 4, 24, seed=3), "c": _real(24, seed=4)}
_IMAGE = {"x": _real(2, 6, 5, 7), "s": _real(6, seed=1), "b": _real(6, seed=2)}
ROWS = [
    Case("softmax", (_node("Softmax", "x"),), {"x": _real(3, 4, 24)}, ("y",)),
    Case("softmax_middle", (_node("Softmax", "x", axis=1),), {"x": _real(3, 4, 24)}, ("y",)),
    Case("softmax_half", (_node("Softmax", "x"),), {"x": _real(3, 4, 24, dtype="float16")}, ("y",)),
    Case("log_softmax", (_node("LogSoftmax", "x", axis=-1),), {"x": _real(3, 4, 24)}, ("y",)),
    Case("layer", (_node("LayerNormalization", "x s b"),), _NORM, ("y",)),
    Case(
        "layer_double",
        (_node("LayerNormalization", "x s"),),
        {"x": _real(3, 24, dtype="float64"), "s": _real(24, dtype="float64")},
        ("y",),
    ),
    Case(
        "layer_axis", (_node("LayerNormalization", "x s", axis=1),), {"x": _real(3, 4, 24), "s": _real(4, 24)}, ("y",)
    ),
    Case("layer_results", (_node("LayerNormalization", "x s b", "y m d"),), _NORM, ("y", "m", "d")),
    Case("skip", (_node("SkipLayerNormalization", "x k s b c", "y - - z", MICROSOFT),), _SKIP, ("y", "z")),
    Case(
        "skip_plain", (_node("SkipLayerNormalization", "x k s", "y", MICROSOFT),), {n: _SKIP[n] for n in "xks"}, ("y",)
    ),
    Case("rms", (_node("SimplifiedLayerNormalization", "x s"),), {n: _NORM[n] for n in "xs"}, ("y",)),
    Case(
        "skip_rms",
        (_node("SkipSimplifiedLayerNormalization", "x k s", "y - - z", MICROSOFT),),
        {n: _SKIP[n] for n in "xks"},
        ("y", "z"),
    ),
    Case("instance", (_node("InstanceNormalization", "x s b"),), _IMAGE, ("y",)),
    Case("group", (_node("GroupNormalization", "x s b", num_groups=3),), _IMAGE, ("y",)),
    Case(
        "group_old",
        (_node("GroupNormalization", "x s b", num_groups=3),),
        {"x": _IMAGE["x"], "s": _real(3), "b": _real(3)},
        ("y",),
        opset=18,
    ),
    Case("mean_variance", (_node("MeanVarianceNormalization", "x"),), {"x": _IMAGE["x"]}, ("y",)),
    Case("lp1", (_node("LpNormalization", "x", axis=1, p=1),), {"x": _real(3, 4, 24)}, ("y",)),
    Case("lp2", (_node("LpNormalization", "x"),), {"x": _real(3, 4, 24)}, ("y",)),
    Case("average", (_node("GlobalAveragePool", "x"),), {"x": _IMAGE["x"]}, ("y",)),
    Case("greatest", (_node("GlobalMaxPool", "x"),), {"x": _IMAGE["x"]}, ("y",)),
]


def _blocked_pools() -> list[Case]:
    """Reductions of positions in the blocked layout, and of what leaves it with channels that fill no block."""
    x = {"x": _real(2, 3 * block_size(), 5, 7)}
    cases = [
        Case(f"blocked_{op}", (_node(op, "x", domain=BLOCKED),), x, ("y",))
        for op in ("GlobalAveragePool", "GlobalMaxPool")
    ]
    into = _node("ReorderInput", "n", domain=BLOCKED, channels_last=0)
    for count in (3 * block_size(), 2 * block_size() + 5):
        out = _node("ReorderOutput", "x", "p", BLOCKED, channels=count, channels_last=0)
        local = _node("LRN", "p", "n", size=5, alpha=0.1)
        cases += [
            Case(f"local_out_of_blocks{count}", (out, local), x, ("n",)),
            Case(f"local_between_blocks{count}", (out, local, into), x, ("y",)),
            Case(
                f"local_in_blocks{count}",
                (out, _node("Relu", "p", "r"), _node("LRN", "r", "n", size=4), into),
                x,
                ("y",),
            ),
        ]
    for op, axes, last in (("Mean", [2, 3], 0), ("Max", [1, 2], 1), ("Mean", [2], 0), ("Min", [1, 2], 0)):
        out = _node("ReorderOutput", "x", "p", BLOCKED, channels=2 * block_size() + 5, channels_last=last)
        reduced = _node(f"Reduce{op}", "p", axes=axes, keepdims=last)
        cases.append(Case(f"out_of_blocks_{op}{len(axes)}{last}", (out, reduced), x, ("y",), opset=13))
    return cases


ROWS += _blocked_pools() if block_size() else []
AXES_OPERAND = _node("ReduceMean", "x axes", keepdims=0)
ROWS.append(Case("axes_operand", (AXES_OPERAND,), {"x": _IMAGE["x"]}, ("y",), {"axes": np.array([-1, 1])}, opset=18))

_SCORES = {"x": _real(2, 3, 8, 9), "m": _real(2, 1, 1, 9, seed=1), "w": np.array(0.125, np.float32)}
FUSED = [
    Case(
        "attention_scores",
        (_node("Mul", "x w", "a"), _node("Add", "a m", "b"), _node("Softmax", "b", "c"), _node("Mul", "c c")),
        _SCORES,
        ("y",),
        constant_inputs=frozenset({"w"}),
    ),
    Case(
        "by_hand",
        (
            _node("ReduceMean", "x", "m", axes=[-1]),
            _node("Sub", "x m", "d"),
            _node("Mul", "d d", "q"),
            _node("ReduceMean", "q", "v", axes=[-1]),
            _node("Add", "v e", "w"),
            _node("Sqrt", "w", "r"),
            _node("Div", "d r", "n"),
            _node("Mul", "n s", "p"),
            _node("Add", "p b"),
        ),
        {**_NORM, "e": np.array([1e-5], np.float32)},
        ("y", "m"),
        opset=13,
    ),
    Case(
        "between_layouts",
        (
            _node("Transpose", "x", "t", perm=[0, 2, 1]),
            _node("LayerNormalization", "t s b", "n"),
            _node("Transpose", "n", perm=[0, 2, 1]),
        ),
        {"x": _real(2, 24, 10), "s": _NORM["s"], "b": _NORM["b"]},
        ("y",),
    ),
    Case(
        "two_in_a_row",
        (
            _node("Softmax", "x", "a"),
            _node("LayerNormalization", "a s b", "n"),
            _node("ReduceMax", "n", axes=[1], keepdims=0),
        ),
        _NORM,
        ("y",),
        opset=17,
    ),
    Case(
        "misaligned",
        (_node("ReduceSum", "x one", "s", keepdims=0), _node("Sub", "x s")),
        {"x": _real(6, 6)},
        ("y",),
        {"one": ONE},
    ),
    Case(
        "of_concat",
        (_node("Concat", "x z", "c", axis=1), _node("Softmax", "c")),
        {"x": _real(5, 9), "z": _real(5, 8)},
        ("y",),
    ),
    Case(
        "means_and_sums",
        (_node("ReduceMean", "x", "m", axes=[2]), _node("Sub", "x m", "d"), _node("ReduceMax", "d", "z", axes=[2])),
        {"x": _real(3, 4, 24)},
        ("d", "z", "m"),
        opset=13,
    ),
]


def _bags(tables: int) -> Case:
    nodes = [helper.make_node("Split", ["i"], [f"i{k}" for k in range(tables)], axis=1, num_outputs=tables)]
    for k in range(tables):
        nodes += [
            _node("Squeeze", f"i{k} one", f"j{k}"),
            _node("Gather", f"t{k} j{k}", f"g{k}"),
            _node("ReduceSum", f"g{k} one", f"s{k}", keepdims=0),
            _node("Unsqueeze", f"s{k} one", f"u{k}"),
        ]
    nodes += [_node("Relu", "d", "e"), _node("Unsqueeze", "e one", "u")]
    nodes.append(_node("Concat", " ".join(["u", *(f"u{k}" for k in range(tables))]), axis=1))
    rows = [_real(10 + k, 24, seed=k) for k in range(tables)]
    feeds = {"i": _indices((5, tables, 4), 10), **{f"t{k}": row for k, row in enumerate(rows)}, "d": _real(5, 24)}
    return Case(f"bags{tables}", tuple(nodes), feeds, ("y",), {"one": ONE})


def _indices(shape: Sequence[int], rows: int, dtype: str = "int64", seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-rows, rows, shape).astype(dtype)


def _lookup(name: str, nodes: tuple[NodeProto, ...], opset: int = 13, **feeds: Array) -> Case:
    return Case(name, nodes, feeds, ("y",), {"one": ONE} if "one" in str(nodes) else {}, opset=opset)


LOOKUPS = [
    _bags(3),
    _lookup("gather", (_node("Gather", "t i"),), t=_real(20, 24), i=_indices((3, 4), 20)),
    _lookup("gather_middle", (_node("Gather", "t i", axis=1),), t=_real(3, 20, 7), i=_indices((4,), 20)),
    _lookup(
        "gather_last", (_node("Gather", "t i", "a", axis=-1), _node("Neg", "a")), t=_real(3, 20), i=_indices((2, 2), 20)
    ),
    _lookup(
        "gather_32",
        (_node("Gather", "t i", "a"), _node("Add", "a b")),
        t=_real(20, 24),
        i=_indices((3, 4), 20, "int32"),
        b=_real(24),
    ),
    _lookup(
        "gather_shifted", (_node("Abs", "i", "j"), _node("Gather", "t j")), t=_real(20, 24), i=_indices((3, 4), 19)
    ),
    _lookup(
        "gather_moved",
        (_node("Transpose", "i", "j", perm=[1, 0]), _node("Gather", "t j", "a"), _node("Neg", "a")),
        t=_real(20, 24),
        i=_indices((3, 4), 20),
    ),
    _lookup(
        "mean_bag",
        (_node("Gather", "t i", "a"), _node("ReduceMean", "a", axes=[1], keepdims=0)),
        t=_real(20, 24),
        i=_indices((3, 4), 20),
    ),
    _lookup(
        "weighted_bag",
        (_node("Gather", "t i", "a"), _node("Mul", "a w", "b"), _node("ReduceSum", "b one", keepdims=0)),
        t=_real(20, 24),
        i=_indices((3, 4), 20),
        w=_real(3, 4, 1),
    ),
    _lookup(
        "factorisation",
        (
            _node("Gather", "t i", "e"),
            _node("ReduceSum", "e one", "s", keepdims=0),
            _node("Mul", "s s", "a"),
            _node("Mul", "e e", "q"),
            _node("ReduceSum", "q one", "b", keepdims=0),
            _node("Sub", "a b"),
        ),
        t=_real(20, 10),
        i=_indices((3, 9), 20),
    ),
    _lookup(
        "embedding_norm",
        (_node("Gather", "t i", "a"), _node("Add", "a p", "c"), _node("LayerNormalization", "c s b")),
        opset=17,
        t=_real(20, 24),
        i=_indices((3, 4), 20),
        p=_real(4, 24),
        s=_NORM["s"],
        b=_NORM["b"],
    ),
    _lookup(
        "side_by_side",
        (_node("Gather", "t i", "a"), _node("Gather", "u j", "b"), _node("Concat", "a b", axis=1)),
        t=_real(20, 24),
        i=_indices((6,), 20),
        u=_real(9, 8),
        j=_indices((6,), 9),
    ),
]

ROWS += [
    Case(
        "batch",
        (_node("BatchNormalization", "x s b m v", epsilon=1e-3),),
        {**_IMAGE, "m": _real(6, seed=3), "v": _positive(6)},
        ("y",),
    ),
    Case(
        "batch_matrix",
        (_node("BatchNormalization", "x s b m v", "n"), _node("Relu", "n")),
        {"x": _real(5, 24), **{n: _real(24, seed=k) for k, n in enumerate("sbm")}, "v": _positive(24)},
        ("y",),
    ),
    Case("local", (_node("LRN", "x", size=5, alpha=0.02, beta=0.75, bias=1.5),), {"x": _IMAGE["x"]}, ("y",)),
    Case("local_even", (_node("LRN", "x", size=4, alpha=0.02, beta=0.5),), {"x": _IMAGE["x"]}, ("y",)),
]
OLD = Case("softmax_old", (_node("Softmax", "x", axis=1),), {"x": _real(3, 4, 24)}, ("y",), opset=11)
CASES = {case.name: case for case in (*REDUCTIONS, *ROWS, *FUSED, *LOOKUPS)}
TOLERANCE = {"float32": 3e-5, "float64": 1e-12, "float16": 4e-3}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary([*CASES.values(), OLD], tmp_path_factory.mktemp("rows"))


def _check(library: KernelLibrary, case: Case, feeds: dict[str, Array] | None = None, threads: int = 1) -> None:
    dtype = next(iter(case.feeds.values())).dtype if "x" not in case.feeds else case.feeds["x"].dtype
    tolerance = TOLERANCE.get(str(dtype), 3e-5)
    library.check(case.name, feeds, relative=tolerance, absolute=tolerance, threads=threads)


@pytest.mark.parametrize("name", CASES)
def test_kernels(library: KernelLibrary, name: str) -> None:
    _check(library, CASES[name])


@pytest.mark.parametrize("name", [case.name for case in REDUCTIONS])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 70), (70, 130, 3), (5, 67, 33), (2, 3, 2500)])
def test_reductions_of_other_sizes(library: KernelLibrary, name: str, shape: tuple[int, int, int]) -> None:
    """Other sizes than those that the kernel was made for: tails, single elements, more than one chunk."""
    case = CASES[name]
    values = np.abs(_real(*shape)) / 8 + 1 if "Prod" in name or "LogSum" in name else _real(*shape)
    feeds = {
        "x": values.astype(case.feeds["x"].dtype) if "int" not in name else (values * 9).astype(case.feeds["x"].dtype)
    }
    if "Prod" in name and values.size > 4000:
        feeds["x"] = np.ones(shape, case.feeds["x"].dtype)
    expected, (found,) = case.expected(feeds)["y"], library.run(name, feeds)
    dtype = str(found.dtype)
    scale = float(np.abs(feeds["x"].astype(np.float64)).sum() / max(1, found.size)) + 1.0
    assert_same(found, expected, TOLERANCE.get(dtype, 0.0), TOLERANCE.get(dtype, 0.0) * scale, name)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("ReduceMax_2_", "ReduceMin_2_"))])
@pytest.mark.parametrize("columns", [1, 15, 16, 17, 49, 64, 100, 130])
def test_a_bound_is_nan_wherever_the_nan_stands(library: KernelLibrary, name: str, columns: int) -> None:
    x = _real(columns + 1, 1, columns)
    x[np.arange(columns), 0, np.arange(columns)] = np.nan
    (found,) = library.run(name, {"x": x})
    assert np.isnan(found.ravel()[:columns]).all() and not np.isnan(found.ravel()[columns])


@given(
    rows=st.integers(0, 40),
    columns=st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 49, 64, 65, 100, 1023, 1025, 2100]),
    name=st.sampled_from(
        ["softmax", "log_softmax", "layer", "skip", "rms", "by_hand", "layer_results", "means_and_sums"]
    ),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_rows_of_any_length(library: KernelLibrary, rows: int, columns: int, name: str, seed: int) -> None:
    case = CASES[name]
    long = {"x": (rows, 2, columns), "k": (rows, 2, columns)}
    feeds = {n: _real(*long.get(n, (columns,)), seed=seed + k) for k, n in enumerate(case.feeds) if n != "e"}
    _check(library, case, {**feeds, "e": case.feeds["e"]} if "e" in case.feeds else feeds)


@given(
    batch=st.integers(1, 70),
    bag=st.sampled_from([1, 2, 7, 63, 64, 65, 130]),
    width=st.sampled_from([1, 3, 4, 7, 8, 15, 16, 17, 32, 40, 48, 1030]),
    name=st.sampled_from(["mean_bag", "weighted_bag", "factorisation", "gather", "gather_32"]),
)
@settings(max_examples=40, deadline=None)
def test_bags_of_any_size(library: KernelLibrary, batch: int, bag: int, width: int, name: str) -> None:
    case = CASES[name]
    feeds = {"t": _real(20, width), "i": _indices((batch, bag), 20, str(case.feeds["i"].dtype), batch)}
    feeds |= {"w": _real(batch, bag, 1)} if "w" in case.feeds else {}
    feeds |= {"b": _real(width)} if "b" in case.feeds else {}
    expected, (found,) = case.expected(feeds)["y"], library.run(name, feeds)
    assert_same(found, expected, 3e-5, 3e-4 * (bag if name == "factorisation" else 1), name)


def test_broadcasts_that_the_examples_did_not_have(library: KernelLibrary) -> None:
    """Guards send them to the general schedule."""
    masks = [(2, 3, 8, 9), (1, 1, 8, 1), (2, 3, 1, 1), (1, 1, 1, 1)]
    for shape in masks:
        _check(library, CASES["attention_scores"], {**_SCORES, "m": _real(*shape)})
    _check(library, CASES["skip_plain"], {"x": _real(1, 4, 24), "k": _real(1, 4, 24), "s": _real(24)})
    for scale in ((1,), (24,), (4, 24), (3, 4, 24), (3, 1, 1), (2, 3, 4, 24)):
        feeds = {"x": _real(3, 4, 24), "s": _real(*scale), "b": _real(24), "e": CASES["by_hand"].feeds["e"]}
        if len(scale) == 1:  # ranks are fixed, sizes are not
            _check(library, CASES["by_hand"], feeds)
    for shape in ((1, 6), (6, 1), (1, 1)):
        feeds = {"x": _real(*shape)}
        if shape[0] == shape[1]:
            _check(library, CASES["misaligned"], feeds)


def test_large_and_special_values(library: KernelLibrary) -> None:
    x = _real(3, 4, 24)
    x[0, 0, 0], x[1, 1, 5], x[2, 2] = np.nan, -np.inf, -1e30
    _check(library, CASES["softmax"], {"x": x})
    _check(library, CASES["ReduceMax_2_0_float32"], {"x": x[:, :, :5]})
    _check(library, CASES["ReduceMin_1_1_float32"], {"x": x[:, :, :5]})
    for value in (-np.inf, np.inf, 300.0):
        (found,) = library.run("ReduceLogSumExp_2_0_float32", {"x": np.full((3, 4, 5), value, np.float32)})
        np.testing.assert_allclose(found, np.full((3, 4), value + np.log(5)), rtol=1e-6)
    huge = (1e4 + _real(2, 3, 24)).astype(np.float32)
    case = CASES["layer"]
    wide = {n: v.astype(np.float64) for n, v in {**_NORM, "x": huge}.items()}
    centred = wide["x"] - wide["x"].mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * wide["s"] + wide["b"]
    (found,) = library.run(case.name, {**_NORM, "x": huge})
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)  # of 1e4, float32 keeps a thousandth


def test_softmax_before_opset_13(library: KernelLibrary) -> None:
    """All axes from one on were one."""
    x = _real(5, 6, 7)
    (found,) = library.run("softmax_old", {"x": x})
    wide = np.exp(x.astype(np.float64).reshape(5, -1))
    assert_same(found, (wide / wide.sum(1, keepdims=True)).reshape(x.shape).astype(np.float32), 3e-6, 1e-9)


def test_sums_are_accurate(library: KernelLibrary) -> None:
    """Within a few units in the last place of the exact sum of as large numbers, however many there are."""
    x = np.random.default_rng(0).random((2, 3, 200_000)).astype(np.float32)
    (found,) = library.run("ReduceSum_2_0_float32", {"x": x})
    np.testing.assert_allclose(found, x.astype(np.float64).sum(2), rtol=4e-7)
    (found,) = library.run("ReduceMean_1_1_float32", {"x": x.transpose(0, 2, 1)})
    np.testing.assert_allclose(found, x.transpose(0, 2, 1).astype(np.float64).mean(1, keepdims=True), rtol=4e-7)


@pytest.mark.parametrize(
    "name", ["softmax", "layer", "bags3", "between_layouts", "ReduceSum_1_1_float32", "two_in_a_row"]
)
def test_results_do_not_depend_on_threads(library: KernelLibrary, name: str) -> None:
    case = CASES[name]
    shapes = {"x": (70, 24, 90) if name == "between_layouts" else (70, 90, 24), "i": (300, 3, 40), "d": (300, 24)}
    feeds = {n: _indices(shapes[n], 10) if n == "i" else _real(*shapes.get(n, v.shape)) for n, v in case.feeds.items()}
    for one, three in zip(library.run(name, feeds, 1), library.run(name, feeds, 3), strict=True):
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("name", ["gather", "gather_32", "mean_bag", "bags3", "embedding_norm", "side_by_side"])
def test_index_out_of_range(library: KernelLibrary, name: str) -> None:
    """An error, as in onnxruntime; the session goes on."""
    case = CASES[name]
    for beyond in (20, -21, 2**31 - 1):
        indices = case.feeds["i"].copy()
        indices.flat[1] = beyond
        with pytest.raises(Exception, match="outside of its tensor"):
            library.run(name, {**case.feeds, "i": indices})
    _check(library, case)


def test_empty(library: KernelLibrary) -> None:
    _check(library, CASES["softmax"], {"x": _real(0, 4, 24)})
    _check(library, CASES["layer"], {**_NORM, "x": _real(3, 0, 24)})
    for name in ("ReduceSum_2_0_float32", "ReduceSum_1_1_float32", "ReduceProd_1_1_float32"):
        for shape in ((0, 4, 5), (3, 0, 5), (3, 4, 0)):
            _check(library, CASES[name], {"x": _real(*shape)})
    _check(library, CASES["gather"], {"t": _real(20, 24), "i": np.zeros((0, 4), np.int64)})
    (found,) = library.run("mean_bag", {"t": _real(20, 24), "i": np.zeros((3, 0), np.int64)})
    assert found.shape == (3, 24)


def test_every_row_wise_operator_is_checked() -> None:
    lowered = {name for name, operator in table().items() if isinstance(operator.lowering, Rowwise)}
    checked = {f"{n.domain}.{n.op_type}" if n.domain else n.op_type for c in CASES.values() for n in c.nodes}
    same = {"RMSNormalization", "com.microsoft.SimplifiedLayerNormalization"}  # share a lowering that is
    positions = {"ArgMax", "ArgMin"}  # tests/test_kernels_positions.py
    # tests/test_kernels_quantization.py and tests/test_kernels_integers.py
    quantizing = {name for name, operator in table().items() if operator in quantization.OPERATORS}
    assert lowered - same - positions - quantizing <= checked
