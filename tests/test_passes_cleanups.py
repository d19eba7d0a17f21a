"""The clean-up passes: what goes, what stays, and that no number changes."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.passes.base import Context
from graphopt.passes.drop_initializer_inputs import DropInitializerInputs
from graphopt.passes.remove_dead_nodes import RemoveDeadNodes
from graphopt.passes.remove_no_ops import RemoveNoOps
from graphopt.runtime.session import open_session

SPECIAL = np.array(
    [[0.0, -0.0, 1.5, -2.5], [np.nan, np.inf, -np.inf, 1e-42]],
    np.float32,
)


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any] | None = None,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    out_dtype: int | None = None,
) -> onnx.ModelProto:
    """A model with input x of shape [2, 4]."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, [2, 4])],
        [helper.make_tensor_value_info(name, out_dtype or dtype, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(","), outputs.split(","), **attributes)


def run(found: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    return list(open_session(found, optimization="none").run(None, {"x": x}))


def op_types(found: onnx.ModelProto) -> list[str]:
    return [entry.op_type for entry in found.graph.node]


F = np.float32
GONE: dict[str, tuple[onnx.NodeProto, dict[str, Any]]] = {
    "identity": (node("Identity", "a", "b"), {}),
    "dropout": (node("Dropout", "a", "b"), {}),
    "dropout with ratio": (node("Dropout", "a,r", "b"), {"r": F(0.5)}),
    "dropout not training": (node("Dropout", "a,r,t", "b"), {"r": F(0.5), "t": np.bool_(False)}),
    "cast": (node("Cast", "a", "b", to=TensorProto.FLOAT), {}),
    "reshape": (node("Reshape", "a,s", "b"), {"s": np.array([2, 4])}),
    "reshape with -1": (node("Reshape", "a,s", "b"), {"s": np.array([0, -1])}),
    "transpose": (node("Transpose", "a", "b", perm=[0, 1]), {}),
    "expand": (node("Expand", "a,s", "b"), {"s": np.array([1])}),
    "slice": (node("Slice", "a,s,e", "b"), {"s": np.array([0]), "e": np.array([2**31])}),
    "pad": (node("Pad", "a,p", "b"), {"p": np.array([0, 0, 0, 0])}),
    "concat of one": (node("Concat", "a", "b", axis=0), {}),
    "sum of one": (node("Sum", "a", "b"), {}),
    "mul one": (node("Mul", "a,c", "b"), {"c": F(1)}),
    "mul one first": (node("Mul", "c,a", "b"), {"c": F([[1]])}),
    "div one": (node("Div", "a,c", "b"), {"c": F([1])}),
    "sub zero": (node("Sub", "a,c", "b"), {"c": F(0)}),
    "add minus zero": (node("Add", "a,c", "b"), {"c": F(-0.0)}),
}
KEPT: dict[str, tuple[onnx.NodeProto, dict[str, Any]]] = {
    "dropout training": (node("Dropout", "a,r,t", "b"), {"r": F(0.0), "t": np.bool_(True)}),
    "cast to another type and back": (node("Cast", "a", "b", to=TensorProto.FLOAT16), {}),
    "reshape": (node("Reshape", "a,s", "b"), {"s": np.array([4, 2])}),
    "transpose": (node("Transpose", "a", "b", perm=[1, 0]), {}),
    "transpose by default": (node("Transpose", "a", "b"), {}),
    "expand": (node("Expand", "a,s", "b"), {"s": np.array([3, 1, 1])}),
    "slice": (node("Slice", "a,s,e", "b"), {"s": np.array([0]), "e": np.array([1])}),
    "slice backwards": (
        node("Slice", "a,s,e,n,t", "b"),
        {"s": np.array([-1]), "e": np.array([-9]), "n": np.array([0]), "t": np.array([-1])},
    ),
    "pad": (node("Pad", "a,p", "b"), {"p": np.array([0, 0, 0, 1])}),
    "mul one that broadcasts": (node("Mul", "a,c", "b"), {"c": np.ones((3, 1, 1), F)}),
    "mul one of higher rank": (node("Mul", "a,c", "b"), {"c": np.ones((1, 1, 1), F)}),
    "one divided": (node("Div", "c,a", "b"), {"c": F(1)}),
    "zero minus": (node("Sub", "c,a", "b"), {"c": F(0)}),
    "add zero: -0 + 0 is 0": (node("Add", "a,c", "b"), {"c": F(0)}),
    "sub minus zero": (node("Sub", "a,c", "b"), {"c": F(-0.0)}),
}


@pytest.mark.parametrize("case", GONE)
def test_no_ops_go(case: str) -> None:
    middle, constants = GONE[case]
    before = model([node("Neg", "x", "a"), middle, node("Abs", "b", "y")], constants)
    result = RemoveNoOps().run(before, Context())
    assert result.modified and result.notes
    assert op_types(result.model) == ["Neg", "Abs"]
    assert not result.model.graph.initializer
    for left, right in zip(run(before, SPECIAL), run(result.model, SPECIAL), strict=True):
        np.testing.assert_array_equal(left.view(np.int32), right.view(np.int32))


@pytest.mark.parametrize("case", GONE)
def test_no_ops_at_the_end_go_and_outputs_keep_their_names(case: str) -> None:
    middle, constants = GONE[case]
    last = onnx.NodeProto()
    last.CopyFrom(middle)
    last.output[0] = "y"
    before = model([node("Neg", "x", "a"), last], constants)
    after = RemoveNoOps().run(before, Context()).model
    assert op_types(after) == ["Neg"]
    assert [value.name for value in after.graph.output] == ["y"]
    for left, right in zip(run(before, SPECIAL), run(after, SPECIAL), strict=True):
        np.testing.assert_array_equal(left.view(np.int32), right.view(np.int32))


@pytest.mark.parametrize("case", KEPT)
def test_what_does_something_stays(case: str) -> None:
    middle, constants = KEPT[case]
    nodes = [node("Neg", "x", "a"), middle, node("Identity", "b", "y")]
    half = TensorProto.FLOAT16 if "another type" in case else None
    before = model(nodes, constants, out_dtype=half)
    after = RemoveNoOps().run(before, Context()).model
    assert op_types(after) == ["Neg", middle.op_type]
    for left, right in zip(run(before, SPECIAL[:, :]), run(after, SPECIAL[:, :]), strict=True):
        np.testing.assert_array_equal(left, right)


def test_integer_zero_and_one() -> None:
    constants = {"zero": np.int64(0), "one": np.int64(1)}
    nodes = [node("Neg", "x", "a"), node("Add", "a,zero", "b"), node("Mul", "one,b", "c"), node("Sub", "c,zero", "y")]
    before = model(nodes, constants, dtype=TensorProto.INT64)
    after = RemoveNoOps().run(before, Context()).model
    assert op_types(after) == ["Neg"]
    x = np.arange(8).reshape(2, 4)
    np.testing.assert_array_equal(run(before, x)[0], run(after, x)[0])


def test_identity_from_input_to_output_stays() -> None:
    before = model([node("Identity", "x", "y"), node("Identity", "y", "z")], outputs=("y", "z"))
    after = RemoveNoOps().run(before, Context()).model
    np.testing.assert_array_equal(run(after, SPECIAL)[1], SPECIAL)
    assert len(after.graph.node) == 2


def test_two_outputs_of_one_value() -> None:
    nodes = [node("Neg", "x", "a"), node("Identity", "a", "y"), node("Identity", "a", "z")]
    before = model(nodes, outputs=("y", "z"))
    after = RemoveNoOps().run(before, Context()).model
    for left, right in zip(run(before, SPECIAL), run(after, SPECIAL), strict=True):
        np.testing.assert_array_equal(left, right)
    assert [value.name for value in after.graph.output] == ["y", "z"]


def test_chain_of_no_ops() -> None:
    nodes = [node("Identity", "x", "a"), node("Identity", "a", "b"), node("Abs", "b", "c"), node("Identity", "c", "d")]
    before = model([*nodes, node("Identity", "d", "y")])
    after = RemoveNoOps().run(before, Context()).model
    assert op_types(after) == ["Abs"]
    np.testing.assert_array_equal(run(before, SPECIAL)[0], run(after, SPECIAL)[0])


def with_body() -> onnx.ModelProto:
    """The body of an If reads a from outside, and holds a no-op of its own."""
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    then = helper.make_graph([node("Identity", "b", "inner"), node("Neg", "inner", "out")], "then", [], outputs)
    other = helper.make_graph([node("Abs", "b", "out")], "else", [], outputs)
    nodes = [
        node("Sqrt", "x", "a"),
        node("Identity", "a", "b"),
        helper.make_node("If", ["condition"], ["y"], then_branch=then, else_branch=other),
        node("Exp", "x", "unused"),
    ]
    return model(nodes, {"condition": np.bool_(True)})


def test_what_bodies_read_is_kept() -> None:
    before = with_body()
    x = np.abs(SPECIAL[:1].repeat(2, 0))
    for step in (RemoveNoOps(), RemoveDeadNodes()):
        after = step.run(before, Context()).model
        assert "Sqrt" in op_types(after) and "If" in op_types(after)
        assert len(after.graph.node[-1].attribute) == 2 or op_types(after)[-1] == "Exp"
        np.testing.assert_array_equal(run(before, x)[0], run(after, x)[0])
    assert "Exp" not in op_types(RemoveDeadNodes().run(before, Context()).model)


def test_dead_nodes_and_initializers_go() -> None:
    nodes = [node("Abs", "x", "y"), node("Add", "x,w", "a"), node("Neg", "a", "b")]
    before = model(nodes, {"w": F(1), "v": F(2)})
    result = RemoveDeadNodes().run(before, Context())
    assert op_types(result.model) == ["Abs"] and not result.model.graph.initializer
    assert "2 dead nodes" in result.notes[0]
    assert op_types(before) == ["Abs", "Add", "Neg"], "the model that came in stays as it was"
    again = RemoveDeadNodes().run(result.model, Context())
    assert not again.modified and again.model is result.model


def test_initializers_leave_the_inputs() -> None:
    before = model([node("Add", "x,w", "y")], {"w": F(1)})
    before.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, []))
    before.ir_version = 3
    result = DropInitializerInputs().run(before, Context())
    assert [value.name for value in result.model.graph.input] == ["x"]
    assert result.model.ir_version == 4
    np.testing.assert_array_equal(run(before, SPECIAL)[0], run(result.model, SPECIAL)[0])
    assert not DropInitializerInputs().run(result.model, Context()).modified
    assert len(before.graph.input) == 2


def test_replaceable_constants_are_not_trusted() -> None:
    before = model([node("Neg", "x", "a"), node("Mul", "a,w", "y")], {"w": F(1)})
    before.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, []))
    assert not RemoveNoOps().run(before, Context()).modified
