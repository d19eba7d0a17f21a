"""Kernels of single operators against onnxruntime's own, at sizes from the first-level cache to memory.

    python benchmarks/lone_operators.py [--threads N] [--only NAME …] [--bytes N …]

Both sessions hold the same number of independent nodes on one input, run without optimisation on bound inputs and
outputs, and take turns; the fastest turn of each counts. A ratio above 1 says that the kernel is faster.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from timeit import timeit
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from graphopt.calibrate.timing import bound, model_of, session
from graphopt.graph import AttributeValue, Node, OperatorGraph, Tensor
from graphopt.kernels import FusedOperator, build_library
from graphopt.operators.blocked import block_size

SIZES = (4 << 10, 64 << 10, 1 << 20, 16 << 20)
OPSET = 17
FUSED = "graphopt.fused"
NODES_BYTES = 1 << 20
"""Bytes of input that the nodes of one session read together, at least: a run's own overhead must not show."""
TURNS = 15
EXAMPLE = 1 << 16
"""Elements of the example that kernels are made for: several rows of each length."""
TURN_SECONDS = 4e-3


@dataclass(frozen=True)
class Lone:
    """One operator, or a chain of several.

    Attributes:
        steps: (operator type, domain, attributes, number of operands), each applied to the result of the one before.
        layout: ``flat`` for any shape; ``blocked`` and ``image`` for four dimensions; ``rows`` and a number of columns
            for what works along rows.
    """

    steps: tuple[tuple[str, str, dict[str, Any], int], ...]
    layout: str = "flat"
    scale: float = 1.0


def _one(op_type: str, domain: str = "", operands: int = 1, layout: str = "flat", **attributes: Any) -> Lone:
    return Lone(((op_type, domain, attributes, operands),), layout)


WHOLE_ROWS = ("Softmax", "LayerNormalization")
"""Operators along rows that give whole rows; others give one number for each."""
MICROSOFT, BLOCKED = "com.microsoft", "com.microsoft.nchwc"
CHANNELS = 64
OPERATORS: dict[str, Lone] = {
    "Exp": _one("Exp"),
    "Log": _one("Log"),
    "Tanh": _one("Tanh"),
    "Sigmoid": _one("Sigmoid"),
    "Erf": _one("Erf"),
    "Softplus": _one("Softplus"),
    "Sin": _one("Sin"),
    "Cos": _one("Cos"),
    "Sqrt": _one("Sqrt"),
    "Relu": _one("Relu"),
    "LeakyRelu": _one("LeakyRelu", alpha=0.1),
    "Elu": _one("Elu"),
    "HardSigmoid": _one("HardSigmoid"),
    "HardSwish": _one("HardSwish"),
    "Gelu": _one("Gelu", MICROSOFT),
    "FastGelu": _one("FastGelu", MICROSOFT),
    "QuickGelu": _one("QuickGelu", MICROSOFT, alpha=1.702),
    "Add": _one("Add", operands=2),
    "Mul": _one("Mul", operands=2),
    "Div": _one("Div", operands=2),
    "Pow": _one("Pow", operands=2),
    "Transpose 0213": _one("Transpose", layout="heads", perm=[0, 2, 1, 3]),
    "Transpose 0231": _one("Transpose", layout="image", perm=[0, 2, 3, 1]),
    "Transpose 021": _one("Transpose", layout="matrix", perm=[0, 2, 1]),
    "ReorderInput": _one("ReorderInput", BLOCKED, layout="image"),
    "ReorderOutput": _one("ReorderOutput", BLOCKED, layout="image", channels=CHANNELS),
    "Add, Relu": Lone((("Add", "", {}, 2), ("Relu", "", {}, 1))),
    "Sigmoid, Mul": Lone((("Sigmoid", "", {}, 1), ("Mul", "", {}, 2))),
    **{
        f"{op_type} {columns}": Lone(((op_type, "", attributes, operands),), f"rows {columns}")
        for columns in (64, 512, 4096)
        for op_type, attributes, operands in (
            ("Softmax", {"axis": -1}, 1),
            ("LayerNormalization", {"axis": -1}, 2),
            ("ReduceMax", {"axes": [-1]}, 1),
            ("ReduceMean", {"axes": [-1]}, 1),
            ("ArgMax", {"axis": -1}, 1),
        )
    },
    "Mul, Tanh, Mul": Lone((("Mul", "", {}, 2), ("Tanh", "", {}, 1), ("Mul", "", {}, 2))),
}


