"""Attention: products, softmax and products of one block of rows after the other, against operators one by one."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from graphopt.kernels import find_compiler
from graphopt.kernels.compile import Level
from graphopt.kernels.emit import schedules_of
from graphopt.kernels.lower import lower
from tests import fuzzing
from tests.kernel_checks import Array, Case, random_values
from tests.test_kernels_fuzzing import LEVELS, QUICK

COMPILER = find_compiler()
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")

COUNTER = """
int attention_units(int index, const int64_t *shapes);
/* Units of the joined step in the plan of a kernel without structural inputs; 0 without such a step. */
__attribute__((visibility("default"))) int attention_units(int index, const int64_t *shapes)
{
    shape in[MAX_INPUTS];
    int units = 0;
    for (int i = 0; i < KERNELS[index]->inputs; i++) {
        in[i].rank = (int)*shapes++;
        for (int d = 0; d < in[i].rank; d++)
            in[i].size[d] = *shapes++;
    }
    plan *p = new_plan(KERNELS[index], in, NULL, NULL, NULL);
    for (int i = 0; i < p->steps; i++)
        units += p->step[i].run == run_attention ? (int)p->step[i].units : 0;
    free_plan(p);
    return units;
}
"""


def _attention(
    name: str, batch: int, heads: int, rows: int, columns: int, depth: int, mask: Array | None = None, seed: int = 0
) -> Case:
    """As it is exported: heads are cut out of projections, and put beside each other again."""
    node = helper.make_node
    feeds = {
        operand: random_values((batch, length, heads * depth), "float32", seed + slot)
        for slot, (operand, length) in enumerate((("q", rows), ("k", columns), ("v", columns)))
    }
    nodes, constants = [], {"scale": np.array(0.3, np.float32), "joined": np.array([batch, rows, heads * depth])}
    for operand, order in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
        constants[f"shape_{operand}"] = np.array([batch, feeds[operand].shape[1], heads, depth])
        nodes += [
            node("Reshape", [operand, f"shape_{operand}"], [f"cut_{operand}"]),
            node("Transpose", [f"cut_{operand}"], [f"heads_{operand}"], perm=list(order)),
        ]
    nodes += [node("MatMul", ["heads_q", "heads_k"], ["products"]), node("Mul", ["products", "scale"], ["scores"])]
    if mask is not None:
        feeds["mask"] = mask
        nodes.append(node("Add", ["scores", "mask"], ["masked"]))
    nodes += [
        node("Softmax", ["scores" if mask is None else "masked"], ["weights"], axis=-1),
        node("MatMul", ["weights", "heads_v"], ["sums"]),
        node("Transpose", ["sums"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "joined"], ["y"]),
    ]
    return Case(name, tuple(nodes), feeds, ("y",), constants)


def _bare(name: str, batch: int, rows: int, columns: int, depth: int) -> Case:
    """Only the two products and the softmax, so that any size may be none."""
    node = helper.make_node
    nodes = (
        node("MatMul", ["q", "k"], ["products"]),
        node("Softmax", ["products"], ["weights"], axis=-1),
        node("MatMul", ["weights", "v"], ["y"]),
    )
    sizes = {"q": (batch, rows, depth), "k": (batch, depth, columns), "v": (batch, columns, depth)}
    return Case(name, nodes, {name: random_values(size, "float32", 3) for name, size in sizes.items()}, ("y",))


def _causal(rows: int) -> Array:
    return np.triu(np.full((rows, rows), -np.inf, np.float32), 1)


def _padded(batch: int, columns: int, seen: Sequence[int]) -> Array:
    mask = np.zeros((batch, 1, 1, columns), np.float32)
    for number, length in enumerate(seen):
        mask[number, ..., length:] = -np.inf
    return mask


def _with_nan(case: Case) -> Case:
    case.feeds["k"][0, 1, 2] = np.nan
    case.feeds["v"][-1, 0, 0] = np.inf
    return case


CASES = [
    (_attention("plain", 2, 3, 37, 37, 16), 6),
    (_attention("causal", 1, 4, 50, 50, 8, _causal(50)), 4),
    (_attention("masked_out", 3, 2, 17, 23, 12, _padded(3, 23, (23, 5, 0))), 6),
    (_attention("biased", 4, 2, 49, 49, 32, random_values((1, 2, 49, 49), "float32", 9)), 8),
    (_attention("large", 1, 2, 420, 420, 5), 6),
    (_with_nan(_attention("special", 2, 2, 19, 33, 7)), 4),
    (_attention("one_row", 2, 3, 1, 40, 16), 6),
    (_attention("one_column", 2, 2, 3, 1, 1), 0),
    (_bare("no_batch", 0, 5, 6, 4), 0),
    (_bare("no_rows", 2, 0, 6, 4), 0),
    (_bare("no_columns", 2, 5, 0, 4), 0),
    (_bare("no_depth", 2, 5, 6, 0), 0),
]
"""Each with the units of its joined step; 0 where the steps stay apart."""


@pytest.mark.parametrize("level", LEVELS, ids=[level.name for level in LEVELS])
def test_blocks_of_rows_give_what_operators_give(level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN, infinities and rows that are masked out, too; at other shapes, and whatever the order of the blocks."""
    monkeypatch.setattr(fuzzing, "DRIVER", fuzzing.DRIVER + COUNTER)
    cases = [case for case, _ in CASES]
    library = fuzzing.build(cases, tmp_path, [*QUICK, *level.flags])
    loaded = ctypes.CDLL(os.fspath(library))
    for index, (case, units) in enumerate(CASES):
        flat = [size for value in case.feeds.values() for size in (value.ndim, *value.shape)]
        found = loaded.attention_units(index, (ctypes.c_int64 * len(flat))(*flat))
        assert found == units, case.name
    fuzzing.check_all(library, cases)


def test_products_that_others_read_stay_in_memory() -> None:
    case = _attention("plain", 2, 3, 37, 37, 16)
    for outputs, joined in ((("y",), 1), (("y", "weights"), 0)):
        fused = Case(case.name, case.nodes, case.feeds, outputs, case.constants).fused()
        fitted = schedules_of(lower(fused.name, fused.body, fused.shapes))[0]
        assert len(fitted.attentions) == joined
