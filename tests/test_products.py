"""What operators work through besides their operations, and their regimes: by hand and by counting."""

from dataclasses import replace
from itertools import product as indices

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.graph import AttributeValue, Node, OperatorGraph, Shape, Tensor
from graphopt.operators import find
from graphopt.operators.pieces import counts, regimes
from graphopt.operators.products import product_counts
from graphopt.operators.sums import sums

NCHWC = "com.microsoft.nchwc"


def node(operator: str, **attributes: AttributeValue) -> Node:
    domain, _, op_type = operator.rpartition(".")
    return Node("n", domain, op_type, 17, ("x0", "x1"), ("y",), attributes)


def seen_by(function: object, one: Node, inputs: list[Shape], result: Shape, dtype: str = "float32") -> object:
    tensors = {name: Tensor(name, dtype, None, name == "x1") for name in ("x0", "x1", "y")}
    row = find(one)
    assert row is not None
    assert callable(function)
    return function(OperatorGraph("g", (one,), tensors, ("x0", "x1"), ("y",)), one, row, inputs, [result])


@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 9), st.integers(1, 70), st.booleans())
def test_matrix_products_count_what_their_loops_count(
    heads: int, rows: int, depth: int, columns: int, computed: bool
) -> None:
    right = (heads, depth, columns) if computed else (depth, columns)
    found = product_counts(node("MatMul"), [(heads, rows, depth), right], (heads, rows, columns))
    idle = sum(1 for _ in indices(range(heads), range(rows), range(depth), range(columns, -(-columns // 16) * 16)))
    matrices = heads - 1 if computed else 0
    assert found == {
        "": heads * rows * columns,
        "weights": np.prod(right),
        "far": 0,
        "matrices": matrices,
        "lanes": idle,
    }


def test_a_transposed_left_operand_has_its_depth_first() -> None:
    found = product_counts(node("Gemm", transA=1), [(9, 4), (9, 20)], (4, 20))
    assert found["lanes"] == 4 * 9 * 12
    assert product_counts(node("Gemm"), [(1, 600), (600, 500)], (1, 500))["far"] == 300_000


def test_convolutions_count_by_their_layout() -> None:
    plain = product_counts(node("Conv", group=2), [(3, 8, 5, 5), (6, 4, 3, 3)], (3, 6, 5, 5))
    assert plain == {
        "": 3 * 6 * 25,
        "activations": 0,
        "weights": 3 * 2 * 36 * 25,  # unfolded images
        "matrices": 5,
        "lanes": 3 * 6 * 36 * 7,
    }
    one = node(f"{NCHWC}.Conv", activation="HardSwish")
    blocked = product_counts(one, [(2, 32, 7, 9), (80, 32, 3, 3)], (2, 80, 7, 9))
    assert blocked == {
        "": 2 * 80 * 63,
        "activations": 2 * 80 * 63,
        "rows": 2 * 7 * 5 * 2,
        "sets": 2 * 63 * 288 * 2,
        "weights": 2 * 80 * 288,
    }
    assert product_counts(node("ConvTranspose"), [(1, 8, 5, 5), (8, 4, 2, 2)], (1, 4, 10, 10)) == {"": 400}


@pytest.mark.parametrize(
    ("one", "inputs", "result", "dtype", "expected"),
    [
        (node("MatMul"), [(1, 8), (8, 9)], (1, 9), "float32", ("row",)),
        (node("MatMul"), [(2, 8), (8, 9)], (2, 9), "float32", ()),
        (node("Conv"), [(1, 8, 5, 5), (4, 8, 1, 1)], (1, 4, 5, 5), "float32", ("pointwise",)),
        (node("Conv", group=8, strides=(2, 2)), [(1, 8, 5, 5), (8, 1, 3, 3)], (1, 8, 2, 2), "float32", ("strided",)),
        (node("Conv", group=8, strides=(1, 1)), [(1, 8, 5, 5), (8, 1, 3, 3)], (1, 8, 3, 3), "float32", ()),
        (node("Transpose", perm=(1, 0)), [(9, 128)], (128, 9), "float32", ("aliased", "elements")),
        (node("Transpose", perm=(1, 0)), [(9, 3)], (3, 9), "float32", ("narrow", "elements")),
        (node("Transpose", perm=(1, 0)), [(9, 100)], (100, 9), "float32", ("elements",)),
        (node("Transpose", perm=(0, 2, 1, 3)), [(2, 3, 4, 5)], (2, 4, 3, 5), "float32", ("axis",)),
        (node("Transpose", perm=(1, 0, 3, 2, 4)), [(2, 3, 4, 5, 6)], (3, 2, 5, 4, 6), "float32", ()),
        (node(f"{NCHWC}.ReorderOutput"), [(1, 16, 4, 4)], (1, 16, 4, 4), "float32", ()),
        (node(f"{NCHWC}.ReorderOutput"), [(1, 16, 5, 5)], (1, 16, 5, 5), "float32", ("uneven",)),
        (node(f"{NCHWC}.ReorderOutput", channels_last=1), [(1, 16, 5, 5)], (1, 5, 5, 16), "float32", ("last",)),
        (node("Gather", axis=1), [(4, 90), (30,)], (4, 30), "float32", ("elements",)),
        (replace(node("Gather"), inputs=("x0", "x0")), [(90, 1), (4, 30)], (4, 30, 1), "float32", ()),
        (node("Add"), [(4, 4), (4, 4)], (4, 4), "int64", ("wide",)),
        (node("Add"), [(4, 4), (4, 4)], (4, 4), "float32", ()),
    ],
)
def test_regimes(one: Node, inputs: list[Shape], result: Shape, dtype: str, expected: tuple[str, ...]) -> None:
    assert seen_by(regimes, one, inputs, result, dtype) == expected


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_kernels_walk_sums_as_three_loops(shape: list[int], data: st.DataObject) -> None:
    """Reshaped to outer x depth x width, the middle is what is summed."""
    first = data.draw(st.integers(0, len(shape) - 1))
    last = data.draw(st.integers(first, len(shape) - 1))
    axes = tuple(range(first, last + 1))
    keeps = data.draw(st.booleans())
    x = np.arange(float(np.prod(shape))).reshape(shape) ** 2
    result = x.sum(axis=axes, keepdims=keeps)
    one = node("ReduceSum", axes=axes, keepdims=int(keeps))
    graph = OperatorGraph("g", (one,), {}, ("x0",), ("y",))
    found = sums(graph, one, tuple(shape), result.shape)
    assert (found is None) == (result.size == x.size)
    if found is not None:
        assert (x.reshape(found.outer, found.depth, found.width).sum(1).ravel() == result.ravel()).all()
        blocks = sum(-(-found.depth // 64) for _ in range(found.outer))  # no row has 1,024 columns
        assert found.counts[""] == (blocks if found.width > 1 else result.size)


@pytest.mark.parametrize(
    ("shapes", "result", "stretches"),
    [
        ([(1, 600, 1, 1), (1,)], (1, 600, 1, 1), 600),  # an axis of one ends the stretch
        ([(1, 600, 1, 1), ()], (1, 600, 1, 1), 600),
        ([(1, 600, 1, 1), (1, 1, 1, 1)], (1, 600, 1, 1), 1),
        ([(1, 600, 1, 7), (1,)], (1, 600, 1, 7), 1),
        ([(4, 1), (4, 1)], (4, 1), 1),
        ([(2, 3, 5), (3, 1)], (2, 3, 5), 6),
    ],
)
def test_stretches_end_where_onnxruntime_ends_them(shapes: list[Shape], result: Shape, stretches: int) -> None:
    found = seen_by(counts, node("Add"), shapes, result)
    assert isinstance(found, dict)
    assert found[""] == stretches


def test_products_of_integers_count_what_is_scaled_and_are_told_apart_by_sign() -> None:
    operands = ("x0", "s", "z", "x1", "s", "z", "s", "z")
    one = replace(node("QLinearMatMul"), inputs=operands)
    shapes: list[Shape] = [(6, 8), (), (), (8, 9), (), (), (), ()]
    assert product_counts(one, shapes, (6, 9))["scaled"] == 54
    assert product_counts(one, shapes, (6, 9))["weights"] == 72
    assert product_counts(node("ConvInteger"), [(2, 4, 5, 5), (6, 4, 3, 3)], (2, 6, 5, 5)) == {
        "": 300,
        "scaled": 0,
        "weights": 2 * 36 * 25,
    }
    assert seen_by(regimes, one, shapes, (6, 9), "uint8") == ("unsigned",)
    assert seen_by(regimes, one, shapes, (6, 9), "int8") == ()


def test_other_operators_count_what_slows_them() -> None:
    assert seen_by(counts, node("Add"), [(4, 6), (6,)], (4, 6)) == {"": 4, "repeated": 24}
    assert seen_by(counts, node("Add"), [(4, 6), (4, 6)], (4, 6)) == {"": 1, "repeated": 0}
    assert seen_by(counts, node("Concat", axis=1), [(4, 6), (4, 2)], (4, 8)) == {"": 8, "operands": 2}
    assert seen_by(counts, node("Softmax", axis=-1), [(5, 20)], (5, 20)) == {"": 5, "ragged": 5, "long": 0}
    assert seen_by(counts, node("Softmax", axis=-1), [(5, 32)], (5, 32)) == {"": 5, "ragged": 0, "long": 0}
    assert seen_by(counts, node("Softmax", axis=-1), [(5, 65)], (5, 65)) == {"": 5, "ragged": 5, "long": 5}
    reorder = node(f"{NCHWC}.ReorderInput")
    assert seen_by(counts, reorder, [(1, 24, 3, 3)], (1, 32, 3, 3)) == {"": 0, "partial": 9 * 16}
    assert seen_by(counts, reorder, [(1, 32, 3, 3)], (1, 32, 3, 3)) == {"": 0, "partial": 0}
