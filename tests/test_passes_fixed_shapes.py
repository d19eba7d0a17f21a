"""Shapes of fused operators' results are declared where nothing but the model decides them, and only there."""

import onnx
import pytest
from onnx import TensorProto, helper

from graphopt import models
from graphopt.graph import Capture
from graphopt.passes.extract import extract
from graphopt.passes.fixed_shapes import fixed_tensors
from graphopt.passes.rewrite import rewrite


def _model(inputs: dict[str, tuple[int, list[int | str]]], nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _declared(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], fused: set[str]) -> dict[str, list[int]]:
    seen = models.observe(model, shapes)
    chosen = [index for index, node in enumerate(seen.graph.nodes) if node.outputs[0] in fused]
    capture = Capture(seen.graph, seen.shapes)
    changed = rewrite(model, seen.graph, [extract(seen.graph, chosen)], capture=capture)
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in changed.graph.value_info}


CHAIN = [
    helper.make_node("Softmax", ["x"], ["s"]),
    helper.make_node("Add", ["s", "s"], ["a"]),
    helper.make_node("Mul", ["a", "s"], ["m"]),
    helper.make_node("Softmax", ["m"], ["y"]),
]


def test_fixed_inputs_fix_all_shapes() -> None:
    model = _model({"x": (TensorProto.FLOAT, [2, 5])}, CHAIN)
    assert _declared(model, {"x": (2, 5)}, {"a", "m"}) == {"s": [2, 5], "m": [2, 5]}


def test_a_free_input_fixes_none() -> None:
    model = _model({"x": (TensorProto.FLOAT, ["batch", 5])}, CHAIN)
    assert _declared(model, {"x": (2, 5)}, {"a", "m"}) == {}


@pytest.mark.parametrize("through_shape", [True, False])
def test_values_that_decide_sizes(through_shape: bool) -> None:
    """A size that is read off a shape is fixed; one that stands in an input is not, nor is what follows from it."""
    source = helper.make_node("Shape" if through_shape else "Identity", ["t"], ["size"])
    nodes = [source, helper.make_node("Expand", ["x", "size"], ["e"]), helper.make_node("Relu", ["e"], ["y"])]
    shape: list[int | str] = [3, 4]
    inputs = {"x": (TensorProto.FLOAT, [1]), "t": (TensorProto.INT64, shape if through_shape else [2])}
    fixed = fixed_tensors(models.to_graph(_model(inputs, nodes), "model"))
    assert ("e" in fixed, "y" in fixed) == (through_shape, through_shape)


def test_unknown_sizes_stay_unknown() -> None:
    """NonZero finds as many elements as its operand's values say."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["f"], ["y"]),
    ]
    graph = models.to_graph(_model({"x": (TensorProto.FLOAT, [4])}, nodes), "model")
    assert fixed_tensors(graph) == frozenset()
