"""Small models with Loops, written by hand."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def value(name: str, shape: tuple[int, ...] = (2, 2), dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: list[str]) -> onnx.ModelProto:
    """A model with a matrix x and a condition c."""
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x"), value("c", (), TensorProto.BOOL)],
        [value(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def loop(trips: str, first: str, result: str, nodes: list[onnx.NodeProto]) -> onnx.NodeProto:
    """A Loop whose state s_<result> becomes t_<result>."""
    go, on, state, after = (f"{stem}_{result}" for stem in ("go", "on", "s", "t"))
    body = helper.make_graph(
        [helper.make_node("Identity", [go], [on], name=f"going_{result}"), *nodes],
        f"body_{result}",
        [value(f"i_{result}", (), TensorProto.INT64), value(go, (), TensorProto.BOOL), value(state)],
        [value(on, (), TensorProto.BOOL), value(after)],
    )
    return helper.make_node("Loop", [trips, "", first], [result], name=f"loop_{result}", body=body)


W = np.array([[0.5, -0.25], [0.125, 0.75]], np.float32)
STEP = [
    helper.make_node("MatMul", ["s_y", "w"], ["p"], name="product"),
    helper.make_node("Add", ["p", "x"], ["q"], name="sum"),
    helper.make_node("Sin", ["q"], ["t_y"], name="sine"),
]
FEEDS = {"x": np.array([[1, 2], [-3, 0.5]], np.float32), "c": np.array(True)}


def recurrent(trips: int = 4) -> onnx.ModelProto:
    """A recurrent cell in a Loop: its weights and its input stand outside."""
    constants = {"w": W, "n": np.array(trips), "s0": np.zeros((2, 2), np.float32)}
    return model([loop("n", "s0", "y", STEP)], constants, ["y"])
