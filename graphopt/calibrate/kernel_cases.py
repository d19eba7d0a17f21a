"""What ``calibrate`` measures of generated kernels: the same classes, inside of one fused operator each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from graphopt import kernels, operators
from graphopt.calibrate.cases import BLOCKED, MS, Array, f32
from graphopt.calibrate.layers import RECURRENT, Layer, along_time, convolution, recurrent
from graphopt.graph import AttributeValue, Capture, Node, OperatorGraph, Shape, Tensor
from graphopt.operators.executed import Executed
from graphopt.operators.pieces import counts
from graphopt.roofline import BROADCAST, MOVED, SPECIAL, repeats
from graphopt.roofline.profile import profile_of

STEPS = 24
"""Products of the kernel that measures the price of a step."""
FEATURES = 22
TRIANGLE = tuple(FEATURES * row + column for row in range(FEATURES) for column in range(row))
"""Indices below the diagonal of FEATURES x FEATURES elements."""

LINKS = 32
"""Operators of a chain whose operands stay in registers, so that only arithmetic is left."""

UNIT = kernels.uses_matrix_unit()
"""Whether kernels use a matrix unit here."""

_SIZE: Shape = (256, 256)
_FLOATS: Mapping[str, str] = {}


@dataclass(frozen=True)
class KernelCase:
    """A fused operator to time.

    Attributes:
        base: the kernel rate that it measures, without the regime that its sizes put it in.
        nodes: its operators; it reads ``x`` (and ``z``) and the constants, and computes ``y``.
        shapes: of all tensors.
        constants: names of operands that are initializers.
        counted: nodes whose work the rate divides.
        elements: whether the rate counts elements of the result in place of operations.
        dtypes: of tensors other than float32, by name; int64 ones are indices.
    """

    base: str
    nodes: tuple[Node, ...]
    shapes: Mapping[str, Shape]
    constants: tuple[str, ...] = ()
    counted: tuple[int, ...] = (0,)
    elements: bool = False
    dtypes: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def executed(self) -> Executed | None:
        """What its kernel executes, where that differs from the operations of its first node."""
        return profile_of(self.capture).executed(0, unit=UNIT)

    @property
    def key(self) -> str:
        """The kernel rate that it measures."""
        regime = self.executed.regime if self.executed is not None else ""
        return f"{self.base}{SPECIAL}{regime}" if regime else self.base

    @cached_property
    def capture(self) -> Capture:
        """The case as a graph with shapes."""
        tensors = {
            name: Tensor(
                name,
                self.dtypes.get(name, "float32"),
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

    def value(self, name: str, rng: np.random.Generator) -> Array:
        """An operand."""
        dtype, shape = self.dtypes.get(name, "float32"), self.shapes[name]
        if dtype == "float32":
            return f32(*shape)
        if dtype == "int64":
            return np.asarray(TRIANGLE) if name in self.constants else rng.integers(0, 500, shape)
        return rng.integers(100, 120, shape).astype(dtype)

    @property
    def work(self) -> float:
        """What its rate counts."""
        if self.executed is not None:
            return self.executed.operations
        if self.elements:
            return float(sum(_count(self.shapes[name]) for index in self.counted for name in self.nodes[index].outputs))
        costs = [operators.cost(self.capture, index) for index in self.counted]
        return float(sum(cost.flops for cost in costs if cost is not None))

    @property
    def counts(self) -> Mapping[str, float]:
        """What else the nodes that are counted work through (see ``operators.pieces`` and ``operators.executed``)."""
        if self.executed is not None:
            return self.executed.counts
        if self.base == BROADCAST:
            return repeats(self.shapes["y"], self.shapes["z"])
        total: Counter[str] = Counter()
        for index in self.counted:
            node = self.nodes[index]
            row = operators.find(node)
            if row is not None:
                shapes = [self.shapes.get(name) for name in node.inputs]
                results = [self.shapes[name] for name in node.outputs]
                total.update(counts(self.capture.graph, node, row, shapes, results))
        return dict(total)

    @property
    def apart(self) -> bool:
        """Whether it measures what a kernel packs for itself before it computes, which no traffic hides."""
        return self.elements and not self.key.endswith(MOVED) and not self.key.startswith("gather")

    @property
    def body(self) -> OperatorGraph:
        """The operators, without the sizes of the constants."""
        graph = self.capture.graph
        tensors = {name: replace(tensor, shape=None) for name, tensor in graph.tensors.items()}
        return replace(graph, tensors=tensors)


def fused_operators(cases: Sequence[KernelCase]) -> tuple[list[kernels.FusedOperator], list[str]]:
    """What the kernel generator makes kernels of, and each case's name.

    Convolutions that differ in sizes alone share a kernel, for these take longest to compile; other kernels are made
    for the sizes of their examples.
    """
    groups: dict[str, list[KernelCase]] = {}
    for case in cases:
        groups.setdefault(_identity(case), []).append(case)
    names = {identity: f"Case{number}" for number, identity in enumerate(groups)}
    fused = [
        kernels.FusedOperator(names[identity], group[0].body, tuple(case.shapes for case in group))
        for identity, group in groups.items()
    ]
    return fused, [names[_identity(case)] for case in cases]


def _identity(case: KernelCase) -> str:
    ranks = {name: (tensor.dtype, tensor.rank, tensor.constant) for name, tensor in case.body.tensors.items()}
    sizes = () if "Conv" in case.nodes[0].op_type else sorted(case.shapes.items())
    return repr((case.nodes, sorted(ranks.items()), sizes))


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


def _casts() -> KernelCase:
    """To integers and back."""
    nodes = (_node(0, "Cast", ("x",), "t", to=6), _node(1, "Cast", ("t",), "y", to=1))
    return KernelCase("cast", nodes, dict.fromkeys("xty", _SIZE), counted=(0, 1), dtypes={"t": "int32"})


def _joined(operands: int, rows: int, size: int) -> tuple[KernelCase, ...]:
    """Many operands that are put together."""
    names = ["x", *(f"x{i}" for i in range(1, operands))]
    single: Shape = (rows, size)
    shapes = {**dict.fromkeys(names, single), "y": (rows, operands * size)}
    key = "copy" if size > 1 else f"copy{SPECIAL}elements"
    return _both(key, (_node(0, "Concat", names, "y", axis=1),), shapes)


def _broadcast(operator: str, shape: Shape, other: Shape) -> KernelCase:
    """An operand that repeats, so that a kernel copies it out before it computes."""
    shapes = {"x": shape, "z": other, "y": shape}
    return KernelCase(BROADCAST, (_node(0, operator, ("x", "z"), "y"),), shapes, elements=True)


def _both(
    key: str,
    nodes: Sequence[Node],
    shapes: Mapping[str, Shape],
    constants: tuple[str, ...] = (),
    dtypes: Mapping[str, str] = _FLOATS,
) -> tuple[KernelCase, ...]:
    """Something that moves ``x`` to ``y``, by itself, and once more before something that computes."""
    last = nodes[-1]
    before = (*nodes[:-1], replace(last, outputs=("t",)), _node(len(nodes), "Neg", ("t",), "y"))
    counted, later = tuple(range(len(nodes))), {**shapes, "t": shapes["y"]}
    return (
        KernelCase(f"{key}{SPECIAL}{MOVED}", tuple(nodes), shapes, constants, counted, elements=True, dtypes=dtypes),
        KernelCase(key, before, later, constants, counted, elements=True, dtypes=dtypes),
    )


def _copies(rows: int, size: int) -> tuple[KernelCase, ...]:
    """Stretches of so many elements that are put together, or cut out."""
    joined: Shape = (rows, 2 * size)
    single: Shape = (rows, size)
    cut = _node(0, "Slice", ("x",), "y", starts=(0,), ends=(size,), axes=(1,))
    return (
        *_both("copy", (_node(0, "Concat", ("x", "z"), "y", axis=1),), {"x": single, "z": single, "y": joined}),
        *_both("copy", (cut,), {"x": joined, "y": single}),
    )


def _picked(rows: int, size: int) -> tuple[KernelCase, ...]:
    """Rows of a table that a kernel picks."""
    shapes = {"w": (512, size), "x": (rows,), "y": (rows, size)}
    return _both(
        "gather", (_node(0, "Gather", ("w", "x"), "y", axis=0),), shapes, constants=("w",), dtypes={"x": "int64"}
    )


def _turn(operator: str, key: str, before: Shape, after: Shape, **attributes: AttributeValue) -> tuple[KernelCase, ...]:
    """A change of order."""
    return _both(key, (_node(0, operator, ("x",), "y", **attributes),), {"x": before, "y": after})


def _reorder(op_type: str, key: str, channels: int, size: int) -> tuple[KernelCase, ...]:
    padded = -(-channels // 16) * 16
    image: Shape = (1, channels, size, size)
    stored: Shape = (1, padded, size, size)
    attributes: dict[str, AttributeValue] = {"channels": channels} if op_type == "ReorderOutput" else {}
    before, after = (stored, image) if op_type == "ReorderOutput" else (image, stored)
    return _turn(f"{BLOCKED}.{op_type}", f"{BLOCKED}.{op_type}{key}", before, after, **attributes)


def _picked_columns() -> tuple[KernelCase, ...]:
    """Single elements of each row, picked by constant indices: those below a diagonal, as of feature pairs."""
    count = len(TRIANGLE)
    shapes = {"x": (160, FEATURES**2), "i": (count,), "y": (160, count)}
    nodes = (_node(0, "Gather", ("x", "i"), "y", axis=1),)
    return _both("gather_elements", nodes, shapes, constants=("i",), dtypes={"i": "int64"})


def _rows(operator: str, key: str, vectors: int = 0, **attributes: AttributeValue) -> tuple[KernelCase, ...]:
    """Rows of several lengths along the last axis, with vectors of the row's length as constants."""
    found = []
    for rows, size in ((128, 512), (1024, 64), (256, 200), (1000, 49), (3000, 16), (48, 240), (900, 160)):
        shape = (rows, size)
        constants = tuple(f"c{i}" for i in range(vectors))
        result = shape if not operator.startswith("Reduce") else (shape[0], 1)
        shapes = {"x": shape, "y": result} | dict.fromkeys(constants, (size,))
        found.append(KernelCase(key, (_node(0, operator, ("x", *constants), "y", **attributes),), shapes, constants))
    return tuple(found)


