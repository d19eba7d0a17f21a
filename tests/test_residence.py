"""Pieces and residence: what the roofline knows of shapes and of the order of operators."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from graphopt.graph import AttributeValue, Node, OperatorGraph, Shape, Tensor
from graphopt.operators import find
from graphopt.operators.pieces import pieces
from graphopt.residence import touches


def count(
    op_type: str,
    inputs: Sequence[Shape],
    output: Shape,
    constants: dict[int, list[int]] | None = None,
    **more: AttributeValue,
) -> int:
    names = tuple(f"x{i}" for i in range(len(inputs)))
    node = Node("n", "", op_type, 17, names, ("y",), more)
    values = {names[slot]: np.asarray(value) for slot, value in (constants or {}).items()}
    tensors = {name: Tensor(name, "float32", 1, name in values, values.get(name)) for name in (*names, "y")}
    row = find(node)
    assert row is not None
    return pieces(OperatorGraph("g", (node,), tensors, names, ("y",)), node, row, list(inputs), [output])


def brute_transpose(shape: Shape, perm: Sequence[int]) -> int:
    """Stretches by walking all elements: a new one begins where the operand is not read on."""
    order = np.arange(np.prod(shape)).reshape(shape).transpose(perm).ravel()
    starts = 1 + int(np.sum(np.diff(order) != 1))
    return starts


@pytest.mark.parametrize(
    ("shape", "perm"),
    [
        ((4, 5, 6), (1, 0, 2)),
        ((4, 5, 6), (0, 1, 2)),
        ((4, 1, 6), (1, 0, 2)),
        ((1, 3, 4, 5), (0, 2, 1, 3)),
        ((3, 4), (0, 1)),
    ],
)
def test_transposes_have_the_stretches_that_walking_finds(shape: Shape, perm: tuple[int, ...]) -> None:
    found = count("Transpose", [shape], tuple(shape[axis] for axis in perm), perm=perm)
    assert found == brute_transpose(shape, perm)


def test_a_transpose_of_the_last_axis_moves_single_elements() -> None:
    assert count("Transpose", [(8, 9)], (9, 8), perm=(1, 0)) == 72
    assert count("Transpose", [(8, 9)], (9, 8)) == 72


def test_copies_have_a_stretch_for_each_row() -> None:
    assert count("Concat", [(4, 6), (4, 2)], (4, 8), axis=1) == 8
    assert count("Concat", [(4, 6), (2, 6)], (6, 6), axis=0) == 2
    bounds: dict[int, list[int]] = {1: [0], 2: [3], 3: [1]}
    assert count("Slice", [(5, 7), (1,), (1,), (1,)], (5, 3), bounds) == 5
    steps = {1: [0], 2: [8], 3: [-1], 4: [2]}
    assert count("Slice", [(5, 8), (1,), (1,), (1,), (1,)], (5, 4), steps) == 20  # single elements
    rows = steps | {3: [0], 2: [6]}
    assert count("Slice", [(6, 8), (1,), (1,), (1,), (1,)], (3, 8), rows) == 3  # every second row


def test_element_wise_stretches_end_where_an_operand_repeats() -> None:
    assert count("Add", [(4, 8, 16), (4, 8, 16)], (4, 8, 16)) == 1
    assert count("Add", [(4, 8, 16), (16,)], (4, 8, 16)) == 32
    assert count("Add", [(4, 8, 16), (8, 1)], (4, 8, 16)) == 32
    assert count("Add", [(4, 8, 16), (8, 16)], (4, 8, 16)) == 4
    assert count("Add", [(4, 8, 16), ()], (4, 8, 16)) == 1


def test_rows_of_reductions_lookups_and_products() -> None:
    assert count("Softmax", [(4, 8, 16)], (4, 8, 16), axis=-1) == 32
    assert count("ReduceMean", [(4, 8, 16)], (4, 8, 1), axes=(-1,)) == 32
    assert count("LayerNormalization", [(4, 8, 16), (16,)], (4, 8, 16), axis=-1) == 32
    assert count("Gather", [(100, 16), (5, 2)], (5, 2, 16)) == 10
    assert count("MatMul", [(4, 8), (8, 3)], (4, 3)) == 12
    assert count("Relu", [(0, 8)], (0, 8)) == 0


def chain(*names: str) -> OperatorGraph:
    nodes = tuple(Node(f"n{i}", "", "Relu", 17, (a,), (b,), {}) for i, (a, b) in enumerate(pairwise(names)))
    tensors = {name: Tensor(name, "float32", 1) for name in names}
    return OperatorGraph("g", nodes, tensors, (names[0],), (names[-1],))


def test_what_was_just_written_is_near_and_what_the_caller_gave_is_far() -> None:
    graph = chain("x", "a", "b", "y")
    found = touches(graph, lambda _: 100, [False] * 3, [False] * 3)
    assert [touch.distance for touch in found[0].reads] == [400]  # as far as everything that an execution touches
    assert [touch.distance for touch in found[1].reads] == [100]  # a, written a moment ago
    assert [touch.distance for touch in found[2].reads] == [100]


def test_results_take_the_place_of_what_nobody_needs() -> None:
    graph = chain("x", "a", "b", "c", "y")
    apart = touches(graph, lambda _: 100, [False] * 4, [False] * 4)
    # c takes the memory of a, which was read one operator ago: b was written since
    assert [touch.distance for touch in apart[2].writes] == [200]
    over = touches(graph, lambda _: 100, [True] * 4, [False] * 4)
    assert [touch.distance for touch in over[1].writes] == [100]  # b stands where a stood


def test_another_name_for_the_same_memory_touches_nothing() -> None:
    graph = chain("x", "a", "b", "y")
    found = touches(graph, lambda _: 100, [False] * 3, [False, True, False])
    assert [touch.distance for touch in found[2].reads] == [100]
    assert found[2].reads[0].name == "b"