def shape_of(layout: str, elements: int) -> tuple[int, ...]:
    """A shape of about so many elements."""
    if layout == "image":
        side = max(1, round((elements / CHANNELS) ** 0.5))
        return (1, CHANNELS, side, side)
    if layout == "heads":
        return (1, max(1, elements // (8 * 64)), 8, 64)
    if layout == "matrix":
        side = max(1, round(elements**0.5))
        return (1, side, side)
    if layout.startswith("rows"):
        columns = int(layout.split()[1])
        return (max(1, elements // columns), columns)
    return (1, elements)


def nodes_of(lone: Lone, tag: str) -> tuple[list[NodeProto], str]:
    """The nodes of one copy and the name of its result."""
    nodes, current = [], "x"
    for number, (op_type, domain, attributes, operands) in enumerate(lone.steps):
        result = f"y{tag}_{number}"
        inputs = [current, *["z"] * (operands - 1)]
        nodes.append(helper.make_node(op_type, inputs, [result], domain=domain, **attributes))
        current = result
    return nodes, current


def fused_operator(name: str, lone: Lone, shape: Sequence[int]) -> FusedOperator:
    """The operator as a kernel is generated for it."""
    protos, result = nodes_of(lone, "")
    nodes = tuple(
        Node(f"n{i}", n.domain, n.op_type, OPSET, tuple(n.input), tuple(n.output), _attributes(n))
        for i, n in enumerate(protos)
    )
    names = [name for n in protos for name in (*n.input, *n.output)]
    shapes = {name: tuple(shape) for name in names}
    along_rows = lone.layout.startswith("rows")
    if along_rows:
        shapes["z"] = shapes["z"][-1:] if "z" in shapes else ()
        if nodes[0].op_type not in WHOLE_ROWS:
            shapes[result] = (*shape[:-1], 1)
    dtypes = {result: "int64"} if nodes[0].op_type == "ArgMax" else {}
    tensors = {name: Tensor(name, dtypes.get(name, "float32"), len(shapes[name]), False, None, None) for name in names}
    inputs = tuple(dict.fromkeys(name for name in names if name in "xz"))
    return FusedOperator(name, OperatorGraph(name, nodes, tensors, inputs, (result,)), (shapes,) if along_rows else ())


def _attributes(node: NodeProto) -> dict[str, AttributeValue]:
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def measure(name: str, lone: Lone, size: int, threads: int, library: Path, kernel: str) -> tuple[float, float, float]:
    """Seconds of one copy in onnxruntime and as a kernel, and the middle of the turns' ratios."""
    shape = shape_of(lone.layout, size // 4)
    random = np.random.default_rng(0)
    positive = name in ("Log", "Sqrt", "Pow")
    x = random.uniform(0.1 if positive else -4, 4, shape).astype(np.float32)
    operands = [count for _, _, _, count in lone.steps]
    other = shape[-1:] if lone.layout.startswith("rows") else shape
    feeds = {"x": x, **({"z": random.uniform(0.5, 2, other).astype(np.float32)} if max(operands) > 1 else {})}
    copies = max(1, min(64, NODES_BYTES // x.nbytes))
    stock_nodes, fused_nodes, stock_results, fused_results = [], [], [], []
    for copy in range(copies):
        protos, result = nodes_of(lone, str(copy))
        stock_nodes += protos
        stock_results.append(result)
        fused_results.append(f"f{copy}")
        fused_nodes.append(helper.make_node(kernel, list(feeds), [f"f{copy}"], domain=FUSED))
    stock = bound(session(model_of(stock_nodes, feeds, {}, stock_results, OPSET), threads), feeds)
    fused = bound(session(model_of(fused_nodes, feeds, {}, fused_results, OPSET), threads, library), feeds)
    runs = max(1, int(TURN_SECONDS / max(timeit(stock, number=2) / 2, 1e-7)))
    pairs = []
    for turn in range(TURNS):
        order = (stock, fused) if turn % 2 else (fused, stock)
        seconds = {run: timeit(run, number=runs) / runs for run in order}
        pairs.append((seconds[stock], seconds[fused]))
    ratio = statistics.median(a / b for a, b in pairs)
    return min(a for a, _ in pairs) / copies, min(b for _, b in pairs) / copies, ratio


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--bytes", nargs="*", type=int, default=SIZES)
    arguments = parser.parse_args()
    chosen = {name: lone for name, lone in OPERATORS.items() if not arguments.only or name in arguments.only}
    if block_size() == 0:
        chosen = {name: lone for name, lone in chosen.items() if not name.startswith("Reorder")}
    kernels = {name: f"lone{number}" for number, name in enumerate(chosen)}
    with tempfile.TemporaryDirectory() as folder:
        fused = [fused_operator(kernels[n], lone, shape_of(lone.layout, EXAMPLE)) for n, lone in chosen.items()]
        library = build_library(fused, Path(folder), "lone")
        print("| operator | " + " | ".join(f"{size >> 10} KiB: stock µs, kernel µs, ratio" for size in arguments.bytes))
        print("|---" * (1 + len(arguments.bytes)) + "|")
        for name, lone in chosen.items():
            cells = []
            for size in arguments.bytes:
                stock, kernel, ratio = measure(name, lone, size, arguments.threads, library, kernels[name])
                cells.append(f"{stock * 1e6:.1f}, {kernel * 1e6:.1f}, **{ratio:.2f}**")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