def _stacked(outer: int, rows: int, columns: int) -> KernelCase:
    """Sums of rows that lie on top of each other."""
    shapes = {"x": (outer, rows, columns), "y": (outer, 1, columns)}
    return KernelCase("reduce", (_node(0, "ReduceMean", ("x",), "y", axes=(1,), keepdims=1),), shapes)


def _pooled(channels: int, size: int) -> KernelCase:
    """Means of an image in the blocked layout."""
    shapes = {"x": (1, channels, size, size), "y": (1, channels, 1, 1)}
    return KernelCase("reduce", (_node(0, f"{BLOCKED}.GlobalAveragePool", ("x",), "y"),), shapes)


def _window(domain: str, channels: int, size: int, taps: int, stride: int) -> KernelCase:
    """The greatest elements under windows."""
    pad = (taps - 1) // 2
    window = {"kernel_shape": (taps,) * 2, "strides": (stride,) * 2, "pads": (pad,) * 4}
    after = (size + 2 * pad - taps) // stride + 1
    shapes = {"x": (1, channels, size, size), "y": (1, channels, after, after)}
    return KernelCase("pool", (_node(0, f"{domain}MaxPool", ("x",), "y", **window),), shapes)


def _product(rows: int, depth: int, columns: int) -> KernelCase:
    """A matrix product by constant weights, and an activation."""
    nodes = (_node(0, "MatMul", ("x", "w"), "t"), _node(1, "Relu", ("t",), "y"))
    shapes = {"x": (rows, depth), "w": (depth, columns), "t": (rows, columns), "y": (rows, columns)}
    return KernelCase("gemm", nodes, shapes, ("w",))


