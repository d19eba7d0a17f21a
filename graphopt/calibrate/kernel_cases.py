"""What ``calibrate`` measures of generated kernels: the same classes, inside of one fused operator each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from graphopt import kernels, operators
from graphopt.calibrate.cases import BLOCKED, MS
from graphopt.graph import AttributeValue, Capture, Node, OperatorGraph, Shape, Tensor
from graphopt.operators.pieces import pieces

LINKS = 32
"""Operators of a chain whose operands stay in registers, so that only arithmetic is left."""

_SIZE: Shape = (256, 256)


@dataclass(frozen=True)
class KernelCase:
    """A fused operator to time.

    Attributes:
        key: the kernel rate that it measures.
        nodes: its operators; it reads ``x`` (and ``z``) and the constants, and computes ``y``.
        shapes: of all tensors.
        constants: names of operands that are initializers.
        counted: nodes whose work the rate divides.
        elements: whether the rate counts elements of the result in place of operations.
        indices: names of operands that are indices, of 64 bits.
    """

    key: str
    nodes: tuple[Node, ...]
    shapes: Mapping[str, Shape]
    constants: tuple[str, ...] = ()
    counted: tuple[int, ...] = (0,)
    elements: bool = False
    indices: tuple[str, ...] = ()

    @cached_property
    def capture(self) -> Capture:
        """The case as a graph with shapes."""
        tensors = {
            name: Tensor(
                name,
                "int64" if name in self.indices else "float32",
                len(shape),
                name in self.constants,
                None,
                shape if name in self.constants else None,
            )
            for name, shape in self.shapes.items()
        }
        read = dict.fromkeys(name for node in self.nodes for name in node.inputs if name)
        made = {name for node in self.nodes for name in node.outputs}
        inputs = tuple(name for name in read if name not in made)
        graph = OperatorGraph("body", self.nodes, tensors, inputs, ("y",))
        return Capture(graph, {name: shape for name, shape in self.shapes.items() if name not in self.constants})

    @property
    def work(self) -> float:
        """What its rate counts."""
        if self.elements:
            return float(sum(_count(self.shapes[name]) for index in self.counted for name in self.nodes[index].outputs))
        costs = [operators.cost(self.capture, index) for index in self.counted]
        return float(sum(cost.flops for cost in costs if cost is not None))

    @property
    def pieces(self) -> int:
        """Pieces of the nodes that are counted."""
        total = 0
        for index in self.counted:
            node = self.nodes[index]
            row = operators.find(node)
            if row is not None:
                shapes = [self.shapes.get(name) for name in node.inputs]
                total += pieces(self.capture.graph, node, row, shapes, [self.shapes[name] for name in node.outputs])
        return total

    @property
    def fused(self) -> kernels.FusedOperator:
        """What the kernel generator makes a kernel of; the name says which case it is."""
        sizes = [size for name in (*self.constants[:1], "x") for size in self.shapes[name]]
        text = "_".join(map(str, (self.key, self.nodes[0].op_type, *sizes)))
        name = "".join(c if c.isalnum() else "_" for c in text)
        return kernels.FusedOperator(name, self.capture.graph, (self.shapes,))


def _count(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _node(index: int, operator: str, inputs: Sequence[str], output: str, **attributes: AttributeValue) -> Node:
    domain, _, op_type = operator.rpartition(".")
    return Node(f"n{index}", domain, op_type, 21 if not domain else 1, tuple(inputs), (output,), attributes)


def _chain(operator: str, key: str) -> KernelCase:
    """Additions and products in turn; what is left is the arithmetic of registers."""
    names = ["x", *(f"t{i}" for i in range(LINKS - 1)), "y"]
    other = {"Add": "Mul", "Mul": "Add"}[operator]
    nodes = tuple(_node(i, other if i % 2 else operator, (names[i], "z"), names[i + 1]) for i in range(LINKS))
    shapes = dict.fromkeys((*names, "z"), _SIZE)
    return KernelCase(key, nodes, shapes, counted=tuple(range(LINKS)))


def _function(operator: str, key: str, operands: int = 1) -> KernelCase:
    names = ("x", "z")[:operands]
    return KernelCase(key, (_node(0, operator, names, "y"),), dict.fromkeys((*names, "y"), _SIZE))


def _broadcast(operator: str, key: str, shape: Shape, other: Shape) -> KernelCase:
    """An operand that repeats, so that a kernel copies it out before it computes."""
    return KernelCase(key, (_node(0, operator, ("x", "z"), "y"),), {"x": shape, "z": other, "y": shape}, elements=True)


def _copies(rows: int, size: int) -> tuple[KernelCase, ...]:
    """Stretches of so many elements that are put together, or cut out, before something computes."""
    joined: Shape = (rows, 2 * size)
    single: Shape = (rows, size)
    concat = (_node(0, "Concat", ("x", "z"), "t", axis=1), _node(1, "Neg", ("t",), "y"))
    cut = (_node(0, "Slice", ("x",), "t", starts=(0,), ends=(size,), axes=(1,)), _node(1, "Neg", ("t",), "y"))
    return (
        KernelCase("copy", concat, {"x": single, "z": single, "t": joined, "y": joined}, elements=True),
        KernelCase("copy", cut, {"x": joined, "t": single, "y": single}, elements=True),
    )


def _picked(rows: int, size: int) -> KernelCase:
    """Rows of a table that a kernel picks before it computes."""
    nodes = (_node(0, "Gather", ("w", "x"), "t", axis=0), _node(1, "Neg", ("t",), "y"))
    shapes = {"w": (512, size), "x": (rows,), "t": (rows, size), "y": (rows, size)}
    return KernelCase("gather", nodes, shapes, ("w",), elements=True, indices=("x",))


def _turn(operator: str, key: str, before: Shape, after: Shape, **attributes: AttributeValue) -> KernelCase:
    """A change of order before something that computes."""
    nodes = (_node(0, operator, ("x",), "t", **attributes), _node(1, "Neg", ("t",), "y"))
    return KernelCase(key, nodes, {"x": before, "t": after, "y": after}, elements=True)


def _picked_columns() -> KernelCase:
    """Single elements of each row, picked by constant indices."""
    nodes = (_node(0, "Gather", ("x", "i"), "t", axis=1), _node(1, "Neg", ("t",), "y"))
    shapes = {"x": (256, 300), "i": (250,), "t": (256, 250), "y": (256, 250)}
    return KernelCase("gather_elements", nodes, shapes, ("i",), elements=True, indices=("i",))


def _rows(operator: str, key: str, vectors: int = 0, **attributes: AttributeValue) -> tuple[KernelCase, ...]:
    """Long and short rows along the last axis, with vectors of the row's length as constants."""
    found = []
    for size in (512, 64):
        shape = (65536 // size, size)
        constants = tuple(f"c{i}" for i in range(vectors))
        result = shape if not operator.startswith("Reduce") else (shape[0], 1)
        shapes = {"x": shape, "y": result} | dict.fromkeys(constants, (size,))
        found.append(KernelCase(key, (_node(0, operator, ("x", *constants), "y", **attributes),), shapes, constants))
    return tuple(found)


def _product(rows: int, depth: int, columns: int) -> KernelCase:
    """A matrix product by constant weights, and an activation."""
    nodes = (_node(0, "MatMul", ("x", "w"), "t"), _node(1, "Relu", ("t",), "y"))
    shapes = {"x": (rows, depth), "w": (depth, columns), "t": (rows, columns), "y": (rows, columns)}
    return KernelCase("gemm" if rows > 1 else "gemm_row", nodes, shapes, ("w",))


def _conv(channels: int, out: int, size: int, kernel: int, group: int = 1) -> KernelCase:
    """A convolution in the blocked layout, with a bias and an activation behind it."""
    attributes: dict[str, AttributeValue] = {
        "kernel_shape": (kernel, kernel),
        "pads": (kernel // 2,) * 4,
        "group": group,
        "strides": (1, 1),
        "dilations": (1, 1),
        "auto_pad": "NOTSET",
    }
    nodes = (_node(0, f"{BLOCKED}.Conv", ("x", "w", "b"), "t", **attributes), _node(1, "Relu", ("t",), "y"))
    result: Shape = (1, out, size, size)
    shapes: dict[str, Shape] = {"x": (1, channels, size, size), "w": (out, channels // group, kernel, kernel)}
    shapes |= {"b": (out,), "t": result, "y": result}
    return KernelCase("conv_depthwise" if group > 1 else "conv", nodes, shapes, ("w", "b"))


FUNCTIONS: tuple[tuple[str, str, int], ...] = (
    ("Div", "div", 2),
    ("Sqrt", "sqrt", 1),
    ("Exp", "exp", 1),
    ("Log", "log", 1),
    ("Pow", "pow", 2),
    ("Erf", "erf", 1),
    ("Tanh", "tanh", 1),
    ("Sigmoid", "sigmoid", 1),
    ("Sin", "sin", 1),
    ("Softplus", "Softplus", 1),
    ("Gelu", "Gelu", 1),
    (f"{MS}.Gelu", f"{MS}.Gelu", 1),
    (f"{MS}.BiasGelu", f"{MS}.BiasGelu", 2),
    (f"{MS}.FastGelu", f"{MS}.FastGelu", 1),
    (f"{MS}.QuickGelu", f"{MS}.QuickGelu", 1),
    ("Swish", "Swish", 1),
    ("Mish", "Mish", 1),
)
"""Operator, rate, operands."""

_IMAGE: Shape = (1, 64, 28, 28)

CASES: tuple[KernelCase, ...] = (
    _chain("Add", "add"),
    _broadcast("Add", "broadcast", (2048, 32), (32,)),
    _chain("Mul", "mul"),
    _broadcast("Mul", "broadcast", (1, 1024, 8, 8), (1, 1024, 1, 1)),
    *_copies(64, 512),
    *_copies(1024, 32),
    _picked(1024, 64),
    _picked(4096, 8),
    _picked_columns(),
    *(_function(operator, key, operands) for operator, key, operands in FUNCTIONS),
    _turn("Transpose", "transpose", (4, 128, 2, 64), (4, 2, 128, 64), perm=(0, 2, 1, 3)),
    _turn("Transpose", "transpose", (4, 64, 16, 16), (4, 16, 64, 16), perm=(0, 2, 1, 3)),
    _turn("Transpose", "transpose_elements", (1, 240, 264), (1, 264, 240), perm=(0, 2, 1)),
    _turn(f"{BLOCKED}.ReorderOutput", f"{BLOCKED}.ReorderOutput", _IMAGE, _IMAGE, channels=64),
    _turn(f"{BLOCKED}.ReorderInput", f"{BLOCKED}.ReorderInput", _IMAGE, _IMAGE),
    *_rows("ReduceMean", "reduce", keepdims=1, axes=(-1,)),
    *_rows("Softmax", "softmax", axis=-1),
    *_rows("LayerNormalization", "layernorm", 2, axis=-1),
    _product(256, 256, 256),
    _product(128, 32, 256),
    _product(64, 512, 128),
    _product(1, 256, 512),
    _conv(64, 64, 28, 3),
    _conv(128, 128, 28, 1),
    _conv(32, 32, 28, 1),
    _conv(64, 64, 28, 3, 64),
    _conv(64, 64, 28, 5, 64),
)
"""What is timed, as far as a kernel can be generated for it."""


def generable() -> tuple[KernelCase, ...]:
    """The cases for which there are kernels."""
    return tuple(case for case in CASES if kernels.lowerable(case.capture.graph) is None)
