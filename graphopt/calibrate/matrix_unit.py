"""The matrix unit's peak: a kernel of our own that only multiplies tiles."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import helper

from graphopt import kernels
from graphopt.calibrate.timing import Array, model_of
from graphopt.graph import Node, OperatorGraph, Tensor
from graphopt.kernels.emit import support
from graphopt.operators.plan_numbers import PLAN

KEY = "matrix_unit"
"""The kernel rate: operations of float32 products, each of which is six products of bfloat16 parts."""
NAME = "UnitPeak"
"""The fused operator."""
ROUNDS, TILES = 256, 4
"""Rounds of a call at least, tiles of float32 products in a round (``c/unit_peak.h``)."""
SET_BYTES = 2 * PLAN.parts * PLAN.unit_rows * PLAN.unit_depth * 2
"""Of the left parts of a round: two tiles."""


def operations(sets: int) -> float:
    """Of one call, by the sets of left parts that it reads."""
    return 2.0 * max(ROUNDS, sets) * TILES * PLAN.unit_rows**2 * PLAN.unit_depth


def operand(sets: int) -> dict[str, Array]:
    """What holds so many sets of left parts, and room to align them; one stays in the first-level cache."""
    return {"x0": np.zeros((1, sets * SET_BYTES // 4 + 16), np.float32)}


def model(feeds: Mapping[str, Array]) -> bytes:
    """One call."""
    return model_of([helper.make_node(NAME, ["x0"], ["y"], domain="graphopt.fused")], feeds, {}, ["y"])


def library(folder: Path) -> Path:
    """The kernel, in a library of its own.

    Raises:
        GraphoptError: the compiler does not know the unit.
    """
    node = Node("peak", "", "Neg", 13, ("x0",), ("y",), {})
    tensors = {name: Tensor(name, "float32", 2) for name in ("x0", "y")}
    body = OperatorGraph("body", (node,), tensors, ("x0",), ("y",))
    source = support("unit_peak.h")
    return kernels.build_library([kernels.FusedOperator(NAME, body, source=source)], folder, "matrix_unit")