def _heads(number: int, rows: int, depth: int, columns: int, *, turned: bool = False) -> KernelCase:
    """Products of computed matrices, as many as there are heads."""
    right = (number, columns, depth) if turned else (number, depth, columns)
    shapes = {"x": (number, rows, depth), "z": right} | dict.fromkeys("ty", (number, rows, columns))
    product = (
        _node(0, f"{MS}.FusedMatMul", ("x", "z"), "t", transB=1) if turned else _node(0, "MatMul", ("x", "z"), "t")
    )
    return KernelCase("gemm", (product, _node(1, "Relu", ("t",), "y")), shapes)


def _layer(base: str, operator: str, layer: Layer, after: str) -> KernelCase:
    """A layer by constant weights, and an operator behind it, if any."""
    operands = tuple(name for name in "xwrb" if name in layer.shapes)
    if not after:
        return KernelCase(base, (_node(0, operator, operands, "y", **layer.attributes),), layer.shapes, operands[1:])
    nodes = (_node(0, operator, operands, "t", **layer.attributes), _node(1, after, ("t",), "y"))
    return KernelCase(base, nodes, {**layer.shapes, "t": layer.shapes["y"]}, operands[1:])


def _conv(base: str, *sizes: Any, plain: bool = False, after: str = "Relu", **more: int) -> KernelCase:
    return _layer(base, "Conv" if plain else f"{BLOCKED}.Conv", convolution(*sizes, **more), after)


