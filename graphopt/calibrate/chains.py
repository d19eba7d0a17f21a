"""The price of a node and of a kernel: chains of small operators, in caches that something else has filled."""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from graphopt import kernels
from graphopt.calibrate.cases import f32
from graphopt.calibrate.timing import model_of
from graphopt.graph import Node, OperatorGraph, Tensor

LENGTH = 56
"""Nodes of a chain."""

TOGETHER = 12
"""Kernels that are compiled as one."""

DIFFERENT = 14
"""Kernels in a chain of kernels, which call each other in turn."""

FEEDS = {"x0": f32(4, 4)}
_CONSTANTS = {
    "zero": np.asarray([0], np.int64),
    "one": np.asarray([1], np.int64),
    "four": np.asarray([4], np.int64),
    "sizes": np.asarray([4, 4], np.int64),
    "back": np.asarray([3, 2, 1, 0], np.int64),
    "row": f32(4),
}
_MIXED: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...] = (
    ("Add", ("row",), {}),
    ("Transpose", (), {"perm": [1, 0]}),
    ("Slice", ("zero", "four", "one"), {}),
    ("Softmax", (), {"axis": -1}),
    ("Unsqueeze", ("zero",), {}),
    ("Squeeze", ("zero",), {}),
    ("Gather", ("back",), {}),
    ("Concat", (), {"axis": 0}),
    ("Reshape", ("sizes",), {}),
    ("Relu", (), {}),
    ("Mul", ("row",), {}),
    ("Sigmoid", (), {}),
    ("Div", ("row",), {}),
    ("Max", ("row",), {}),
)


def chain_of_nodes() -> bytes:
    """A model of LENGTH nodes of many kinds that hand 16 elements on."""
    rows = (LENGTH // len(_MIXED)) * _MIXED
    nodes = [
        helper.make_node(op_type, [f"x{i}", *constants], [f"x{i + 1}"], **attributes)
        for i, (op_type, constants, attributes) in enumerate(rows)
    ]
    return model_of(nodes, FEEDS, _CONSTANTS, [f"x{LENGTH}"])


def chain_of_kernels() -> bytes:
    """A model of LENGTH calls of generated kernels (see ``links``)."""
    nodes = [
        helper.make_node(f"Chain{i % DIFFERENT}", [f"x{i}", "row"], [f"x{i + 1}"], domain="graphopt.fused")
        for i in range(LENGTH)
    ]
    return model_of(nodes, FEEDS, _CONSTANTS, [f"x{LENGTH}"])


def links() -> list[kernels.FusedOperator]:
    """The kernels of the chain: an addition, some negations, a Relu."""
    found = []
    for count in range(DIFFERENT):
        nodes = (
            Node("a", "", "Add", 17, ("x", "z"), ("t0",), {}),
            *(Node(f"r{i}", "", "Neg", 17, (f"t{i}",), (f"t{i + 1}",), {}) for i in range(count)),
            Node("b", "", "Relu", 17, (f"t{count}",), ("y",), {}),
        )
        names = dict.fromkeys(name for node in nodes for name in (*node.inputs, *node.outputs))
        tensors = {name: Tensor(name, "float32", 1 if name == "z" else 2) for name in names}
        graph = OperatorGraph("body", nodes, tensors, ("x", "z"), ("y",))
        found.append(kernels.FusedOperator(f"Chain{count}", graph))
    return found


def library(fused: list[kernels.FusedOperator], folder: Path) -> Path:
    """One kernel library of everything that is timed."""
    return kernels.build_library(fused, folder, "calibrate", together=TOGETHER)
