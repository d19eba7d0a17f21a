"""Hold the roofline's predictions for single patterns, unfused and fused, against onnxruntime and generated kernels.

    python benchmarks/prediction.py

One core, one pattern at a time, everything bound in advance, the fastest of many runs less the price of a call.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measure_machine import BLOCKED, MS, TINY, bound, f32, fastest, feeds_of, model, session
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import spearmanr

from graphopt import kernels, machine, roofline
from graphopt.graph import AttributeValue, Capture, Node, OperatorGraph, Shape, Tensor

Call = tuple[str, str, tuple[str, ...], dict[str, Any]]
"""Domain, type, operands and attributes of a node."""

Step = tuple[str, str, dict[str, AttributeValue]]
"""An operator (``com.microsoft.Gelu``), what it reads besides the result before (``x`` or numbers), attributes."""

HARD_SWISH: list[Step] = [("Add", "3", {}), ("Clip", "0 6", {}), ("Mul", "x", {}), ("Div", "6", {})]
SMALL, LARGE = (1, 64, 32, 32), (1, 96, 104, 76)
PATTERNS: list[tuple[str, list[Step], tuple[Shape, ...]]] = [
    ("Add, Clip, Mul, Div (hard-swish)", HARD_SWISH, (SMALL, LARGE)),
    (
        "ReorderOutput, hard-swish, ReorderInput",
        [
            (f"{BLOCKED}.ReorderOutput", "", {"channels": 0}),
            ("Add", "3", {}),
            ("Clip", "0 6", {}),
            ("Mul", "t0", {}),
            ("Div", "6", {}),
            (f"{BLOCKED}.ReorderInput", "", {}),
        ],
        (SMALL, LARGE),
    ),
    ("Add, Relu", [("Add", "z", {}), ("Relu", "", {})], (SMALL, LARGE)),
    ("Add, Gelu", [("Add", "z", {}), (f"{MS}.Gelu", "", {})], (SMALL, LARGE)),
    ("Sigmoid, Mul", [("Sigmoid", "", {}), ("Mul", "x", {})], (SMALL, LARGE)),
    ("Tanh, Mul", [("Tanh", "", {}), ("Mul", "x", {})], (SMALL, LARGE)),
    ("Exp, Add, Log", [("Exp", "", {}), ("Add", "3", {}), ("Log", "", {})], (SMALL, LARGE)),
    (
        "Transpose, Relu",
        [("Transpose", "", {"perm": (0, 2, 1, 3)}), ("Relu", "", {})],
        ((4, 128, 2, 64), (8, 512, 12, 64)),
    ),
    ("Transpose (last axes), Relu", [("Transpose", "", {"perm": (0, 1, 3, 2)}), ("Relu", "", {})], ((1, 1, 256, 256),)),
    ("ReorderOutput, Relu", [(f"{BLOCKED}.ReorderOutput", "", {"channels": 0}), ("Relu", "", {})], (SMALL,)),
    ("Relu, Concat", [("Relu", "", {}), ("Concat", "z", {"axis": 1})], ((1, 256, 128, 1),)),
]


def graph_of(steps: list[Step], shape: Shape) -> tuple[OperatorGraph, dict[str, Shape]]:
    """The pattern as an operator graph: operands x and z, result the last step's; and the shapes of all tensors."""
    shapes: dict[str, Shape] = {"x": shape, "z": shape}
    constants: dict[str, np.ndarray] = {}
    nodes, before = [], "x"
    for i, (operator, others, attributes) in enumerate(steps):
        domain, _, op_type = operator.rpartition(".")
        for word in others.split():
            if word.isdigit():
                constants[f"c{word}"] = np.asarray(word, np.float32)
        operands = [f"c{word}" if word.isdigit() else word for word in others.split()]
        given = dict(attributes)
        if "channels" in given:
            given["channels"] = shape[1]
        nodes.append(Node(f"n{i}", domain, op_type, 17, (before, *operands), (f"t{i}",), given))
        perm = given.get("perm")
        size = shapes[before]
        shapes[f"t{i}"] = tuple(size[int(axis)] for axis in perm) if isinstance(perm, tuple) else size
        if op_type == "Concat":
            shapes[f"t{i}"] = (size[0], 2 * size[1], *size[2:])
        before = f"t{i}"
    shapes |= dict.fromkeys(constants, ())
    used = dict.fromkeys(name for node in nodes for name in (*node.inputs, *node.outputs))
    tensors = {
        name: Tensor(name, "float32", len(shapes[name]), name in constants, constants.get(name), shapes[name])
        if name in constants
        else Tensor(name, "float32", len(shapes[name]))
        for name in used
    }
    inputs = tuple(name for name in ("x", "z") if name in used)
    return OperatorGraph("pattern", tuple(nodes), tensors, inputs, (before,)), shapes