def _along_time(*sizes: int, batch: int = 1) -> KernelCase:
    return _layer("conv_plain", "Conv", along_time(*sizes, batch=batch), "Relu")


def _normalized(channels: int, size: int) -> KernelCase:
    """Channels by sums of their neighbours' squares."""
    node = _node(0, "LRN", ("x",), "y", size=5, alpha=1e-4, beta=0.75, bias=1.0)
    return KernelCase("lrn", (node,), dict.fromkeys("xy", (1, channels, size, size)))


def _largest(rows: int, size: int) -> KernelCase:
    """Where each row has its largest element."""
    shapes: dict[str, Shape] = {"x": (rows, size), "y": (rows, 1)}
    return KernelCase("argmax", (_node(0, "ArgMax", ("x",), "y", axis=1, keepdims=1),), shapes, dtypes={"y": "int64"})


QUANTIZED_OPERANDS = {
    "MatMulInteger": ("x", "w", "x_zero", "w_zero"),
    "ConvInteger": ("x", "w", "x_zero", "w_zero"),
    f"{MS}.MatMulIntegerToFloat": ("x", "w", "x_scale", "w_scale", "x_zero", "w_zero"),
    f"{MS}.DynamicQuantizeMatMul": ("x", "w", "w_scale", "w_zero"),
    "QLinearMatMul": ("x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"),
    "QLinearConv": ("x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"),
    "QuantizeLinear": ("x", "y_scale", "y_zero"),
    "DequantizeLinear": ("x", "x_scale", "x_zero"),
    f"{MS}.QLinearSoftmax": ("x", "x_scale", "x_zero", "y_scale", "y_zero"),
}
"""Operators on integers of eight bits, by their operands: all but ``x`` and ``w`` are single constants."""
_RESULTS = {
    "MatMulInteger": "int32",
    "ConvInteger": "int32",
    f"{MS}.QLinearSoftmax": "uint8",
    "QuantizeLinear": "uint8",
}


def _quantized(key: str, operator: str, shapes: Mapping[str, Shape], **attributes: AttributeValue) -> KernelCase:
    """An operator on integers without a sign; ``w`` is a constant, unless it is several matrices."""
    operands = QUANTIZED_OPERANDS[operator]
    single = tuple(name for name in operands if name not in "xw")
    constants = single if len(shapes.get("w", ())) == 3 else (*single, "w")
    floats = {name for name in operands if name.endswith("_scale")}
    if operator in ("QuantizeLinear", f"{MS}.DynamicQuantizeMatMul"):
        floats.add("x")
    dtypes = {name: "uint8" for name in operands if name not in floats}
    result = _RESULTS.get(operator, "uint8" if operator.startswith("QLinear") else "float32")
    nodes = (_node(0, operator, operands, "y", **attributes),)
    return KernelCase(key, nodes, {**shapes, **dict.fromkeys(single, ())}, constants, dtypes=dtypes | {"y": result})


def _integer_product(operator: str, rows: int, depth: int, columns: int, number: int = 0) -> KernelCase:
    """A product of matrices of integers, or of several computed ones."""
    front = (number,) if number else ()
    shapes = {"x": (*front, rows, depth), "w": (*front, depth, columns), "y": (*front, rows, columns)}
    return _quantized("gemm_int8", operator, shapes)


