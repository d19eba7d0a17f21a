"""The planner through kernels of views on views: sizes that do not divide, and how many boxes of loops they take."""

import ctypes
import itertools
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper

from graphopt.kernels import write_source
from graphopt.kernels.compile import FLAGS, find_compiler
from tests.kernel_checks import Array, Case, KernelLibrary, random_values


def _ints(*values: int) -> Array:
    return np.array(values, np.int64)


def _node(op_type: str, operands: Sequence[str], result: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, list(operands), [result], **attributes)


def _views(*permutations: tuple[int, ...]) -> Case:
    """Transposes with reshapes to any other shape between them."""
    nodes, feeds = [], {"x": random_values((2,) * len(permutations[0]), "float32", 0)}
    at = "x"
    for number, permutation in enumerate(permutations):
        nodes.append(_node("Transpose", [at], f"a{number}", perm=permutation))
        at = f"a{number}"
        if number + 1 < len(permutations):
            rank = len(permutations[number + 1])
            feeds[f"s{number}"] = _ints(*(2,) * (rank - 1), -1)
            nodes.append(_node("Reshape", [at, f"s{number}"], f"b{number}"))
            at = f"b{number}"
    nodes.append(_node("Neg", [at], "y"))
    name = "views" + "_".join("".join(map(str, p)) for p in permutations)
    return Case(name, tuple(nodes), feeds, ("y",), shaped=False)


