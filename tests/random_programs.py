"""Random programs grown from the table of operators.

A program is a body of a few operators of any kind that has a lowering, with random dtypes, attributes and shapes, and
the numbers that it is fed. Most are small, so that odd sizes meet; some begin with operands that reach what pays for
larger ones only: products for the matrix unit, convolutions with fewer multiplications, embedding bags, recurrent
layers.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from graphopt.kernels import lowerable
from graphopt.operators.blocked import block_size
from tests.kernel_checks import Array, Case, compute, random_values

OPSET = 21
NEWEST = 24
DTYPES = ("float32",) * 7 + ("float16", "float64", "int32", "int64", "uint8", "int8")
SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 17, 33, 0)
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Known:
    """A tensor of the program as it grows; ``exact`` where both sides must agree in every bit."""

    name: str
    dtype: str
    exact: bool


class Builder:
    """A program as it grows, with the numbers of its first inputs."""

    def __init__(self, name: str, seed: int) -> None:
        self.random = np.random.default_rng([seed, 7])
        self.name = name
        self.opset = NEWEST if self.chance(0.15) else OPSET
        self.nodes: list[NodeProto] = []
        self.feeds: dict[str, Array] = {}
        self.values: dict[str, Array] = {}
        self.constants: dict[str, Array] = {}
        self.constant_inputs: set[str] = set()
        self.pool: list[Known] = []
        self.count = 0

    def fresh(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.random.integers(len(options)))]

    def number(self, low: float, high: float) -> float:
        return float(np.float32(self.random.uniform(low, high)))

    def input(self, shape: Sequence[int], dtype: str, *, constant: bool = False) -> str:
        name = self.fresh("x")
        self.feed(name, random_values(tuple(shape), dtype, int(self.random.integers(1 << 30))))
        if constant:
            self.constant_inputs.add(name)
        return name

    def feed(self, name: str, value: Array) -> None:
        self.feeds[name] = self.values[name] = value

    def inner(self, value: Array) -> str:
        """A constant inside of the body."""
        name = self.fresh("c")
        self.constants[name] = self.values[name] = value
        return name

    def shape(self, known: Known) -> Shape:
        return self.values[known.name].shape

    def add(
        self, key: str, operands: Sequence[str], *, exact: bool = False, results: int = 1, **attributes: Any
    ) -> list[Known]:
        """Append an operator; where it cannot be computed, the program stays as it was."""
        domain, _, op_type = key.rpartition(".")
        outputs = [self.fresh("t") for _ in range(results)]
        node = helper.make_node(op_type, list(operands), outputs, domain=domain, **attributes)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            computed = compute(node, [self.values[x] if x else None for x in operands], self.opset)
        if any(value.size > 40_000 for value in computed):
            return []
        self.nodes.append(node)
        made = []
        for output, value in zip(outputs, computed, strict=True):
            self.values[output] = value
            made.append(Known(output, str(value.dtype), exact and value.dtype != np.float16))
        self.pool += made
        return made

    def beside(self, x: Known) -> tuple[str, bool]:
        """An operand that broadcasts with a tensor, and whether it is exact."""
        others = [y for y in self.pool if y.dtype == x.dtype and self.shape(y) == self.shape(x)]
        if self.chance(0.35):
            other = self.pick(others)
            return other.name, other.exact
        shape = [1 if self.chance(0.3) else size for size in self.shape(x)]
        shape = shape[int(self.random.integers(0, len(shape) + 1)) if self.chance(0.3) else 0 :]
        return self.input(shape, x.dtype, constant=self.chance(0.3)), True

    def case(self, shaped: bool) -> Case | None:
        """The program, or None where no output is left."""
        read = {name for node in self.nodes for name in node.input}
        made = [name for node in self.nodes for name in node.output if name]
        leaves = [name for name in made if name not in read]
        escaping = [name for name in made if name in read and self.chance(0.1)]
        outputs = tuple(dict.fromkeys([*leaves, *escaping]))[:6]
        feeds = {name: value for name, value in self.feeds.items() if name in read}
        if not outputs or not feeds:
            return None
        constants = {name: value for name, value in self.constants.items() if name in read}
        constant_inputs = frozenset(self.constant_inputs) & set(feeds)
        return Case(self.name, tuple(self.nodes), feeds, outputs, constants, constant_inputs, self.opset, shaped)


# ------------------------------------------------------------------ steps: one operator each

FLOATS = ("float32", "float16", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def _is_float(x: Known) -> bool:
    return x.dtype in FLOATS


SMOOTH = (
    *("Exp", "Log", "Sqrt", "Tanh", "Sigmoid", "Erf", "Softplus", "Softsign", "Sin", "Cos", "Atan", "Sinh", "Asinh"),
    *("Reciprocal", "Elu", "Selu", "Celu", "Mish", "Gelu", "HardSwish", "HardSigmoid", "LeakyRelu", "Swish", "Neg"),
    *(
        "Relu",
        "Abs",
        "Acos",
        "Asin",
        "Acosh",
        "Atanh",
        "Cosh",
        "Tan",
        "Identity",
        "com.microsoft.Gelu",
        "com.microsoft.FastGelu",
        "com.microsoft.QuickGelu",
    ),
)
EXACT = {"Identity", "Neg", "Relu", "Abs", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Sign"}
STEPWISE = ("Floor", "Ceil", "Round", "Sign", "IsNaN", "IsInf", "Shrink", "ThresholdedRelu")


def _attributes(builder: Builder, op_type: str) -> dict[str, Any]:
    choices: dict[str, Callable[[], dict[str, Any]]] = {
        "Elu": lambda: {"alpha": builder.number(0.2, 2)},
        "Celu": lambda: {"alpha": builder.number(0.2, 2)},
        "Selu": lambda: {"alpha": builder.number(1, 2), "gamma": builder.number(0.5, 2)},
        "LeakyRelu": lambda: {"alpha": builder.number(0.01, 0.5)},
        "Shrink": lambda: {"lambd": builder.number(0.1, 1), "bias": builder.number(0, 1)},
        "ThresholdedRelu": lambda: {"alpha": builder.number(0.1, 1)},
        "HardSigmoid": lambda: {"alpha": builder.number(0.1, 0.4), "beta": builder.number(0.2, 0.7)},
        "Gelu": lambda: {"approximate": builder.pick(["none", "tanh"])},
        "QuickGelu": lambda: {"alpha": builder.number(0.5, 2)},
        "Swish": lambda: {"alpha": builder.number(0.5, 2)},
    }
    return choices[op_type]() if op_type in choices and builder.chance(0.7) else {}


def unary(builder: Builder, x: Known) -> None:
    if _is_float(x):
        key = builder.pick(SMOOTH)
        if key.startswith("com.") and (x.dtype != "float32" or not builder.shape(x)):
            return
        attributes = _attributes(builder, key.rpartition(".")[2]) if key != "com.microsoft.Gelu" else {}
        if key == "Swish" and builder.opset < NEWEST:
            return
        builder.add(key, [x.name], exact=x.exact and key in EXACT, **attributes)
    elif x.dtype != "bool":
        builder.add(builder.pick(["Abs", "Sign"]), [x.name], exact=x.exact)


def stepwise(builder: Builder, x: Known) -> None:
    """Operators that jump: on exact values only."""
    if not x.exact:
        return
    if x.dtype == "bool":
        builder.add("Not", [x.name], exact=True)
    elif x.dtype in INTEGERS:
        builder.add("BitwiseNot", [x.name], exact=True)
    else:
        op_type = builder.pick(STEPWISE)
        if op_type != "IsInf" or x.dtype != "float16":  # not in this opset
            builder.add(op_type, [x.name], exact=True, **_attributes(builder, op_type))


BITWISE = ("BitwiseAnd", "BitwiseOr", "BitwiseXor")


def arithmetic(builder: Builder, x: Known) -> None:
    if x.dtype == "bool":
        y, exact = builder.beside(x)
        builder.add(builder.pick(["And", "Or", "Xor"]), [x.name, y], exact=x.exact and exact)
        return
    y, exact = builder.beside(x)
    options = ["Add", "Sub", "Mul", "Max", "Min", "Div", *(["PRelu"] if _is_float(x) else ["Mod", *BITWISE])]
    if x.dtype.startswith("uint") and builder.chance(0.2):
        builder.add("BitShift", [x.name, y], exact=x.exact and exact, direction=builder.pick(["LEFT", "RIGHT"]))
        return
    pair = [x.name, y] if builder.chance(0.6) else [y, x.name]
    op_type = builder.pick(options)
    if op_type == "PRelu" and (pair[0] != x.name or np.ndim(builder.values[y]) > len(builder.shape(x))):
        return
    builder.add(op_type, pair, exact=x.exact and exact)


def several(builder: Builder, x: Known) -> None:
    if x.dtype in ("float32", "float64"):
        operands = [x.name, *(builder.beside(x)[0] for _ in range(builder.pick([1, 2])))]
        builder.add(builder.pick(["Sum", "Mean", "Max", "Min"]), operands)


def compared(builder: Builder, x: Known) -> None:
    """A comparison, and a choice by it."""
    y, exact = builder.beside(x)
    if not (x.exact and exact) or x.dtype == "bool":
        return
    op_type = builder.pick(["Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"])
    made = builder.add(op_type, [x.name, y], exact=True)
    if made and builder.chance(0.8):
        builder.add("Where", [made[0].name, x.name, y], exact=True)


def bounded(builder: Builder, x: Known) -> None:
    if x.dtype != "bool":
        low, high = sorted(float(v) for v in builder.random.uniform(0, 9, 2))
        place = builder.inner if builder.chance(0.5) else None
        names = []
        for bound in (low, high):
            value = np.array(bound - (5 if _is_float(x) else 0)).astype(x.dtype)
            if place:
                names.append(place(value))
            else:
                name = builder.fresh("x")
                builder.feed(name, value)
                builder.constant_inputs.add(name)
                names.append(name)
        builder.add("Clip", [x.name, *names], exact=x.exact)


def power(builder: Builder, x: Known) -> None:
    if x.dtype in ("float32", "float64"):
        exponent = builder.inner(np.array(builder.pick([2.0, 3.0, 0.5, -1.0, 1.5, 0.0]), x.dtype))
        builder.add("Pow", [x.name, exponent])


def quantized(builder: Builder, x: Known) -> None:
    """To integers of few bits or back, with one scale or one for each index along an axis."""
    shape = builder.shape(x)
    real = x.dtype == "float32"
    if not x.exact or not (real or x.dtype in QUANTIZED) or (real and np.isnan(builder.values[x.name]).any()):
        return
    to = builder.pick(QUANTIZED) if real else x.dtype
    axis = int(builder.random.integers(-len(shape), len(shape))) if shape and builder.chance(0.5) else None
    many = () if axis is None else (shape[axis],)
    scale = builder.fresh("x")
    builder.feed(scale, builder.random.uniform(0.01, 1, many).astype(np.float32))
    operands = [x.name, scale]
    if builder.chance(0.7) or (real and to != "uint8"):
        zero = builder.fresh("x")
        builder.feed(zero, random_values(many, to, int(builder.random.integers(1 << 30))))
        operands.append(zero)
    builder.constant_inputs |= set(operands[1:]) if builder.chance(0.7) else set()
    domain = "com.microsoft." if builder.chance(0.1) and len(operands) == 3 and x.dtype != "int32" else ""
    more = {} if axis is None else {"axis": axis}
    builder.add(f"{domain}{'QuantizeLinear' if real else 'DequantizeLinear'}", operands, exact=True, **more)


QUANTIZED = ("uint8", "int8", "uint16", "int16")


def integers(builder: Builder, x: Known) -> None:
    """Products with integers of eight bits, as matrices or through a window, with zero points or without."""
    if x.dtype not in BYTES or len(builder.shape(x)) < 2 or 0 in builder.shape(x):
        sizes = [int(builder.pick((1, 2, 3, 7, 17, 33, 70))) for _ in range(int(builder.pick((2, 3, 4))))]
        dtype = str(builder.pick(BYTES))
        x = Known(builder.input(sizes, dtype), dtype, True)
    shape = builder.shape(x)
    windowed, constant = len(shape) in (3, 4) and builder.chance(0.5), builder.chance(0.6)
    width = int(builder.pick((1, 2, 5, 17, 40)))
    other = str(builder.pick(BYTES))
    window = [min(int(builder.pick((1, 2, 3))), size) for size in shape[2:]]
    weights = builder.input([width, shape[1], *window] if windowed else [shape[-1], width], other, constant=constant)
    zeros = [
        builder.input(many, dtype, constant=constant)
        for dtype, many in ((x.dtype, ()), (other, (width,) if not windowed and builder.chance(0.3) else ()))
    ]
    operands = [x.name, weights, *zeros[: int(builder.pick((0, 1, 2, 2)))]]
    if windowed:
        pads = [int(builder.pick((0, 0, 1, 2))) for _ in range(2 * len(window))]
        strides = [int(builder.pick((1, 1, 2, 3))) for _ in window]
        builder.add("ConvInteger", operands, exact=True, pads=pads, strides=strides)
    else:
        builder.add("MatMulInteger", operands, exact=True)


BYTES = ("uint8", "int8")


def cast(builder: Builder, x: Known) -> None:
    if x.exact:
        to = builder.pick(["float32", "float64", "float16", "int32", "int64", "bool"])
        values = builder.values[x.name]
        with np.errstate(all="ignore"):
            fits = not _is_float(x) or (np.isfinite(values).all() and (np.abs(values.astype(np.float64)) < 1e6).all())
        if to in INTEGERS and not fits:
            return  # what does not fit is left open
        if builder.chance(0.2):
            builder.add("CastLike", [x.name, builder.input((1,), to)], exact=True)
            return
        builder.add("Cast", [x.name], exact=True, to=int(helper.np_dtype_to_tensor_dtype(np.dtype(to))))


def _axes(builder: Builder, x: Known) -> list[int]:
    rank = len(builder.shape(x))
    kept = sorted(int(a) for a in builder.random.permutation(rank)[: 1 + builder.random.integers(rank)])
    if builder.chance(0.5):
        kept = kept[-1:] if builder.chance(0.5) else [rank - 1]
    return [axis - rank if builder.chance(0.3) else axis for axis in kept]


def reduced(builder: Builder, x: Known) -> None:
    shape = builder.shape(x)
    if not shape or 0 in shape or x.dtype not in ("float32", "float64", "int32", "int64"):
        return
    kinds = "Sum Mean Max Min L1 L2 SumSquare LogSumExp Prod LogSum" if _is_float(x) else "Sum Max Min Prod"
    op_type = f"Reduce{builder.pick(kinds.split())}"
    axes = _axes(builder, x)
    operands = [x.name, builder.inner(np.array(axes, np.int64))] if builder.chance(0.9) else [x.name]
    exact = x.exact and (op_type in ("ReduceMax", "ReduceMin") or not _is_float(x))
    builder.add(op_type, operands, exact=exact, keepdims=int(builder.chance(0.7)))


def position(builder: Builder, x: Known) -> None:
    shape = builder.shape(x)
    if not shape or 0 in shape or not x.exact or x.dtype not in ("float32", "float64", "int32"):
        return  # what is not exact may have other ties
    attributes = {"keepdims": int(builder.chance(0.6)), "select_last_index": int(builder.chance(0.4))}
    op_type = builder.pick(["ArgMax", "ArgMin"])
    builder.add(op_type, [x.name], exact=True, axis=int(builder.random.integers(-len(shape), len(shape))), **attributes)


def softmax(builder: Builder, x: Known) -> None:
    shape = builder.shape(x)
    if shape and 0 not in shape and x.dtype in ("float32", "float64"):
        axis = -1 if builder.chance(0.6) else int(builder.random.integers(len(shape)))
        builder.add(builder.pick(["Softmax", "LogSoftmax"]), [x.name], axis=axis)


def normalized(builder: Builder, x: Known) -> None:
    shape = builder.shape(x)
    if len(shape) < 2 or 0 in shape or x.dtype != "float32" or shape[-1] < 2:
        return
    scale, bias = (builder.input(shape[-1:], x.dtype, constant=True) for _ in range(2))
    kind = builder.pick(["Layer", "Layer", "RMS", "Skip", "SkipSimplified", "Simplified", "Lp", "BiasGelu"])
    if kind == "Layer":
        builder.add("LayerNormalization", [x.name, scale, *([bias] if builder.chance(0.7) else [])], axis=-1)
    elif kind == "RMS":
        newer = builder.opset >= 23
        op_type = "RMSNormalization" if newer else "SimplifiedLayerNormalization"
        builder.add(op_type, [x.name, scale], axis=-1, epsilon=1e-5)
    elif kind.startswith("Skip") and len(shape) == 3:
        other = [builder.input(shape, x.dtype), scale, *([bias] if builder.chance(0.7) else [])]
        if kind == "SkipSimplified":
            other = other[:2]
        builder.add(f"com.microsoft.{kind}LayerNormalization", [x.name, *other], epsilon=1e-4)
    elif kind == "Simplified":
        builder.add("com.microsoft.SimplifiedLayerNormalization", [x.name, scale], axis=-1, epsilon=1e-5)
    elif kind == "Lp":
        builder.add("LpNormalization", [x.name], axis=int(builder.random.integers(len(shape))), p=builder.pick([1, 2]))
    elif kind == "BiasGelu":
        builder.add("com.microsoft.BiasGelu", [x.name, bias])


def of_channels(builder: Builder, x: Known) -> None:
    """What works on the channels of an image."""
    shape = builder.shape(x)
    if len(shape) < 3 or 0 in shape or x.dtype != "float32":
        return
    first, second, mean = (builder.input(shape[1:2], x.dtype, constant=True) for _ in range(3))
    kind = builder.pick(["Instance", "Group", "Batch", "average", "maximum", "MeanVariance"])
    if kind == "Instance":
        builder.add("InstanceNormalization", [x.name, first, second])
    elif kind == "Group":
        builder.add("GroupNormalization", [x.name, first, second], num_groups=builder.pick([1, shape[1]]))
    elif kind == "Batch":
        variance = builder.fresh("x")
        builder.feed(variance, builder.random.uniform(0.5, 2, shape[1]).astype(np.float32))
        builder.constant_inputs.add(variance)
        builder.add("BatchNormalization", [x.name, first, second, mean, variance])
    elif kind == "average":
        builder.add("GlobalAveragePool", [x.name])
    elif kind == "maximum":
        builder.add("GlobalMaxPool", [x.name], exact=x.exact)
    elif kind == "MeanVariance" and len(shape) == 4:
        builder.add("MeanVarianceNormalization", [x.name])


def local_response(builder: Builder, x: Known) -> None:
    """A local response normalization, of what is there or of a larger image, between blocks or not."""
    if len(builder.shape(x)) != 4 or 0 in builder.shape(x) or x.dtype != "float32" or builder.chance(0.6):
        image = [int(builder.pick(sizes)) for sizes in ((1, 2), (1, 5, 16, 32, 48), (1, 3, 9), (1, 2, 7))]
        x = Known(builder.input(image, "float32"), "float32", True)
    channels, blocked = builder.shape(x)[1], bool(block_size()) and builder.shape(x)[1] % block_size() == 0
    if blocked and builder.chance(0.7):
        (x,) = builder.add("com.microsoft.nchwc.ReorderOutput", [x.name], channels=channels, channels_last=0) or (x,)
    more = {"beta": builder.pick([0.5, 1.0, 0.625])} if builder.chance(0.3) else {}
    (made,) = builder.add("LRN", [x.name], size=builder.pick([1, 3, 4, 5, 12]), **more) or (None,)
    if made is not None and blocked and builder.chance(0.6):
        builder.add("com.microsoft.nchwc.ReorderInput", [made.name], channels_last=0)


def pooled(builder: Builder, x: Known) -> None:
    """A pool of one or two dimensions, plain or in the blocked layout, of what is there or of a larger image."""
    shape = builder.shape(x)
    fits = (
        len(shape) in (3, 4) and 0 not in shape and x.dtype == "float32" and np.isfinite(builder.values[x.name]).all()
    )
    if not fits or builder.chance(0.4):
        sizes = [int(builder.pick((1, 2, 5, 7, 16, 20))) for _ in range(1 if builder.chance(0.3) else 2)]
        shape = (int(builder.pick((1, 2))), int(builder.pick((1, 3, 16, 32))), *sizes)
        x = Known(builder.input(shape, "float32"), "float32", True)
    image, maximum = shape[2:], builder.chance(0.6)
    kernel, strides = ([int(builder.pick(sizes)) for _ in image] for sizes in ((1, 2, 2, 3, 3, 5), (1, 1, 2, 2, 3)))
    dilations = [int(builder.pick((1, 2))) if maximum and builder.chance(0.3) else 1 for _ in image]
    blocked = len(shape) == 4 and bool(block_size()) and shape[1] % block_size() == 0 and builder.chance(0.7)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    window: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    if max(dilations) > 1:
        window["dilations"] = dilations
    if max(dilations) == 1 and builder.chance(0.2):
        window["auto_pad"] = builder.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
    else:
        before, after = ([int(builder.random.integers(0, k)) for k in kernel] for _ in range(2))
        window["pads"] = [*before, *after]
        window["ceil_mode"] = int(builder.chance(0.3))
    padding = window.get("pads", [0] * 2 * len(image))
    padded = [size + padding[axis] + padding[axis + len(image)] for axis, size in enumerate(image)]
    if any(span > size for span, size in zip(spans, padded, strict=True)):
        return
    if not maximum and not window.get("ceil_mode") and builder.chance(0.4):
        window["count_include_pad"] = 1
    op_type, exact = "MaxPool" if maximum else "AveragePool", maximum and x.exact
    if not blocked:
        builder.add(op_type, [x.name], exact=exact, **window)
        return
    made = builder.add("com.microsoft.nchwc.ReorderInput", [x.name], exact=x.exact, channels_last=0)
    made = made and builder.add(f"com.microsoft.nchwc.{op_type}", [made[0].name], exact=exact, **window)
    if made and builder.chance(0.5):
        more = {"channels": shape[1], "channels_last": 0}
        builder.add("com.microsoft.nchwc.ReorderOutput", [made[0].name], exact=exact, **more)


def product(builder: Builder, x: Known) -> None:
    shape = builder.shape(x)
    if len(shape) < 2 or 0 in shape or x.dtype not in ("float32", "float16") or shape[-1] * shape[-2] > 4000:
        return
    columns = builder.pick(SIZES[:-1])
    kind = builder.random.random()
    if x.dtype == "float16" and kind >= 0.7 and len(shape) > 2:
        return  # onnxruntime has no such product
    if kind < 0.5:
        builder.add("MatMul", [x.name, builder.input((shape[-1], columns), x.dtype, constant=builder.chance(0.6))])
    elif kind < 0.7:
        builder.add("MatMul", [x.name, builder.input((*shape[:-2], shape[-1], columns), x.dtype)])
    elif len(shape) == 2:
        turned = int(builder.chance(0.5))
        other = (columns, shape[-1]) if turned else (shape[-1], columns)
        operands = [x.name, builder.input(other, x.dtype, constant=builder.chance(0.6))]
        if builder.chance(0.6):
            operands.append(builder.input((columns,), x.dtype, constant=True))
        builder.add("Gemm", operands, transB=turned)
    else:
        other = builder.input((*shape[:-2], columns, shape[-1]), x.dtype)
        op_type = builder.pick(["FusedMatMul", "FusedMatMul", "TransposeMatMul"])
        builder.add(f"com.microsoft.{op_type}", [x.name, other], transB=1, alpha=builder.number(0.1, 1))


DEPTHS = (1, 2, 7, 16, 31, 32, 33, 64, 65, 100, 129, 256, 257, 300)
WIDTHS = (1, 3, 15, 16, 17, 31, 32, 33, 40, 48, 63, 64, 65, 96, 128)
ROWS = (1, 2, 3, 5, 13, 14, 15, 16, 17, 31, 32, 33, 48, 64, 65, 90)
MOST = 24_000
"""Elements of a large operand."""


def _unit(builder: Builder, shape: Sequence[int], *, constant: bool = False, special: bool = False) -> str:
    """An input of numbers of about one over the depth, so that sums stay about one; specials: some are far off."""
    values = builder.random.standard_normal(tuple(shape)) / np.sqrt(max(1, shape[-1]))
    if special and values.size:
        flat = values.reshape(-1)
        for value in builder.random.choice([np.inf, -np.inf, np.nan, 3e38, 2.0**30, 2.0**31, 1e-38, 0.0, -0.0], 2):
            flat[int(builder.random.integers(values.size))] = value
    name = builder.fresh("x")
    builder.feed(name, values.astype(np.float32))
    if constant:
        builder.constant_inputs.add(name)
    return name


def weighted(builder: Builder, x: Known) -> None:
    """A product of larger matrices, most with constant weights: what is packed once, split for the matrix unit."""
    rows, depth, columns = (int(builder.pick(sizes)) for sizes in (ROWS, DEPTHS, WIDTHS))
    if builder.chance(0.05):  # more weights than the second-level cache holds beside others
        made = builder.add("MatMul", [_unit(builder, (rows, 500)), _unit(builder, (500, 270), constant=True)])
        if made:
            builder.add("MatMul", [made[0].name, _unit(builder, (270, columns), constant=True)])
        return
    if max(rows * depth, depth * columns, rows * columns) > MOST:
        return
    special = builder.chance(0.1)
    kind = builder.pick(["MatMul", "MatMul", "Gemm", "Gemm", "turned", "batch", "each", "FusedGemm"])
    weights = (depth, columns)
    constant = builder.chance(0.8)
    if kind in ("MatMul", "batch", "turned"):
        shape = (rows, depth)
        if kind == "batch":
            shape = (builder.pick([1, 2, 3]), -(-rows // 3), depth)
        if kind == "turned":
            shape = (depth, rows)
        left = _unit(builder, shape, special=special)
        if kind == "turned":
            left = builder.add("Transpose", [left], perm=[1, 0])[0].name
        right = _unit(builder, weights, constant=constant, special=special)
        made = builder.add("MatMul", [left, right])
        if made and builder.chance(0.5):
            builder.add("Add", [made[0].name, builder.input((columns,), "float32", constant=True)])
    elif kind == "each":
        batch = int(builder.pick([2, 3, 4]))
        rows = -(-rows // batch)
        if batch * max(rows * depth, depth * columns, rows * columns) > MOST:
            return
        left = _unit(builder, (batch, rows, depth))
        right = _unit(builder, (batch, columns, depth), constant=constant)
        turned = builder.chance(0.5)
        if turned:
            builder.add("com.microsoft.FusedMatMul", [left, right], transB=1, alpha=builder.number(0.1, 1))
        else:
            swapped = builder.add("Transpose", [right], perm=[0, 2, 1])
            builder.add("MatMul", [left, swapped[0].name])
    else:
        a, b = int(builder.chance(0.3)), int(builder.chance(0.5))
        left = _unit(builder, (depth, rows) if a else (rows, depth), special=special)
        right = _unit(builder, weights[::-1] if b else weights, constant=constant, special=special)
        bias = builder.pick([(columns,), (1, columns), (rows, 1), (rows, columns), (1,), ()])
        operands = [left, right, builder.input(bias, "float32", constant=builder.chance(0.7))]
        more: dict[str, Any] = {"alpha": builder.number(0.2, 2), "beta": builder.number(0.2, 2)}
        if kind == "FusedGemm":
            more["activation"] = builder.pick(["Relu", "Tanh", "Sigmoid", "LeakyRelu"])
            if more["activation"] == "LeakyRelu":
                more["activation_alpha"] = 0.25
        builder.add("com.microsoft.FusedGemm" if kind == "FusedGemm" else "Gemm", operands, transA=a, transB=b, **more)


def bags(builder: Builder, x: Known) -> None:
    """Embedding bags: rows of tables picked and summed, side by side in one tensor."""
    batch, made = int(builder.pick([1, 2, 5, 16, 33])), []
    kind = builder.pick(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceSum"])
    for _ in range(int(builder.pick([1, 2, 3]))):
        width, length = int(builder.pick([1, 4, 16, 17, 33])), int(builder.pick([1, 1, 3, 70]))
        rows = int(builder.pick([1, 3, 50]))
        if batch * length * width > MOST:
            return
        table = builder.input((rows, width), "float32", constant=builder.chance(0.8))
        name = builder.fresh("x")
        picks = builder.random.integers(-rows, rows, (batch, length))
        builder.feed(name, picks.astype(builder.pick(["int32", "int64"])))
        (rows_of,) = builder.add("Gather", [table, name], exact=True, axis=0) or (None,)
        if rows_of is None:
            return
        axes = builder.inner(np.array([1], np.int64))
        made += builder.add(kind, [rows_of.name, axes], exact=kind == "ReduceMax", keepdims=int(builder.chance(0.2)))
    ranks = {len(builder.shape(bag)) for bag in made}
    if len(made) > 1 and len(ranks) == 1:
        exact = all(bag.exact for bag in made)
        builder.add("Concat", [bag.name for bag in made], exact=exact, axis=-1)


def recurrent(builder: Builder, x: Known) -> None:
    """A GRU or LSTM, with any of its optional operands and results."""
    op_type = builder.pick(["GRU", "LSTM"])
    gates = 3 if op_type == "GRU" else 4
    steps, batch, width = (int(builder.pick(sizes)) for sizes in ((1, 2, 5), (1, 2, 3, 17), (1, 4, 9)))
    size = int(builder.pick([1, 3, 8, 16, 17, 33]))
    direction = builder.pick(["forward", "reverse", "bidirectional"])
    directions = 2 if direction == "bidirectional" else 1
    constant = builder.chance(0.7)
    known = builder.pool and builder.values[x.name]
    fits = isinstance(known, np.ndarray) and known.ndim == 3 and x.dtype == "float32" and 0 < known.size < 500
    if fits and np.isfinite(known).all():
        source, (steps, batch, width) = x.name, known.shape
    else:
        source = _unit(builder, (steps, batch, width))
    operands = [source, *(_unit(builder, (directions, gates * size, n), constant=constant) for n in (width, size))]
    state = (directions, batch, size)
    optional = [_unit(builder, (directions, 2 * gates * size), constant=constant) if builder.chance(0.6) else "", ""]
    optional += [_unit(builder, state) if builder.chance(0.5) else ""]
    optional += [_unit(builder, state) if builder.chance(0.5) else ""] if op_type == "LSTM" else []
    while optional and not optional[-1]:
        optional.pop()
    more = {"linear_before_reset": int(builder.chance(0.5))} if op_type == "GRU" else {}
    operands += optional
    results = 1 + int(builder.random.integers(3 if op_type == "LSTM" else 2))
    builder.add(op_type, operands, results=results, hidden_size=size, direction=direction, **more)


def convolved(builder: Builder, x: Known) -> None:
    """A convolution of one or two dimensions, plain or in the blocked layout, of what is there or of a larger image."""
    shape = builder.shape(x)
    if builder.chance(0.4):
        sizes, channels = ((5, 12, 20, 33), (1, 3, 4, 8, 16, 32)) if builder.chance(0.7) else ((3, 8), (3, 7, 30))
        image = [int(builder.pick(sizes)) for _ in range(1 if builder.chance(0.2) else 2)]
        shape = (int(builder.pick([1, 2])), int(builder.pick(channels)), *image)
        if np.prod(shape) > MOST:
            return
        x = Known(_unit(builder, shape, special=builder.chance(0.1)), "float32", True)
    elif len(shape) not in (3, 4) or 0 in shape or x.dtype != "float32" or np.prod(shape) > 2000:
        return
    blocked = len(shape) == 4 and bool(block_size()) and shape[1] % 4 == 0 and builder.chance(0.7)
    if not np.isfinite(builder.values[x.name]).all() and not blocked:
        return  # the reference evaluator multiplies them with its zeros around the image
    if blocked:
        _blocked_convolution(builder, x)
        return
    image, channels = shape[2:], shape[1]
    window = _window_of(builder, image, few=False)
    group = int(builder.pick([1, 1, channels, *(n for n in (2, 3) if channels % n == 0)]))
    outputs = group * int(builder.pick((1, 2, 3, 17)))
    weights = (outputs, channels // group, *window["kernel_shape"])
    operands = [x.name, _unit(builder, weights, constant=builder.chance(0.7))]
    if builder.chance(0.5):
        operands.append(builder.input(weights[:1], x.dtype, constant=True))
    if builder.chance(0.8):
        builder.add("Conv", operands, group=group, **window)
    else:
        builder.add("com.microsoft.FusedConv", operands, group=group, **window, **_fused_activation(builder))


def _window_of(builder: Builder, image: Sequence[int], *, few: bool) -> dict[str, Any]:
    """A window; few: one that fewer multiplications may compute."""
    kernel = [int(builder.pick((1, 3, 3, 5) if few else (1, 2, 3, 3, 7))) for _ in image]
    strides = [1 if few else int(builder.pick((1, 1, 2, 3))) for _ in image]
    dilations = [1 if few else int(builder.pick((1, 1, 2))) for _ in image]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    before = [int(builder.random.integers(0, k + 1)) for k in kernel]
    least = [max(0, span - size - low) for span, size, low in zip(spans, image, before, strict=True)]
    after = [low + int(builder.random.integers(0, k)) for low, k in zip(least, kernel, strict=True)]
    return {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": [*before, *after]}


def _fused_activation(builder: Builder) -> dict[str, Any]:
    kind = builder.pick(["Relu", "Clip", "LeakyRelu", "HardSigmoid", "Sigmoid", "Tanh"])
    numbers = {"Clip": [-0.5, 1.5], "LeakyRelu": [0.125], "HardSigmoid": [0.25, 0.5]}.get(kind)
    return {"activation": kind} if numbers is None else {"activation": kind, "activation_params": numbers}


def _blocked_convolution(builder: Builder, x: Known) -> None:
    """A convolution in the blocked layout: of whole blocks, of a few plain channels, depthwise, in groups of blocks."""
    channels, image = builder.shape(x)[1], builder.shape(x)[2:]
    few = builder.chance(0.75)  # what is summed with fewer multiplications
    window = _window_of(builder, image, few=few)
    block = block_size()
    inputs, group = -(-channels // block) * block, 1
    kind = builder.random.random()
    source = x.name
    if kind < 0.1 and channels < block:
        inputs = channels  # read from the plain layout
    else:
        (ordered,) = builder.add("com.microsoft.nchwc.ReorderInput", [x.name], channels_last=0) or (None,)
        if ordered is None:
            return
        source = ordered.name
    outputs = block * int(builder.random.integers(1, 4))
    if 0.1 <= kind < 0.25:
        group, outputs = inputs, inputs
    elif 0.25 <= kind < 0.35 and inputs > block:
        group = inputs // block
        outputs = group * block
    weights = (outputs, inputs // group, *window["kernel_shape"])
    operands = [source, _unit(builder, weights, constant=builder.chance(0.9))]
    if builder.chance(0.7):
        operands.append(builder.input((outputs,), x.dtype, constant=True))
    activation = _fused_activation(builder) if builder.chance(0.4) else {}
    if builder.chance(0.2):
        made = builder.add("com.microsoft.nchwc.Conv", operands, group=group, **window)
        if not made:
            return
        operands += [""] * (3 - len(operands))
        operands.append(builder.input(builder.shape(made[0]), x.dtype))
    made = builder.add("com.microsoft.nchwc.Conv", operands, group=group, **window, **activation)
    if made and builder.chance(0.8):
        kept = outputs - int(builder.pick([0, 0, 1, 5]))
        builder.add(
            "com.microsoft.nchwc.ReorderOutput", [made[0].name], channels=kept, channels_last=int(builder.chance(0.2))
        )


def picked(builder: Builder, x: Known) -> None:
    shape = builder.shape(x)
    if not shape or 0 in shape:
        return
    axis = int(builder.random.integers(len(shape)))
    indices = builder.random.integers(-shape[axis], shape[axis], builder.pick([(3,), (2, 2), (1,)]))
    name = builder.fresh("x")
    builder.feed(name, indices.astype(builder.pick(["int32", "int64"])))
    if builder.chance(0.4):
        builder.constant_inputs.add(name)
    builder.add("Gather", [x.name, name], exact=x.exact, axis=axis)


def moved(builder: Builder, x: Known) -> None:
    shape = builder.shape(x)
    if not shape:
        return
    rank = len(shape)
    kinds = "Transpose Transpose Flatten Unsqueeze Concat Split Slice Expand Reshape Pad Tile Squeeze"
    kind = builder.pick([*kinds.split(), *(2 * ["DepthToSpace", "SpaceToDepth"] if rank == 4 else [])])
    axis = int(builder.random.integers(rank))
    if kind == "Transpose":
        builder.add(kind, [x.name], exact=x.exact, perm=[int(p) for p in builder.random.permutation(rank)])
    elif kind == "Flatten":
        builder.add(kind, [x.name], exact=x.exact, axis=axis)
    elif kind == "Unsqueeze" and rank < 5:
        builder.add(kind, [x.name, builder.inner(np.array([axis], np.int64))], exact=x.exact)
    elif kind == "Concat":
        builder.add(kind, [x.name, builder.input(shape, x.dtype)], exact=x.exact, axis=axis)
    elif kind == "Split" and shape[axis] % 2 == 0:
        builder.add(kind, [x.name], exact=x.exact, results=2, axis=axis, num_outputs=2)
    elif kind == "Slice" and shape[axis] > 2:
        bounds = (1, shape[axis], axis, builder.pick([1, 2]))
        operands = [x.name, *(builder.inner(np.array([value], np.int64)) for value in bounds)]
        builder.add(kind, operands, exact=x.exact)
    elif kind == "Expand" and rank < 5:
        builder.add(kind, [x.name, builder.inner(np.array([2, *shape], np.int64))], exact=x.exact)
    elif kind == "Pad" and x.dtype != "bool":
        pads = builder.inner(builder.random.integers(-1 if min(shape) > 2 else 0, 4, 2 * rank).astype(np.int64))
        more = [builder.inner(np.array(1).astype(x.dtype))] if builder.chance(0.5) else []
        builder.add(kind, [x.name, pads, *more], exact=x.exact)
    elif kind == "Tile":
        builder.add(kind, [x.name, builder.inner(builder.random.integers(1, 3, rank))], exact=x.exact)
    elif kind == "Squeeze" and 1 in shape:
        builder.add(kind, [x.name, builder.inner(np.array([shape.index(1)], np.int64))], exact=x.exact)
    elif kind == "SpaceToDepth" and rank == 4 and shape[2] % 2 == shape[3] % 2 == 0:
        builder.add(kind, [x.name], exact=x.exact, blocksize=2)
    elif kind == "DepthToSpace" and rank == 4 and shape[1] % 4 == 0:
        builder.add(kind, [x.name], exact=x.exact, blocksize=2, mode=builder.pick(["DCR", "CRD"]))
    elif kind == "Reshape" and 0 not in shape:
        builder.add(kind, [x.name, builder.inner(np.array([-1, shape[-1]], np.int64))], exact=x.exact)


STEPS: tuple[tuple[Callable[[Builder, Known], None], int], ...] = (
    (unary, 7),
    (arithmetic, 6),
    (several, 1),
    (stepwise, 1),
    (compared, 2),
    (bounded, 2),
    (power, 1),
    (cast, 1),
    (reduced, 3),
    (position, 1),
    (softmax, 1),
    (normalized, 2),
    (of_channels, 2),
    (pooled, 2),
    (local_response, 1),
    (quantized, 2),
    (integers, 3),
    (product, 2),
    (weighted, 2),
    (bags, 1),
    (recurrent, 1),
    (convolved, 4),
    (picked, 1),
    (moved, 3),
)
"""Ways to go on, with how often each is taken. A new kind of lowering needs a line here."""


def program(seed: int) -> Case | None:
    """A program of one to seven operators that has a kernel; None where this seed gives none."""
    builder = Builder(f"program{seed}", seed)
    dtype = str(builder.pick(DTYPES))
    rank = int(builder.random.integers(1, 5))
    shape = [int(builder.pick(SIZES[: 4 if rank == 4 else 10 if builder.chance(0.95) else 11])) for _ in range(rank)]
    if builder.chance(0.06):  # an image
        dtype, shape = "float32", [int(builder.pick((1, 2))), *(int(builder.pick((2, 3, 4, 6))) for _ in range(3))]
    if builder.chance(0.08):  # for what works on blocks of 16 x 16
        shape = [int(builder.pick((16, 17, 33, 40, 64))) for _ in range(2)] + ([2] if builder.chance(0.3) else [])
    name = builder.input(shape, dtype)
    builder.pool.append(Known(name, dtype, True))
    wanted = int(builder.random.integers(1, 8))
    steps = [step for step, weight in STEPS for _ in range(weight)]
    for _ in range(4 * wanted):
        if len(builder.nodes) >= wanted:
            break
        recent = builder.pool[-1 - int(builder.random.integers(min(2, len(builder.pool))))]
        builder.pick(steps)(builder, recent if builder.chance(0.7) else builder.pick(builder.pool))
    case = builder.case(shaped=builder.chance(0.7))
    if case is None or lowerable(case.body()) is not None:
        return None
    return case


def programs(first: int, count: int) -> list[Case]:
    """The programs of some seeds that give one."""
    return [case for seed in range(first, first + count) if (case := program(seed)) is not None]