def _integer_conv(operator: str, *sizes: Any) -> KernelCase:
    layer = convolution(*sizes)
    return _quantized("conv_int8", operator, {name: layer.shapes[name] for name in "xwy"}, **layer.attributes)


def _steps() -> KernelCase:
    """Small products behind each other: what a step of a kernel costs."""
    names = ["x", *(f"t{i}" for i in range(STEPS - 1)), "y"]
    weights = tuple(f"w{i}" for i in range(STEPS))
    nodes = tuple(_node(i, "MatMul", (names[i], weights[i]), names[i + 1]) for i in range(STEPS))
    row, square = (1, 16), (16, 16)
    shapes: dict[str, Shape] = {**dict.fromkeys(names, row), **dict.fromkeys(weights, square)}
    return KernelCase("step", nodes, shapes, weights, counted=(), elements=True)


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

PRODUCTS = (
    (1, 256, 512),
    (1, 1200, 100),
    (1, 96, 200),
    (2, 128, 300),
    (4, 160, 1024),
    (4, 256, 400),
    (4, 700, 900),
    (7, 600, 90),
    (70, 300, 1),
    (200, 40, 2),
    (9, 900, 3),
    (8, 400, 500),
    (30, 24, 40),
    (80, 256, 8),
    (60, 12, 200),
    (16, 200, 192),
    (8, 640, 640),
    (12, 1000, 1000),
    (48, 320, 200),
    (64, 512, 128),
    (72, 80, 500),
    (128, 32, 256),
    (160, 144, 600),
    (256, 256, 256),
    (600, 100, 96),
    (64, 1024, 1024),
    (100, 900, 1200),
)
"""Rows, depth and columns of products by constant weights."""

STACKS = ((64, 49, 64), (300, 10, 32), (16, 200, 128), (1, 300, 400), (8, 24, 1000))
"""Outer sizes, rows and columns of sums of rows that lie on top of each other."""

WINDOWS = (
    *((f"{BLOCKED}.", *sizes) for sizes in ((64, 40, 3, 1), (64, 60, 3, 2), (160, 20, 5, 1), (32, 50, 2, 2))),
    *(("", *sizes) for sizes in ((48, 30, 3, 1), (20, 60, 3, 1), (100, 20, 5, 1))),
    *(("", *sizes) for sizes in ((24, 70, 3, 2), (40, 40, 2, 2), (200, 18, 3, 2))),
)
"""Layout, channels, size of the image, taps and stride of pools."""