REVERSED = Case(
    "reversed",
    (
        _node("Slice", ["x", "starts", "ends", "axes", "steps"], "a"),
        _node("Reshape", ["a", "s"], "b"),
        _node("Transpose", ["b"], "y", perm=[1, 0]),
    ),
    {
        "x": random_values((6, 4), "float32", 0),
        "starts": _ints(-1, -1),
        "ends": _ints(-(2**63), -(2**63)),
        "steps": _ints(-1, -1),
        "s": _ints(4, -1),
    },
    ("y",),
    {"axes": _ints(0, 1)},
    shaped=False,
)
PIXELS = Case(
    "pixels",
    (
        _node("Reshape", ["x", "s"], "a"),
        _node("DepthToSpace", ["a"], "b", blocksize=2, mode="CRD"),
        _node("Transpose", ["b"], "c", perm=[0, 2, 3, 1]),
        _node("Add", ["c", "bias"], "y"),
    ),
    {"x": random_values((8, 6), "float32", 0), "s": _ints(1, 8, 2, -1), "bias": np.array([2.0], np.float32)},
    ("y",),
    shaped=False,
)
CASES = (
    _views((1, 0), (1, 0)),
    _views((1, 0), (1, 0), (1, 0)),
    _views((2, 0, 1), (1, 0)),
    _views((1, 0), (2, 1, 0), (0, 2, 1)),
    _views((3, 1, 2, 0), (0, 2, 1, 3)),
    REVERSED,
    PIXELS,
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary(CASES, tmp_path_factory.mktemp("planner"))


def _check_views(library: KernelLibrary, case: Case, shapes: Sequence[Sequence[int]]) -> None:
    feeds = {"x": random_values(shapes[0], "float32", 1)}
    feeds |= {f"s{number}": _ints(*shape) for number, shape in enumerate(shapes[1:])}
    library.check(case.name, feeds)


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.name)
def test_matrices_whose_sizes_do_not_divide(library: KernelLibrary, case: Case) -> None:
    for rows, columns in itertools.product((1, 4, 5, 6, 7, 12, 17), repeat=2):
        total = rows * columns
        for other in {size for size in range(1, total + 1) if total % size == 0}:
            shapes = [(rows, columns), (other, total // other), (total // columns, columns)]
            _check_views(library, case, shapes[: len(case.feeds)])


@st.composite
def _shapes(draw: st.DrawFn) -> tuple[Case, list[list[int]]]:
    """A case and shapes for it: the prime factors of one number of elements, dealt out anew for every reshape."""
    case = draw(st.sampled_from(CASES[:5]))
    ranks = [case.feeds["x"].ndim, *(len(case.feeds[f"s{n}"]) for n in range(len(case.feeds) - 1))]
    factors = draw(st.lists(st.sampled_from([2, 2, 2, 3, 3, 5, 7]), max_size=9))
    shapes = []
    for rank in ranks:
        sizes = [1] * rank
        for factor in factors:
            sizes[draw(st.integers(0, rank - 1))] *= factor
        shapes.append(sizes)
    return case, shapes


@given(drawn=_shapes())
@settings(max_examples=250, deadline=None)
def test_views_of_views(library: KernelLibrary, drawn: tuple[Case, list[list[int]]]) -> None:
    _check_views(library, *drawn)


def test_steps_backwards_through_a_reshape(library: KernelLibrary) -> None:
    for shape, target in (((6, 4), (4, -1)), ((1, 9), (3, -1)), ((35, 33), (21, -1)), ((16, 64), (64, -1))):
        library.check("reversed", {**REVERSED.feeds, "x": random_values(shape, "float32", 1), "s": _ints(*target)})


def test_pixel_shuffle_of_a_reshape(library: KernelLibrary) -> None:
    for shape, target in (((8, 6), (1, 8, 2, -1)), ((5, 48), (2, 12, 5, -1)), ((64, 49), (1, 64, 7, -1))):
        feeds = {"x": random_values(shape, "float32", 1), "s": _ints(*target), "bias": np.array([0.5], np.float32)}
        library.check("pixels", feeds)


PIECES = """
int64_t pieces_of(int index, int rank, const int64_t *sizes);
int64_t pieces_of(int index, int rank, const int64_t *sizes)
{
    const kernel *k = KERNELS[index];
    shape in[MAX_INPUTS];
    const void *data[MAX_INPUTS] = {0};
    memset(in, 0, sizeof in);
    in[0].rank = rank;
    for (int d = 0; d < rank; d++)
        in[0].size[d] = sizes[d];
    plan *p = new_plan(k, in, data, NULL, NULL);
    int64_t count = p->error ? -1 : p->pieces;
    free_plan(p);
    return count;
}
"""


def test_few_boxes_where_sizes_divide(tmp_path: Path) -> None:
    """A box per run of equal index arithmetic, not per element: what keeps plans small and loops long."""
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C compiler")
    bodies = {
        "transpose": [_node("Transpose", ["x"], "y", perm=[0, 2, 3, 1])],
        "heads": [
            _node("Reshape", ["x", "split"], "a"),
            _node("Transpose", ["a"], "b", perm=[0, 1, 3, 2, 4]),
            _node("Reshape", ["b", "merged"], "y"),
        ],
        "shuffle": [_node("DepthToSpace", ["x"], "y", blocksize=2)],
        "rows": [_node("Flatten", ["x"], "a"), _node("Transpose", ["a"], "b"), _node("Reshape", ["b", "merged"], "y")],
    }
    constants = {"split": _ints(0, 0, -1, 4, 1), "merged": _ints(0, -1)}
    x = {"x": np.zeros((2, 8, 4, 4), np.float32)}
    cases = []
    for name, nodes in bodies.items():
        inner = {n: v for n, v in constants.items() if any(n in node.input for node in nodes)}
        cases.append(Case(name, tuple(nodes), x, ("y",), inner, shaped=False))
    write_source([case.fused() for case in cases], tmp_path / "p.c", "pieces")
    with (tmp_path / "p.c").open("a") as file:
        file.write(PIECES)
    flags = ["-shared", *(flag for flag in FLAGS if flag != "-fvisibility=hidden")]
    subprocess.run([*compiler, *flags, "p.c", "-o", "p.so", "-lm"], cwd=tmp_path, check=True)
    own = ctypes.CDLL(str(tmp_path / "p.so"))
    own.pieces_of.restype = ctypes.c_int64
    for index, case in enumerate(cases):
        assert own.pieces_of(index, 4, (ctypes.c_int64 * 4)(2, 64, 28, 28)) == 1, case.name


def test_more_boxes_than_a_plan_keeps(library: KernelLibrary) -> None:
    """Shapes that share no factor, transposed again and again: nearly every element is a box of its own."""
    case = CASES[1]
    for sizes in ((1021, 511), (613, 1009)):
        _check_views(library, case, [sizes] * len(case.feeds))
