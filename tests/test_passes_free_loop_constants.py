"""States of loops that stay the same are read from outside, and no number changes."""

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.model_files import every_graph
from graphopt.passes.base import Context
from graphopt.passes.free_loop_constants import FreeLoopConstants
from graphopt.runtime.session import open_session
from tests import random_bodies


def states_that_stay(model: onnx.ModelProto) -> int:
    """States of Loop and Scan that their bodies hand on by name."""
    found = 0
    for graph in every_graph(model.graph):
        for node in graph.node:
            if node.op_type in ("Loop", "Scan"):
                body = next(a.g for a in node.attribute if a.name == "body")
                first = (2, 1) if node.op_type == "Loop" else (0, 0)
                states = len(body.input) - (2 if node.op_type == "Loop" else 1)
                same = sum(body.input[first[0] + i].name == body.output[first[1] + i].name for i in range(states))
                found += same if len(node.output) > same else same - 1
    return found


def outputs(model: onnx.ModelProto, condition: bool, trips: int) -> list[np.ndarray]:
    session = open_session(model, optimization="none")
    return list(session.run(None, random_bodies.feeds(condition, trips)))


@given(random_bodies.models(), st.booleans(), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_no_number_changes(model: onnx.ModelProto, condition: bool, trips: int) -> None:
    result = FreeLoopConstants().run(model, Context())
    onnx.checker.check_model(result.model, full_check=True)
    assert states_that_stay(result.model) <= 0
    assert result.modified == (result.model is not model)
    for before, after in zip(outputs(model, condition, trips), outputs(result.model, condition, trips), strict=True):
        np.testing.assert_array_equal(before, after)


def loop(carried: list[str], nodes: list[onnx.NodeProto], results: list[str], trips: int = 2) -> onnx.ModelProto:
    """A Loop over states s and w; w starts as the constant w0."""
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("s", "w")]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), *nodes],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            *floats,
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in carried),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x", "w0"], ["y", "v"], body=body)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in results],
        [
            numpy_helper.from_array(np.array(trips), "n"),
            numpy_helper.from_array(np.array([[1, 2], [3, 4]], np.float32), "w0"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_weights_become_constants_of_the_body() -> None:
    model = loop(["t", "w"], [helper.make_node("MatMul", ["s", "w"], ["t"])], ["y", "v"])
    result = FreeLoopConstants().run(model, Context())
    (found, unchanged) = result.model.graph.node
    body = found.attribute[0].g
    assert list(found.input) == ["n", "", "x"] and list(found.output) == ["y"]
    assert [list(node.input) for node in body.node if node.op_type == "MatMul"] == [["s", "w0"]]
    assert (unchanged.op_type, list(unchanged.input), list(unchanged.output)) == ("Identity", ["w0"], ["v"])
    x = np.eye(2, dtype=np.float32)
    before, after = (open_session(m, optimization="none").run(None, {"x": x}) for m in (model, result.model))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_states_that_change_places_stay() -> None:
    model = loop(["w", "s"], [], ["y", "v"])
    result = FreeLoopConstants().run(model, Context())
    assert not result.modified and result.model is model


def test_a_name_that_the_body_gives_to_something_else_is_not_read() -> None:
    nodes = [helper.make_node("Neg", ["s"], ["w0"]), helper.make_node("Add", ["w0", "w"], ["t"])]
    assert not FreeLoopConstants().run(loop(["t", "w"], nodes, ["y"]), Context()).modified
