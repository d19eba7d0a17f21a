"""Measure the numbers of a machine file: one core, through onnxruntime itself, operator class by operator class.

    python benchmarks/measure_machine.py [--only SUBSTRING] > numbers.toml

Each operator runs alone, everything bound in advance, on data that fits the second-level cache (about 256 KiB per
operand), many times; the fastest run counts, less the price of a call. Rates are in the units of our own cost formulas:
flops per second where the formula counts flops, elements of the result per second where it counts none.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from graphopt import kernels
from graphopt.graph import AttributeValue, Node, OperatorGraph, Shape, Tensor
from graphopt.operators import find
from graphopt.operators.base import Cost, Operand

MS = "com.microsoft"
BLOCKED = "com.microsoft.nchwc"
RNG = np.random.default_rng(0)
FEW = 0.15  # seconds per measurement


@dataclass(frozen=True)
class Case:
    """One operator to time: inputs by slot (None: absent), which of them are constants, attributes."""

    key: str
    op_type: str
    inputs: Sequence[np.ndarray | np.generic | None]
    constants: tuple[int, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    outputs: int = 1
    opset: int = 17


def f32(*shape: int) -> np.ndarray:
    """Values in (0.5, 1.5): valid for every operator that is timed."""
    return (0.5 + RNG.random(shape)).astype(np.float32)


def i64(high: int, *shape: int) -> np.ndarray:
    """Indices below ``high``."""
    return RNG.integers(0, high, shape)


def u8(*shape: int) -> np.ndarray:
    """Quantized values."""
    return RNG.integers(100, 150, shape).astype(np.uint8)


def ints(*values: int) -> np.ndarray:
    """A shape, axes or bounds."""
    return np.asarray(values, np.int64)


N = 1 << 16
X, Y = f32(256, 256), f32(256, 256)
IMAGE = f32(1, 64, 32, 32)
SCALES = np.asarray([1, 1, 2, 2], np.float32)
SCALE, ZERO = np.float32(0.02), np.uint8(128)
STEP = np.asarray(SCALE), np.asarray(ZERO)


def unary(op_type: str, key: str = "", **more: object) -> Case:
    """An operator on one tensor."""
    return Case(key or op_type, op_type, [X], **more)  # type: ignore[arg-type]


def binary(op_type: str, key: str = "", **more: object) -> Case:
    """An operator on two tensors of one shape."""
    return Case(key or op_type, op_type, [X, Y], **more)  # type: ignore[arg-type]


def conv(key: str, channels: int, out: int, size: int, kernel: int, group: int = 1, **more: object) -> Case:
    """A convolution with padding that keeps the size."""
    attributes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "group": group, "strides": [1, 1]}
    inputs = [f32(1, channels, size, size), f32(out, channels // group, kernel, kernel), f32(out)]
    return Case(key, "Conv", inputs, (1, 2), attributes, **more)  # type: ignore[arg-type]


TRUTH = X > 1
CASES: tuple[Case, ...] = (
    binary("Add", "add"),
    binary("Mul", "mul"),
    binary("Div", "div"),
    binary("Pow", "pow"),
    unary("Sqrt", "sqrt"),
    unary("Exp", "exp"),
    unary("Log", "log"),
    unary("Erf", "erf"),
    unary("Tanh", "tanh"),
    unary("Sigmoid", "sigmoid"),
    unary("Sin", "sin"),
    unary("Cast", "cast", attributes={"to": TensorProto.INT32}),
    *(
        unary(name)
        for name in ("Floor", "Neg", "Abs", "Sign", "Relu", "LeakyRelu", "HardSigmoid", "HardSwish", "IsNaN")
    ),
    unary("Reciprocal"),
    unary("Softplus"),
    Case("Clip", "Clip", [X, np.float32(0.6), np.float32(1.2)], (1, 2)),
    *(binary(name) for name in ("Max", "Min", "Sum", "Equal", "Less")),
    Case("And", "And", [TRUTH, ~TRUTH]),
    Case("Not", "Not", [TRUTH]),
    Case("Where", "Where", [TRUTH, X, Y]),
    unary("Gelu", opset=20),
    unary("Gelu", f"{MS}.Gelu", domain=MS),
    Case(f"{MS}.BiasGelu", "BiasGelu", [X, f32(256)], (1,), {}, MS),
    Case(f"{MS}.FastGelu", "FastGelu", [X], (), {}, MS),
    Case(f"{MS}.QuickGelu", "QuickGelu", [X], (), {"alpha": 1.0}, MS),
    Case("BatchNormalization", "BatchNormalization", [IMAGE, *(f32(64) for _ in range(4))], (1, 2, 3, 4)),
    # layout
    Case("transpose", "Transpose", [f32(4, 128, 2, 64)], (), {"perm": [0, 2, 1, 3]}),
    Case("Concat", "Concat", [f32(256, 128), f32(256, 128)], (), {"axis": 1}),
    Case("Split", "Split", [X], (), {"axis": 1}, outputs=2, opset=13),
    Case("Slice", "Slice", [X, ints(0), ints(128), ints(1)], (1, 2, 3)),
    Case("Expand", "Expand", [f32(256, 1), ints(256, 256)], (1,)),
    Case("Tile", "Tile", [f32(64, 64), ints(4, 4)], (1,)),
    Case("Pad", "Pad", [f32(1, 64, 30, 30), ints(0, 0, 1, 1, 0, 0, 1, 1)], (1,)),
    Case(f"{BLOCKED}.ReorderInput", "ReorderInput", [IMAGE], (), {}, BLOCKED),
    Case(f"{BLOCKED}.ReorderOutput", "ReorderOutput", [IMAGE], (), {"channels": 64}, BLOCKED),
    Case("fill", "ConstantOfShape", [ints(256, 256)]),
    # lookup
    Case("gather", "Gather", [f32(512, 64), i64(512, 1024)], (0,), {"axis": 0}),
    Case("gather_element", "GatherElements", [X, i64(256, 256, 256)], (), {"axis": 1}),
    Case("scatter", "ScatterElements", [X, i64(256, 256, 256), Y], (), {"axis": 1}, opset=16),
    Case("OneHot", "OneHot", [i64(256, 256), ints(256)[0], np.asarray([0, 1], np.float32)], (1, 2), {"axis": -1}),
    # reduction
    unary("ReduceSum", "reduce", attributes={"keepdims": 1}, opset=11),
    Case("ReduceMean", "ReduceMean", [IMAGE], (), {"axes": [2, 3], "keepdims": 1}),
    Case("ReduceMax", "ReduceMax", [IMAGE], (), {"axes": [2, 3], "keepdims": 1}),
    Case("GlobalAveragePool", "GlobalAveragePool", [IMAGE]),
    Case(f"{BLOCKED}.GlobalAveragePool", "GlobalAveragePool", [IMAGE], (), {}, BLOCKED),
    unary("ArgMax", "argmax", attributes={"axis": -1}),
    Case("softmax", "Softmax", [f32(8, 64, 128)], (), {"axis": -1}),
    Case("scan", "CumSum", [X, ints(1)[0]], (1,)),
    Case("ReduceSum", "ReduceSum", [f32(64, 16, 64), ints(1)], (1,), {"keepdims": 0}),
    # normalization
    Case("layernorm", "LayerNormalization", [X, f32(256), f32(256)], (1, 2), {"axis": -1}),
    Case("SimplifiedLayerNormalization", "SimplifiedLayerNormalization", [X, f32(256)], (1,), {"axis": -1}),
    Case(
        f"{MS}.SkipLayerNormalization", "SkipLayerNormalization", [X[None], Y[None], f32(256), f32(256)], (2, 3), {}, MS
    ),
    Case("InstanceNormalization", "InstanceNormalization", [IMAGE, f32(64), f32(64)], (1, 2)),
    Case("lrn", "LRN", [IMAGE], (), {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}),
    # window
    Case("pool", "MaxPool", [IMAGE], (), {"kernel_shape": [3, 3], "pads": [1] * 4}),
    Case(f"{BLOCKED}.MaxPool", "MaxPool", [IMAGE], (), {"kernel_shape": [3, 3], "pads": [1] * 4}, BLOCKED),
    Case("AveragePool", "AveragePool", [IMAGE], (), {"kernel_shape": [3, 3], "pads": [1] * 4}),
    Case(f"{BLOCKED}.AveragePool", "AveragePool", [IMAGE], (), {"kernel_shape": [3, 3], "pads": [1] * 4}, BLOCKED),
    *(
        Case(f"resize_{mode}", "Resize", [f32(1, 64, 16, 16), None, SCALES], (2,), {"mode": mode})
        for mode in ("nearest", "linear", "cubic")
    ),
    # contraction
    Case("gemm", "MatMul", [f32(256, 256), f32(256, 256)], (1,)),
    conv("conv_plain", 64, 64, 28, 3),
    conv("conv_depthwise_plain", 64, 64, 28, 3, 64),
    conv("conv", 64, 64, 28, 3, domain=BLOCKED),
    conv("conv_depthwise", 64, 64, 28, 3, 64, domain=BLOCKED),
    Case("conv_transpose", "ConvTranspose", [f32(1, 32, 28, 28), f32(32, 32, 2, 2)], (1,), {"strides": [2, 2]}),
    # recurrent
    Case("recurrent", "LSTM", [f32(32, 1, 128), f32(1, 512, 128), f32(1, 512, 128)], (1, 2), {"hidden_size": 128}),
    # quantization
    Case("quantize", "QuantizeLinear", [X, *STEP], (1, 2)),
    Case("dequantize", "DequantizeLinear", [u8(256, 256), *STEP], (1, 2)),
    Case("DynamicQuantizeLinear", "DynamicQuantizeLinear", [X], outputs=3, opset=11),
    Case("gemm_int8", "MatMulInteger", [u8(256, 256), u8(256, 256), ZERO, ZERO], (1, 2, 3)),
    Case(
        "QLinearMatMul",
        "QLinearMatMul",
        [u8(256, 256), *STEP, u8(256, 256).astype(np.int8), np.asarray(SCALE), np.asarray(np.int8(0)), *STEP],
        (1, 2, 3, 4, 5, 6, 7),
    ),
    Case(
        "conv_int8",
        "ConvInteger",
        [u8(1, 64, 28, 28), u8(64, 64, 3, 3), ZERO, ZERO],
        (1, 2, 3),
        {"kernel_shape": [3, 3], "pads": [1] * 4},
    ),
    Case("softmax_int8", "QLinearSoftmax", [u8(256, 256), *STEP, *STEP], (1, 2, 3, 4), {"axis": -1, "opset": 13}, MS),
)


def model(case: Case, repeat: int = 1) -> bytes:
    """A model with ``repeat`` copies of the operator in a row, each on the result of the one before."""
    names = ["" if value is None else f"x{slot}" for slot, value in enumerate(case.inputs)]
    arrays = {name: np.asarray(value) for name, value in zip(names, case.inputs, strict=True) if name}
    nodes, source = [], names
    for copy in range(repeat):
        results = [f"y{copy}_{i}" if copy < repeat - 1 else f"y{i}" for i in range(case.outputs)]
        nodes.append(helper.make_node(case.op_type, source, results, domain=case.domain, **case.attributes))
        source = [results[0], *names[1:]]
    kind = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in arrays.items()}
    graph = helper.make_graph(
        nodes,
        case.key,
        [
            helper.make_tensor_value_info(name, kind[name], value.shape)
            for slot, (name, value) in enumerate(zip(names, case.inputs, strict=True))
            if value is not None and slot not in case.constants
        ],
        [helper.make_empty_tensor_value_info(f"y{i}") for i in range(case.outputs)],
        [numpy_helper.from_array(arrays[names[slot]], names[slot]) for slot in case.constants if names[slot]],
    )
    imports = [helper.make_opsetid("", case.opset), helper.make_opsetid(MS, 1), helper.make_opsetid(BLOCKED, 1)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())


def session(blob: bytes, library: Path | None = None) -> ort.InferenceSession:
    """A session on one thread that runs the model as it stands."""
    options = ort.SessionOptions()
    if library is not None:
        options.register_custom_ops_library(str(library))
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(blob, options, providers=["CPUExecutionProvider"])


def fastest(run: Callable[[], object], seconds: float = FEW) -> float:
    """Seconds of the fastest of many runs."""
    best, end = float("inf"), time.perf_counter() + seconds
    run()
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def bound(runner: ort.InferenceSession, feeds: dict[str, np.ndarray]) -> Callable[[], object]:
    """A call without copies: inputs and outputs bound to memory in advance."""
    results = runner.run(None, feeds)
    binding = runner.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
    for output, value in zip(runner.get_outputs(), results, strict=True):
        binding.bind_ortvalue_output(output.name, ort.OrtValue.ortvalue_from_numpy(np.asarray(value, order="C")))
    return lambda: runner.run_with_iobinding(binding)


def feeds_of(case: Case) -> dict[str, np.ndarray]:
    """Inputs that are not constants."""
    return {
        f"x{slot}": np.asarray(value)
        for slot, value in enumerate(case.inputs)
        if value is not None and slot not in case.constants
    }


def cost_of(case: Case, results: Sequence[np.ndarray]) -> Cost:
    """What our table says about the case."""
    node = Node(
        case.key, case.domain, case.op_type, 1, tuple(f"x{i}" for i in range(len(case.inputs))), ("y",), case.attributes
    )

    def operand(slot: int, value: np.ndarray) -> Operand:
        return Operand(
            Tensor(f"x{slot}", value.dtype.name, value.ndim, slot in case.constants, shape=value.shape), value.shape
        )

    inputs = [None if value is None else operand(slot, np.asarray(value)) for slot, value in enumerate(case.inputs)]
    row = find(node)
    if row is None:
        raise LookupError(node.operator)
    return row.cost(node, inputs, [operand(-1, np.asarray(value)) for value in results])


TINY = Case("tiny", "Neg", [f32(4, 4)])
CONSTANTS = {
    "zero": ints(0),
    "one": ints(1),
    "four": ints(4),
    "sizes": ints(4, 4),
    "back": ints(3, 2, 1, 0),
    "row": f32(4),
}
MIXED: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...] = (
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


def chain_of(nodes: Sequence[onnx.NodeProto]) -> bytes:
    """A model of nodes that hand 16 elements on from x0 to x1 and so forth."""
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [4, 4])],
        [helper.make_empty_tensor_value_info(f"x{len(nodes)}")],
        [numpy_helper.from_array(value, name) for name, value in CONSTANTS.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("graphopt.fused", 1)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())


def cold(run: Callable[[], object], repeats: int = 100) -> float:
    """Seconds of the fastest run when something else has filled the caches before."""
    other = np.zeros(8 << 20, np.uint8)
    best = float("inf")
    for i in range(repeats):
        other[:] = i % 7
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def per_node(call: float) -> float:
    """Seconds per node of a chain of 56 nodes on 16 elements, after something else has filled the caches."""
    nodes = [
        helper.make_node(op_type, [f"x{i}", *constants], [f"x{i + 1}"], **attributes)
        for i, (op_type, constants, attributes) in enumerate(4 * MIXED)
    ]
    return (cold(bound(session(chain_of(nodes)), {"x0": f32(4, 4)})) - call) / len(nodes)


def per_kernel(call: float) -> float:
    """The same for a chain of 56 calls of 14 different generated kernels, of two operators each."""
    bodies = []
    for count in range(14):
        ends = ("x", "z"), ("y",)
        nodes = (
            Node("a", "", "Add", 17, ("x", "z"), ("t0",), {}),
            *(Node(f"r{i}", "", "Neg", 17, (f"t{i}",), (f"t{i + 1}",), {}) for i in range(count)),
            Node("b", "", "Relu", 17, (f"t{count}",), ("y",), {}),
        )
        names = dict.fromkeys(name for node in nodes for name in (*node.inputs, *node.outputs))
        tensors = {name: Tensor(name, "float32", 1 if name == "z" else 2) for name in names}
        bodies.append(kernels.FusedOperator(f"Chain{count}", OperatorGraph("body", nodes, tensors, *ends)))
    calls = [
        helper.make_node(f"Chain{i % 14}", [f"x{i}", "row"], [f"x{i + 1}"], domain="graphopt.fused") for i in range(56)
    ]
    with tempfile.TemporaryDirectory() as folder:
        library = kernels.build_library(bodies, Path(folder), "measure")
        return (cold(bound(session(chain_of(calls), library), {"x0": f32(4, 4)})) - call) / len(calls)


def bandwidth(size: int) -> float:
    """Bytes per second of an addition of two tensors whose operands and result take ``size`` bytes."""
    count = size // 12
    case = Case("bandwidth", "Add", [f32(count), f32(count)])
    return size / fastest(bound(session(model(case)), feeds_of(case)), 0.5)


def operator_rates(only: str, call: float) -> Iterator[tuple[str, float, str]]:
    """Key, rate and unit of each case, as onnxruntime runs it."""
    for case in CASES:
        if only not in case.key:
            continue
        runner = session(model(case))
        results = runner.run(None, feeds_of(case))
        cost = cost_of(case, results)
        seconds = fastest(bound(runner, feeds_of(case))) - call
        if cost.flops:
            yield case.key, cost.flops / seconds, "flop/s"
        else:
            yield case.key, sum(np.asarray(value).size for value in results) / seconds, "element/s"


KERNELS: dict[str, tuple[str, str, int]] = {  # key: domain, type, operands
    "div": ("", "Div", 2),
    "sqrt": ("", "Sqrt", 1),
    "exp": ("", "Exp", 1),
    "log": ("", "Log", 1),
    "pow": ("", "Pow", 2),
    "erf": ("", "Erf", 1),
    "tanh": ("", "Tanh", 1),
    "sigmoid": ("", "Sigmoid", 1),
    "sin": ("", "Sin", 1),
    "Softplus": ("", "Softplus", 1),
    "Gelu": ("", "Gelu", 1),
    "com.microsoft.Gelu": (MS, "Gelu", 1),
    "com.microsoft.BiasGelu": (MS, "BiasGelu", 2),
    "com.microsoft.FastGelu": (MS, "FastGelu", 1),
    "com.microsoft.QuickGelu": (MS, "QuickGelu", 1),
    "Swish": ("", "Swish", 1),
    "Mish": ("", "Mish", 1),
}
STRIDED: dict[str, tuple[str, str, Shape, Shape, dict[str, AttributeValue]]] = {
    "transpose": ("", "Transpose", (4, 128, 2, 64), (4, 2, 128, 64), {"perm": (0, 2, 1, 3)}),
    f"{BLOCKED}.ReorderOutput": (BLOCKED, "ReorderOutput", (1, 64, 32, 32), (1, 64, 32, 32), {"channels": 64}),
    f"{BLOCKED}.ReorderInput": (BLOCKED, "ReorderInput", (1, 64, 32, 32), (1, 64, 32, 32), {}),
}
LINKS = 32


def kernel_seconds(nodes: Sequence[Node], shapes: dict[str, Shape], call: float) -> float:
    """Seconds of a generated kernel that computes ``y`` from ``x`` and, where a node reads it, ``z``."""
    operands = [name for name in ("x", "z") if any(name in node.inputs for node in nodes)]
    tensors = {name: Tensor(name, "float32", len(shape)) for name, shape in shapes.items()}
    body = OperatorGraph("body", tuple(nodes), tensors, tuple(operands), ("y",))
    graph = helper.make_graph(
        [helper.make_node("Measured", operands, ["y"], domain="graphopt.fused")],
        "kernel",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in operands],
        [helper.make_empty_tensor_value_info("y")],
    )
    blob = helper.make_model(graph, opset_imports=[helper.make_opsetid("graphopt.fused", 1)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        fused = kernels.FusedOperator("Measured", body, (shapes,))
        library = kernels.build_library([fused], Path(folder), "measure")
        run = bound(session(blob.SerializeToString(), library), {name: f32(*shapes[name]) for name in operands})
        return fastest(run) - call


def kernel_rates(only: str, call: float) -> Iterator[tuple[str, float, str]]:
    """The same inside of generated kernels."""
    shapes = dict.fromkeys(("x", "z", "y", *(f"t{i}" for i in range(LINKS))), X.shape)
    names = ["x", *(f"t{i}" for i in range(LINKS - 1)), "y"]
    chain = [
        Node(f"n{i}", "", "Mul" if i % 2 else "Add", 17, (names[i], "z"), (names[i + 1],), {}) for i in range(LINKS)
    ]
    for key in ("add", "mul"):
        if only in key:
            yield key, LINKS * N / kernel_seconds(chain, shapes, call), "flop/s"
    for key, (domain, op_type, count) in KERNELS.items():
        if only in key:
            node = Node("n", domain, op_type, 21, ("x", "z")[:count], ("y",), {})
            row = find(node)
            operand = Operand(Tensor("x", "float32", 2), X.shape)
            flops = row.cost(node, [operand] * count, [operand]).flops if row is not None else 0
            yield key, flops / kernel_seconds([node], shapes, call), "flop/s"
    for key, (domain, op_type, before, after, attributes) in STRIDED.items():
        if only in key:
            turn = Node("a", domain, op_type, 17, ("x",), ("t",), attributes)
            pair = [turn, Node("b", "", "Neg", 17, ("t",), ("y",), {})]
            yield key, N / kernel_seconds(pair, {"x": before, "t": after, "y": after}, call), "element/s"


def line(key: str, value: float, unit: str) -> str:
    """A number of a machine file."""
    name = key if key.isidentifier() else f'"{key}"'
    return (
        f'{name} = {{ value = {value:.3g}, unit = "{unit}", kind = "measured", scope = "core", source = "measured" }}'
    )


def main() -> None:
    """Print the numbers as sections of a machine file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="measure operators whose key contains this")
    only = parser.parse_args().only
    call = fastest(bound(session(model(TINY)), feeds_of(TINY)), 0.5)
    print(f"# onnxruntime {ort.__version__}, load {os.getloadavg()[0]:.1f}, {call * 1e6:.2f} us per call")
    if not only:
        for size in (1 << 20, 24 << 20, 1 << 30):
            print(f"# working set of {size >> 20} MiB")
            print(line("bandwidth", bandwidth(size), "byte/s"))
        print("\n[overhead]")
        print(line("per_node", per_node(call), "s"))
        print(line("per_kernel", per_kernel(call), "s"))
    print("\n[rates]")
    for key, value, unit in operator_rates(only, call):
        print(line(key, value, unit))
    print("\n[kernel_rates]")
    for key, value, unit in kernel_rates(only, call):
        print(line(key, value, unit))


if __name__ == "__main__":
    main()