CASES: tuple[KernelCase, ...] = (
    _chain("Add", "add"),
    _chain("Mul", "mul"),
    _broadcast("Add", (2048, 32), (32,)),
    _broadcast("Add", (160, 384), (384,)),
    _broadcast("Mul", (1, 1024, 8, 8), (1, 1024, 1, 1)),
    _broadcast("Mul", (1, 64, 28, 28), (1, 64, 1, 1)),
    _broadcast("Mul", (1, 300, 13, 13), (1, 300, 1, 1)),
    _broadcast("Mul", (1, 200, 18, 18), (1, 200, 1, 1)),
    *_copies(64, 512),
    *_copies(1024, 32),
    *_joined(24, 64, 32),
    *_joined(10, 500, 8),
    *_joined(2, 9000, 1),
    *_joined(20, 200, 1),
    _casts(),
    *_picked(1024, 64),
    *_picked(4096, 8),
    *_picked_columns(),
    *(_function(operator, key, operands) for operator, key, operands in FUNCTIONS),
    *_turn("Transpose", "transpose", (4, 128, 2, 64), (4, 2, 128, 64), perm=(0, 2, 1, 3)),
    *_turn("Transpose", "transpose", (4, 64, 16, 16), (4, 16, 64, 16), perm=(0, 2, 1, 3)),
    *_turn("Transpose", "transpose", (1, 160, 8, 64), (1, 8, 160, 64), perm=(0, 2, 1, 3)),
    *_turn("Transpose", "transpose_elements", (1, 240, 264), (1, 264, 240), perm=(0, 2, 1)),
    *_turn("Transpose", "transpose_narrow", (1, 100, 100, 3), (1, 3, 100, 100), perm=(0, 3, 1, 2)),
    *_turn("Transpose", "transpose_narrow", (1, 3, 100, 100), (1, 100, 100, 3), perm=(0, 2, 3, 1)),
    *_turn("Transpose", "transpose_aliased", (1, 120, 512), (1, 512, 120), perm=(0, 2, 1)),
    *_reorder("ReorderOutput", "", 64, 28),
    *_reorder("ReorderOutput", "", 24, 36),
    *_reorder("ReorderOutput", "_uneven", 320, 13),
    *_reorder("ReorderInput", "", 64, 28),
    *_reorder("ReorderInput", "", 320, 13),
    *_reorder("ReorderInput", "", 24, 36),
    *_rows("ReduceMean", "reduce", keepdims=1, axes=(-1,)),
    *(_stacked(*sizes) for sizes in STACKS),
    *(_pooled(channels, size) for channels, size in ((320, 14), (960, 7), (160, 24), (64, 40))),
    *(_window(*sizes) for sizes in WINDOWS),
    *_rows("Softmax", "softmax", axis=-1),
    *_rows("LayerNormalization", "layernorm", 2, axis=-1),
    *(_product(*sizes) for sizes in PRODUCTS),
    _heads(8, 64, 64, 64),
    _heads(12, 50, 32, 50),
    _heads(48, 20, 24, 20),
    _heads(4, 160, 160, 64),
    _heads(6, 10, 12, 30),
    _heads(8, 64, 64, 64, turned=True),
    _heads(48, 20, 24, 20, turned=True),
    _heads(30, 40, 16, 40, turned=True),
    _conv("conv", 64, 64, 28, 3),
    _conv("conv", 32, 16, 28, 3),
    _conv("conv", 16, 16, 60, 3),
    _conv("conv", 160, 160, 7, 3),
    _conv("conv", 48, 48, 20, 3),
    _conv("conv", 256, 224, 12, 3),
    _conv("conv", 32, 48, 20, 5),
    _conv("conv", 64, 64, 40, (1, 3)),
    _conv("conv", 96, 96, 20, (3, 1)),
    _conv("conv", 3, 32, 80, 3),
    _conv("conv", 1, 64, 50, 3),
    _conv("conv", 32, 64, 28, 3, dilation=2),
    _conv("conv", 16, 16, 28, 7),
    _conv("conv", 32, 64, 28, 3, stride=2),
    _conv("conv", 48, 48, 20, 3, stride=2),
    _conv("conv", 3, 16, 100, 3, stride=2),
    _conv("conv_plain", 64, 64, 28, 3, stride=2, plain=True),
    _conv("conv_plain", 3, 32, 100, 3, stride=2, plain=True),
    _conv("conv", 128, 128, 28, 1),
    _conv("conv", 32, 32, 28, 1),
    _conv("conv", 16, 48, 60, 1),
    _conv("conv", 96, 16, 30, 1),
    _conv("conv", 320, 96, 7, 1),
    _conv("conv", 208, 480, 1, 1),
    _conv("conv", 48, 960, 1, 1),
    _conv("conv", 960, 240, 1, 1),
    _conv("conv", 160, 48, 1, 1),
    _conv("conv", 480, 96, 1, 1, batch=4),
    _conv("conv", 64, 128, 28, 1, stride=2),
    _conv("conv", 256, 512, 20, 1),
    _conv("conv", 160, 640, 12, 1),
    _conv("conv", 96, 96, 40, 3, stride=2),
    _conv("conv", 128, 160, 14, 3, stride=2),
    _conv("conv", 128, 144, 24, 3),
    _conv("conv_depthwise", 64, 64, 28, 3, 64),
    _conv("conv_depthwise", 64, 64, 28, 5, 64),
    _conv("conv_depthwise", 320, 320, 14, 3, 320),
    _conv("conv_depthwise", 800, 800, 7, 5, 800),
    _conv("conv_depthwise", 400, 400, 14, 1, 400, after=""),
    _conv("conv_depthwise", 96, 96, 30, 1, 96, after=""),
    _conv("conv_depthwise", 640, 640, 7, 1, 640, after=""),
    _conv("conv_depthwise", 48, 48, 60, 3, 48),
    _conv("conv_depthwise", 240, 240, 14, 7, 240),
    _conv("conv_depthwise", 96, 96, 20, 7, 96),
    _conv("conv_depthwise", 64, 64, 40, 3, 64, stride=2),
    _conv("conv_depthwise", 160, 160, 14, 5, 160, stride=2),
    _conv("conv_depthwise", 320, 320, 14, 3, 320, stride=2),
    _conv("conv_depthwise", 160, 160, 4, 3, 160, batch=6, stride=2),
    _conv("conv_plain", 64, 64, 28, 3, plain=True),
    _conv("conv_plain", 24, 72, 14, 5, plain=True),
    _conv("conv_plain", 8, 40, 60, 3, plain=True),
    _conv("conv_plain", 128, 128, 14, 3, 16, plain=True),
    _conv("conv_plain", 64, 64, 5, 3, batch=8, plain=True),
    _conv("conv_plain", 48, 96, 24, 3, plain=True),
    _along_time(96, 120, 300, 3),
    _along_time(100, 80, 4, 3, batch=12),
    _along_time(1, 130, 4000, 200),
    _along_time(300, 150, 1000, 1),
    _along_time(160, 96, 2000, 1),
    _integer_product("MatMulInteger", 128, 256, 256),
    _integer_product("MatMulInteger", 30, 500, 200),
    _integer_product("MatMulInteger", 300, 64, 400),
    _integer_product("MatMulInteger", 16, 1000, 300),
    _integer_product("MatMulInteger", 200, 200, 64, number=6),
    _integer_product("MatMulInteger", 64, 32, 64, number=12),
    _integer_product("QLinearMatMul", 160, 320, 240),
    _integer_product("QLinearMatMul", 150, 150, 64, number=4),
    _integer_product(f"{MS}.MatMulIntegerToFloat", 100, 256, 512),
    _integer_product(f"{MS}.DynamicQuantizeMatMul", 64, 384, 384),
    _integer_product(f"{MS}.DynamicQuantizeMatMul", 200, 512, 128),
    _integer_conv("ConvInteger", 64, 64, 28, 3),
    _integer_conv("ConvInteger", 16, 32, 40, 3),
    _integer_conv("ConvInteger", 8, 16, 50, 5),
    _integer_conv("ConvInteger", 128, 96, 14, 3),
    _integer_conv("ConvInteger", 96, 48, 20, 1),
    _integer_conv("ConvInteger", 80, 160, 30, 1),
    _integer_conv("QLinearConv", 32, 64, 28, 3),
    _integer_conv("QLinearConv", 64, 64, 20, 1),
    _quantized("quantize", "QuantizeLinear", dict.fromkeys("xy", _SIZE)),
    _quantized("dequantize", "DequantizeLinear", dict.fromkeys("xy", _SIZE)),
    *(
        _quantized("softmax_int8", f"{MS}.QLinearSoftmax", dict.fromkeys("xy", shape), axis=-1, opset=13)
        for shape in ((256, 256), (1000, 49), (300, 200))
    ),
    _normalized(64, 28),
    _normalized(192, 20),
    _largest(256, 200),
    _largest(1000, 49),
    _largest(64, 1000),
    _conv("conv_plain", 200, 50, 13, 1, plain=True),
    _conv("conv_plain", 144, 144, 20, 1, 4, plain=True),
    _conv("conv_plain", 64, 80, 30, 1, plain=True),
    _conv("conv_plain", 40, 16, 12, 1, batch=6, plain=True),
    *(_layer("recurrent", sizes[0], recurrent(*sizes), "Neg") for sizes in RECURRENT),
)
"""What is timed, as far as a kernel can be generated for it."""

READ_ELEMENTS = 1 << 17
"""Elements of a row that a kernel adds up to find how fast a second-level cache is read: more than the first holds."""


def reading(threads: int) -> KernelCase:
    """A row for each thread that is only read."""
    shapes = {"x": (threads, READ_ELEMENTS), "y": (threads, 1)}
    return KernelCase("reading", (_node(0, "ReduceSum", ("x",), "y", axes=(1,), keepdims=1),), shapes)


STEP = _steps()
"""Its time beyond that of a kernel, for each of its STEPS, is the price of a step."""


def generable() -> tuple[KernelCase, ...]:
    """The cases for which there are kernels."""
    return tuple(case for case in CASES if kernels.lowerable(case.capture.graph) is None)
