"""The reference runtime against onnxruntime: who computes what, and that it is right."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt import kernels
from graphopt.errors import GraphoptError
from graphopt.runtime.compare import Verdict, compare_values
from graphopt.runtime.reference import open_reference, run
from graphopt.runtime.session import open_session
from tests.runtime_models import fused_model, model, other_library, tensor

INT, BOOL = TensorProto.INT64, TensorProto.BOOL
RNG = np.random.default_rng(0)

needs_compiler = pytest.mark.skipif(kernels.find_compiler() is None, reason="no C compiler")


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def check(made: onnx.ModelProto, feeds: dict[str, Any], **executed: int) -> None:
    """The model gives what onnxruntime gives, twice, and each node was computed by whom it should be."""
    session = open_session(made, optimization="none")
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    runtime = open_reference(made)
    for _ in range(2):
        found = runtime.run(feeds)
        assert list(found) == list(expected)
        for name in expected:
            for result in compare_values(name, expected[name], found[name]):
                assert result.verdict != Verdict.DIFFERENT, (result, expected[name], found[name])
    assert dict(runtime.executed) == {who: 2 * count for who, count in executed.items()}


def one(operator: str, *shapes: tuple[int, ...], opset: int = 17, outputs: int = 1, **attributes: Any) -> None:
    """Check one operator on random operands."""
    names = [f"x{index}" for index in range(len(shapes))]
    domain = attributes.pop("domain", "")
    executed = attributes.pop("by")
    results = [f"y{index}" for index in range(outputs)]
    made = model(
        [helper.make_node(operator, names, results, domain=domain, **attributes)],
        [tensor(name, shape) for name, shape in zip(names, shapes, strict=True)],
        [onnx.ValueInfoProto(name=name) for name in results],
        opset=opset,
    )
    check(made, {name: random(*shape) for name, shape in zip(names, shapes, strict=True)}, **{executed: 1})


def test_operators_that_the_evaluator_knows() -> None:
    one("Conv", (1, 3, 8, 8), (4, 3, 3, 3), by="evaluator")
    one("Softmax", (2, 3, 4), by="evaluator", axis=1)
    one("LayerNormalization", (2, 5), (5,), (5,), by="evaluator")
    one("Split", (4, 6), by="evaluator", outputs=2, axis=1)
    one("GRU", (5, 2, 3), (1, 12, 3), (1, 12, 4), by="evaluator", outputs=2, hidden_size=4)


def test_operators_that_only_onnxruntime_knows() -> None:
    one("Gelu", (2, 3), by="onnxruntime", domain="com.microsoft")
    one("FusedMatMul", (2, 3), (2, 4), by="onnxruntime", domain="com.microsoft", transA=1)


def test_operators_that_the_evaluator_gets_wrong_go_to_onnxruntime() -> None:
    for operator in ("Softmax", "LogSoftmax", "Hardmax"):
        one(operator, (2, 3, 4), by="onnxruntime", opset=11, axis=1)
    one("LRN", (1, 6, 3, 3), by="onnxruntime", size=3)
    one("GlobalMaxPool", (1, 6, 3), by="onnxruntime")
    one("LSTM", (5, 2, 3), (1, 16, 3), (1, 16, 4), by="onnxruntime", outputs=3, hidden_size=4, direction="reverse")
    gates = ["Tanh", "Sigmoid"]
    one("GRU", (5, 2, 3), (1, 12, 3), (1, 12, 4), by="onnxruntime", outputs=2, hidden_size=4, activations=gates)


def test_dynamic_quantization_of_zeros() -> None:
    outputs = ["q", "scale", "zero"]
    node = helper.make_node("DynamicQuantizeLinear", ["x"], outputs)
    made = model([node], [tensor("x", (3,))], [onnx.ValueInfoProto(name=name) for name in outputs])
    check(made, {"x": np.zeros(3, np.float32)}, onnxruntime=1)


def test_batch_normalization_of_old_opsets() -> None:
    weights = {"s": np.ones(3), "b": np.zeros(3), "m": np.full(3, 5.0), "v": np.full(3, 4.0)}
    made = model(
        [helper.make_node("BatchNormalization", ["x", *weights], ["y"])],
        [tensor("x", (2, 3, 4, 4))],
        [tensor("y", None)],
        weights={name: value.astype(np.float32) for name, value in weights.items()},
        opset=11,
    )
    check(made, {"x": random(2, 3, 4, 4)}, onnxruntime=1)


def test_slow_operators_go_to_onnxruntime_when_large() -> None:
    one("MaxPool", (1, 2, 6, 6), by="evaluator", kernel_shape=[2, 2])
    one("MaxPool", (1, 8, 64, 64), by="onnxruntime", kernel_shape=[2, 2])


def test_resize_with_computed_sizes() -> None:
    nodes = [
        helper.make_node("Shape", ["like"], ["sizes"]),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest"),
    ]
    made = model(nodes, [tensor("x", (1, 64, 20, 20)), tensor("like", (1, 64, "H", "W"))], [tensor("y", None)])
    feeds = {"x": random(1, 64, 20, 20), "like": random(1, 64, 30, 30)}
    check(made, feeds, evaluator=1, onnxruntime=1)


def test_blocked_layout_passes_between_nodes() -> None:
    nodes = [
        helper.make_node("ReorderInput", ["x"], ["a"], domain="com.microsoft.nchwc"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ReorderOutput", ["b"], ["y"], domain="com.microsoft.nchwc", channels=32),
    ]
    made = model(nodes, [tensor("x", (1, 32, 5, 5))], [tensor("y", None)])
    made.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    check(made, {"x": random(1, 32, 5, 5)}, evaluator=1, onnxruntime=2)


@pytest.mark.parametrize("condition", [True, False])
def test_if_sees_values_around_it(condition: bool) -> None:
    then = helper.make_graph([helper.make_node("Add", ["x", "k"], ["a"])], "then", [], [tensor("a")])
    weights = [onnx.numpy_helper.from_array(np.array(3, np.float32), "own")]
    other = helper.make_graph([helper.make_node("Mul", ["h", "own"], ["b"])], "else", [], [tensor("b")], weights)
    nodes = [
        helper.make_node("Neg", ["x"], ["h"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    made = model(
        nodes,
        [tensor("x"), tensor("c", (), BOOL)],
        [tensor("y")],
        weights={"k": np.array(2, np.float32)},
    )
    check(made, {"x": random(2, 3), "c": np.array(condition)}, evaluator=2, graphopt=1)


@pytest.mark.parametrize(("trips", "limit"), [(4, 100.0), (0, 100.0), (50, 8.0)])
def test_loop_carries_stops_and_stacks(trips: int, limit: float) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["s", "one"], ["t"]),
            helper.make_node("Less", ["t", "limit"], ["going"]),
            helper.make_node("Identity", ["t"], ["row"]),
        ],
        "body",
        [tensor("i", (), INT), tensor("go", (), BOOL), tensor("s", ())],
        [tensor("going", (), BOOL), tensor("t", ()), tensor("row", ())],
    )
    made = model(
        [helper.make_node("Loop", ["trips", "", "x"], ["y", "rows"], body=body)],
        [tensor("x", ()), tensor("trips", (), INT)],
        [tensor("y", None), tensor("rows", None)],
        weights={"one": np.array(1, np.float32), "limit": np.array(limit, np.float32)},
    )
    rounds = min(trips, 7)
    feeds = {"x": np.array(1, np.float32), "trips": np.array(trips)}
    check(made, feeds, graphopt=1, **({"evaluator": 3 * rounds} if rounds else {}))


def test_scan_goes_to_onnxruntime_with_what_it_reads() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "row"], ["t"]), helper.make_node("Mul", ["t", "k"], ["out"])],
        "body",
        [tensor("s", (3,)), tensor("row", (3,))],
        [tensor("t", (3,)), tensor("out", (3,))],
    )
    nodes = [
        helper.make_node("Neg", ["w"], ["k"]),
        helper.make_node("Scan", ["s0", "x"], ["y", "ys"], body=body, num_scan_inputs=1),
    ]
    made = model(
        nodes,
        [tensor("s0", (3,)), tensor("x", (5, 3))],
        [tensor("y", None), tensor("ys", None)],
        weights={"w": np.array([1, 2, 3], np.float32)},
    )
    check(made, {"s0": random(3), "x": random(5, 3)}, evaluator=1, onnxruntime=1)


def test_nodes_in_any_order() -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Neg", ["x"], ["a"])]
    made = model(nodes, [tensor("x")], [tensor("y")])
    x = random(2, 3)
    np.testing.assert_array_equal(run(made, {"x": x})["y"], np.maximum(-x, 0))


def test_functions_with_attributes_and_absent_operands() -> None:
    reference = onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    leaky = helper.make_node("LeakyRelu", ["a"], ["y"])
    leaky.attribute.append(reference)
    function = helper.make_function(
        "graphopt.fused", "Leaky", ["a"], ["y"], [leaky], [helper.make_opsetid("", 17)], ["slope"]
    )
    nodes = [
        helper.make_node("Leaky", ["x"], ["h"], domain="graphopt.fused", slope=0.25),
        helper.make_node("Leaky", ["h"], ["y"], domain="graphopt.fused", slope=0.5),
    ]
    check(
        model(nodes, [tensor("x")], [tensor("y")], functions=[function]),
        {"x": random(2, 3)},
        bodies=2,
        evaluator=2,
    )


def test_constants_that_come_with_a_call() -> None:
    value = helper.make_node("Constant", [], ["k"])
    value.attribute.append(onnx.AttributeProto(name="value_float", ref_attr_name="k", type=onnx.AttributeProto.FLOAT))
    nodes = [value, helper.make_node("FusedMatMul", ["a", "a"], ["m"], domain="com.microsoft", transB=1)]
    nodes.append(helper.make_node("BiasGelu", ["m", "kk"], ["y"], domain="com.microsoft"))
    nodes.insert(1, helper.make_node("Expand", ["k", "two"], ["kk"]))
    nodes.insert(1, helper.make_node("Constant", [], ["two"], value_ints=[2]))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    function = helper.make_function("graphopt.fused", "Gram", ["a"], ["y"], nodes, opsets, ["k"])
    calls = [
        helper.make_node("Gram", ["x"], ["h"], domain="graphopt.fused", k=0.5),
        helper.make_node("Gram", ["h"], ["y"], domain="graphopt.fused", k=-0.5),
    ]
    made = model(calls, [tensor("x", (2, 2))], [tensor("y", None)], functions=[function])
    check(made, {"x": random(2, 2)}, bodies=2, evaluator=6, onnxruntime=4)


def test_resize_with_an_empty_constant_for_scales() -> None:
    nodes = [
        helper.make_node("Constant", [], ["none"], value=onnx.numpy_helper.from_array(np.zeros(0, np.float32))),
        helper.make_node("Shape", ["like"], ["sizes"]),
        helper.make_node("Resize", ["x", "none", "none", "sizes"], ["y"], mode="nearest"),
    ]
    inputs = [tensor("x", (1, 64, 20, 20)), tensor("like", (1, 64, "H", "W"))]
    made = model(nodes, inputs, [tensor("y", None)], opset=12)
    check(made, {"x": random(1, 64, 20, 20), "like": random(1, 64, 30, 30)}, evaluator=2, onnxruntime=1)


def test_sequences_and_strings() -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["s"], axis=0),
        helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=1),
    ]
    check(model(nodes, [tensor("x", (3, 2))], [tensor("y", None)]), {"x": random(3, 2)}, evaluator=2)
    made = model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", ("N",), TensorProto.STRING)],
        [tensor("y", ("N",), TensorProto.STRING)],
    )
    assert run(made, {"x": np.array(["a", "b"], object)})["y"].tolist() == ["a", "b"]


@needs_compiler
def test_fused_operators_by_kernels_or_bodies(tmp_path: Path) -> None:
    library = other_library(tmp_path)
    path = tmp_path / "model.onnx"
    onnx.save(fused_model({"graphopt.kernels": "named.so"}), path)
    x, w = random(2, 3), np.array([1.0, -2.0, 3.0], np.float32)
    body, kernel = np.maximum((x + w) * w, 0), np.maximum((x + w) - w, 0)
    np.testing.assert_array_equal(run(path, {"x": x})["y"], body)  # named.so does not exist
    np.testing.assert_array_equal(run(path, {"x": x}, kernels=library)["y"], kernel)
    np.testing.assert_array_equal(run(path, {"x": x}, kernels=library, use_kernels=False)["y"], body)
    shutil.copy(library, tmp_path / "named.so")
    runtime = open_reference(path)
    np.testing.assert_array_equal(runtime({"x": x})["y"], kernel)
    assert dict(runtime.executed) == {"kernels": 1, "evaluator": 1}
    np.testing.assert_array_equal(run(path, {"x": x}, use_kernels=False)["y"], body)


@needs_compiler
def test_a_fused_operator_that_the_library_lacks(tmp_path: Path) -> None:
    made = fused_model()
    made.functions[0].name = made.graph.node[0].op_type = "Other"
    library = other_library(tmp_path)
    runtime = open_reference(made, kernels=library)
    runtime.run({"x": random(2, 3)})
    assert dict(runtime.executed) == {"bodies": 1, "evaluator": 3}
    del made.functions[:]
    with pytest.raises(GraphoptError, match="Other"):
        run(made, {"x": random(2, 3)}, kernels=library)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="no values for the inputs x"):
        run(fused_model(), {})
    with pytest.raises(GraphoptError, match="no such kernel library"):
        run(fused_model(), {"x": random(2, 3)}, kernels=tmp_path / "none.so")
    with pytest.raises(GraphoptError, match=r"\.onnx"):
        run(tmp_path / "none.onnx", {})
    unknown = model([helper.make_node("Nope", ["x"], ["y"], name="n")], [tensor("x")], [tensor("y")])
    with pytest.raises(GraphoptError, match=r"node n \(Nope\)") as caught:
        run(unknown, {"x": random(2, 3)})
    assert "\n" not in str(caught.value)
    with pytest.raises(GraphoptError, match=r"\(Add\)"):
        run(fused_model(), {"x": random(2, 4)})
