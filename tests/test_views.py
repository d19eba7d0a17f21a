"""The views of a model: what onnxruntime makes of it, loadable and equal in numbers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from graphopt import models, views, weights
from graphopt.errors import GraphoptError
from graphopt.stable_names import stabilize


def block(channels: int = 16) -> ModelProto:
    """Conv, hard-swish, Conv over images of free size, with different weights."""
    generator = np.random.default_rng(0)
    initializers = [
        numpy_helper.from_array(generator.standard_normal((channels, 16, 3, 3), np.float32) / 12, "w1"),
        numpy_helper.from_array(generator.standard_normal((channels, channels, 1, 1), np.float32) / 4, "w2"),
        numpy_helper.from_array(np.array(3, np.float32), "three"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
        numpy_helper.from_array(np.array(6, np.float32), "six"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["a", "three"], ["b"]),
        helper.make_node("Clip", ["b", "zero", "six"], ["c"]),
        helper.make_node("Mul", ["a", "c"], ["d"]),
        helper.make_node("Div", ["d", "six"], ["e"]),
        helper.make_node("Conv", ["e", "w2"], ["y"], "conv2"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", channels, "H", "W"])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: ModelProto, optimized: bool) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = models.seeded_inputs(model, {"x": (2, 16, 9, 7)})
    return [np.asarray(result) for result in session.run(None, inputs)]


def test_executed_view_is_what_the_runtime_executes() -> None:
    model = block()
    executed = views.to_view(model, "executed")
    models.check(executed)
    assert (run(executed, optimized=False)[0] == run(model, optimized=True)[0]).all()
    # Free axes stay free, and shapes of blocked tensors can be observed.
    assert [dim.dim_param for dim in executed.graph.input[0].type.tensor_type.shape.dim] == ["N", "", "H", "W"]
    seen = models.observe(executed, {"x": (2, 16, 9, 7)})
    assert (seen.unknown, seen.failure) == ((), "")
    assert seen.shapes["y"] == (2, 16, 9, 7)


def test_portable_view_has_no_blocked_layout() -> None:
    model = block()
    portable = views.to_view(model, "portable")
    assert all(node.domain != "com.microsoft.nchwc" for node in portable.graph.node)
    np.testing.assert_allclose(run(portable, optimized=True)[0], run(model, optimized=True)[0], rtol=1e-5, atol=1e-6)


def test_raw_view_is_the_model_itself() -> None:
    model = block()
    assert views.to_view(model, "raw") is model


def test_optimising_is_repeatable_and_leaves_the_model_alone() -> None:
    model = block()
    before = model.SerializeToString()
    first, second = views.to_view(model, "executed"), views.to_view(model, "executed")
    assert first == second
    assert model.SerializeToString() == before


def test_dropped_weights_are_filled_so_that_nothing_is_merged() -> None:
    light = weights.drop_weights(block())
    executed = views.to_view(light, "executed")
    assert sum("Conv" in node.op_type for node in executed.graph.node) == 2
    assert not weights.has_dropped_weights(executed)


def test_weights_through_files_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = block()
    expected = views.to_view(model, "executed")
    monkeypatch.setattr("graphopt.views.LARGEST_IN_MEMORY", 0)
    monkeypatch.setattr("graphopt.observation.LARGEST_IN_MEMORY", 0)
    through = views.to_view(model, "executed")
    shown = [[(node.op_type, node.input, node.output) for node in m.graph.node] for m in (through, expected)]
    assert shown[0] == shown[1]
    for a, b in zip(through.graph.initializer, expected.graph.initializer, strict=True):
        assert a.name == b.name
        assert (numpy_helper.to_array(a) == numpy_helper.to_array(b)).all()
    assert (run(through, optimized=False)[0] == run(expected, optimized=False)[0]).all()


def test_bodies_survive() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (int64 n, float[4] x, float[4] k) => (float[4] y) {
          go = Constant <value = bool {1}> ()
          a = Relu(x)
          y = Loop(n, go, a) <body = b (int64 i, bool c, float[4] s) => (bool c2, float[4] t) {
            c2 = Identity(c)
            t = Add(s, k)
          }>
        }"""
    )
    executed = views.to_view(model, "executed")
    (node,) = [node for node in models.to_graph(executed, "g").nodes if node.op_type == "Loop"]
    assert node.attributes == {"body": None}
    assert node.captured == ("k",)
    assert models.observe(executed, {}, ranges={"n": (3, 4)}).shapes["y"] == (4,)


def test_what_the_runtime_rejects_is_one_line() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) { y = NoSuchOperator(x) }'
    )
    with pytest.raises(GraphoptError, match=r"onnxruntime rejects it: .*NoSuchOperator") as error:
        views.to_view(model, "executed")
    assert "\n" not in str(error.value)
    with pytest.raises(GraphoptError, match="no view 'other'"):
        views.to_view(model, "other")  # type: ignore[arg-type]


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    """onnxruntime orders and names by addresses in memory; the view does not."""
    path = tmp_path / "m.onnx"
    path.write_bytes(block(24).SerializeToString())
    code = (
        "import sys, hashlib; from pathlib import Path; from graphopt import models, views\n"
        "view = views.to_view(models.load(Path(sys.argv[1])), 'executed')\n"
        "print(hashlib.sha256(view.SerializeToString(deterministic=True)).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", code, str(path)]
    assert (
        len({subprocess.run(command, env=environment, capture_output=True, check=True).stdout for _ in range(3)}) == 1
    )


def test_names_of_the_original_stay_and_bodies_follow_renamed_tensors() -> None:
    def model(a: str, b: str) -> ModelProto:
        text = """<ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[4] x) => (float[4] y) {
          {a} = Relu(x)
          {b} = Neg({a})
          y = If(c) <then_branch = t () => (float[4] r) { r = Add({a}, {b}) },
                     else_branch = e () => (float[4] s) { {b}_inner = Abs({b})  s = Neg({b}_inner) }>
        }"""
        return parser.parse_model(text.replace("{a}", a).replace("{b}", b).replace(")  s =", ")\n s ="))

    first, second = model("kept", "reorder_token_1"), model("kept", "reorder_token_22")
    second.graph.node[1].name = "Neg_token_3"
    original = model("kept", "other")
    for written in (first, second):
        stabilize(written, original)
        models.check(written)
        assert written.graph.node[0].output[0] == "kept"
    assert first == second
    assert first.graph.node[1].output[0] == "Neg_1_result_0"