def seconds(
    nodes: list[Call],
    graph: OperatorGraph,
    shapes: dict[str, Shape],
    library: Path | None = None,
) -> float:
    """Seconds of a session that runs (domain, type, operands, attributes) nodes in a row."""
    made = [n.outputs[0] for n in graph.nodes] if library is None else [graph.outputs[0]]
    proto = helper.make_graph(
        [
            helper.make_node(op_type, operands, [result], domain=domain, **attributes)
            for (domain, op_type, operands, attributes), result in zip(nodes, made, strict=True)
        ],
        "pattern",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in graph.inputs],
        [helper.make_empty_tensor_value_info(graph.outputs[0])],
        [numpy_helper.from_array(t.value, t.name) for t in graph.tensors.values() if t.value is not None],
    )
    imports = [helper.make_opsetid(d, v) for d, v in (("", 17), (MS, 1), (BLOCKED, 1), ("graphopt.fused", 1))]
    blob = helper.make_model(proto, opset_imports=imports, ir_version=8).SerializeToString()
    return fastest(bound(session(blob, library), {name: f32(*shapes[name]) for name in graph.inputs}), 0.3)


def main() -> None:
    """Print a Markdown table, predicted and measured microseconds, and a line of mean errors."""
    rows: list[tuple[float, float, float, float]] = []
    xeon = machine.load()
    call = fastest(bound(session(model(TINY)), feeds_of(TINY)), 0.5)
    columns = ["pattern", "elements"]
    for what in ("unfused", "fused", "speedup"):
        columns += [f"{what}, predicted", "measured"]
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|---|")
    for name, steps, sizes in PATTERNS:
        for shape in sizes:
            graph, shapes = graph_of(steps, shape)
            capture = Capture(graph, shapes)
            apart = sum(time or 0.0 for time in roofline.operator_times(capture, xeon))
            fused = roofline.fused_seconds(capture, range(len(graph.nodes)), xeon) or 0.0
            constants = tuple(n for n, t in graph.tensors.items() if t.constant)
            body = OperatorGraph("body", graph.nodes, graph.tensors, (*graph.inputs, *constants), graph.outputs)
            with tempfile.TemporaryDirectory() as folder:
                library = kernels.build_library(
                    [kernels.FusedOperator("Pattern", body, (shapes,))], Path(folder), "pattern"
                )
                call_node: list[Call] = [("graphopt.fused", "Pattern", body.inputs, {})]
                together = seconds(call_node, graph, shapes, library) - call
            plain = [(n.domain, n.op_type, n.inputs, dict(n.attributes)) for n in graph.nodes]
            separate = seconds(plain, graph, shapes) - call
            cells = [f"{v * 1e6:.1f}" for v in (apart, separate, fused, together)]
            ratios = [f"{apart / fused:.1f}", f"{separate / together:.1f}"]
            print(f"| {name} | {int(np.prod(shape)):,} | {' | '.join(cells + ratios)} |", flush=True)
            rows.append((apart, separate, fused, together))
    table = np.array(rows)
    unfused_error = np.abs(table[:, 0] / table[:, 1] - 1).mean()
    fused_error = np.abs(table[:, 2] / table[:, 3] - 1).mean()
    predicted, measured = table[:, 0] / table[:, 2], table[:, 1] / table[:, 3]
    rank = float(spearmanr(predicted, measured).statistic)
    print(f"\nmean error: unfused {unfused_error:.0%}, fused {fused_error:.0%}, ", end="")
    print(f"speedup {np.abs(predicted / measured - 1).mean():.0%}; rank correlation of speedup {rank:.2f}")


if __name__ == "__main__":
    main()
