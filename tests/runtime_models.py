"""Small models for the tests of the runtimes, and a kernel library that answers otherwise than the function bodies."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from graphopt import kernels, models

OPSETS = [
    helper.make_opsetid("", 17),
    helper.make_opsetid("graphopt.fused", 1),
    helper.make_opsetid("com.microsoft", 1),
]
FLOAT = TensorProto.FLOAT


def tensor(name: str, dims: tuple[int | str, ...] | None = ("N", "M"), kind: int = FLOAT) -> onnx.ValueInfoProto:
    """A graph input or output."""
    return helper.make_tensor_value_info(name, kind, dims)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    *,
    weights: dict[str, np.ndarray] | None = None,
    functions: list[onnx.FunctionProto] | None = None,
    metadata: dict[str, str] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of these nodes."""
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "small", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", opset), *OPSETS[1:]]
    made = helper.make_model(graph, opset_imports=opsets, functions=functions or [], ir_version=9)
    helper.set_model_props(made, metadata or {})
    return made


def fused_function(name: str = "AddMul") -> onnx.FunctionProto:
    """The local function (a + b) * b."""
    body = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Mul", ["s", "b"], ["y"])]
    return helper.make_function("graphopt.fused", name, ["a", "b"], ["y"], body, OPSETS[:1])


def fused_model(metadata: dict[str, str] | None = None) -> onnx.ModelProto:
    """relu(AddMul(x, w)) with a fused operator."""
    nodes = [
        helper.make_node("AddMul", ["x", "w"], ["t"], name="fused", domain="graphopt.fused"),
        helper.make_node("Relu", ["t"], ["y"], name="relu"),
    ]
    weights = {"w": np.array([1.0, -2.0, 3.0], np.float32)}
    return model(
        nodes,
        [tensor("x", ("N", 3))],
        [tensor("y", ("N", 3))],
        weights=weights,
        functions=[fused_function()],
        metadata=metadata,
    )


def other_library(folder: Path, name: str = "fused") -> Path:
    """A kernel library whose AddMul is (a + b) - b, so that its answers can be told from the function body's."""
    body = model(
        [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Sub", ["s", "b"], ["y"])],
        [tensor("a"), tensor("b", ("K",))],
        [tensor("y")],
    )
    operator = kernels.FusedOperator("AddMul", models.to_graph(body, "AddMul"))
    return kernels.build_library([operator], folder, name)
