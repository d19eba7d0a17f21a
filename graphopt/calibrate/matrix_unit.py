"""The matrix unit's peak: a kernel of our own that only multiplies tiles which the first-level cache holds."""

from pathlib import Path

from graphopt import kernels
from graphopt.graph import Node, OperatorGraph, Tensor
from graphopt.kernels.emit import support

KEY = "matrix_unit"
"""The kernel rate: operations of float32 products, each of which is six products of bfloat16 parts."""
NAME = "UnitPeak"
"""The fused operator: (4, 4) float32 to as many, without meaning."""
ROUNDS, TILES = 256, 4
"""Rounds of a call, and tiles of products of float32 in a round (``c/unit_peak.h``)."""
OPERATIONS = 2.0 * ROUNDS * TILES * 16 * 16 * 32
"""Of one call."""


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
