"""Random programs grown from the table of operators, and their kernels run outside of onnxruntime.

A program is a body of a few operators of any kind that has a lowering, with random dtypes, attributes and shapes. Its
kernel must give what the operators give one by one (``kernel_checks.compute``: the onnx reference evaluator, or
onnxruntime for its own operators). How far apart the numbers may lie follows from the program itself: each tensor is
changed by a few units in the last place, and what that does to the outputs is added up.

``python -m tests.fuzzing LIBRARY FIRST COUNT`` runs the kernels of a library built with sanitizers or under valgrind.
"""

import ctypes
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from graphopt.kernels import emit_library, lowerable
from graphopt.kernels.compile import Level, find_compiler, flags_of, level_parts, levels
from graphopt.kernels.lower import lower
from graphopt.operators import table
from graphopt.operators.blocked import block_size
from tests.kernel_checks import Array, Case, compute, random_values
from tests.sanitized import DRIVER

OPSET = 21
DTYPES = ("float32",) * 7 + ("float16", "float64", "int32", "int64", "uint8", "int8")
SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 17, 33, 0)
ULPS = 8
"""Units in the last place by which each tensor is changed."""
PERTURBATIONS = 2
TOGETHER = 64
"""Kernels in one file."""

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
            computed = compute(node, [self.values[x] if x else None for x in operands], OPSET)
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
        return Case(self.name, tuple(self.nodes), feeds, outputs, constants, constant_inputs, OPSET, shaped)


# ------------------------------------------------------------------ steps: one operator each

FLOATS = ("float32", "float16", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def _is_float(x: Known) -> bool:
    return x.dtype in FLOATS


SMOOTH = (
    *("Exp", "Log", "Sqrt", "Tanh", "Sigmoid", "Erf", "Softplus", "Softsign", "Sin", "Cos", "Atan", "Sinh", "Asinh"),
    *("Reciprocal", "Elu", "Selu", "Celu", "Mish", "Gelu", "HardSwish", "HardSigmoid", "LeakyRelu", "Swish", "Neg"),
    *("Relu", "Abs", "com.microsoft.Gelu", "com.microsoft.FastGelu", "com.microsoft.QuickGelu"),
)
EXACT = {"Neg", "Relu", "Abs", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Sign"}
STEPWISE = ("Floor", "Ceil", "Round", "Sign", "IsNaN", "Not", "BitwiseNot")


def _attributes(builder: Builder, op_type: str) -> dict[str, Any]:
    choices: dict[str, Callable[[], dict[str, Any]]] = {
        "Elu": lambda: {"alpha": builder.number(0.2, 2)},
        "Celu": lambda: {"alpha": builder.number(0.2, 2)},
        "Selu": lambda: {"alpha": builder.number(1, 2), "gamma": builder.number(0.5, 2)},
        "LeakyRelu": lambda: {"alpha": builder.number(0.01, 0.5)},
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
        versions = {"Gelu": 20, "Swish": 24}
        if versions.get(key, 0) > OPSET:
            return
        builder.add(key, [x.name], exact=x.exact and key in EXACT, **attributes)
    elif x.dtype != "bool":
        builder.add(builder.pick(["Abs", "Sign"]), [x.name], exact=x.exact)


def stepwise(builder: Builder, x: Known) -> None:
    """Operators that jump: on exact values only."""
    if not x.exact:
        return
    op_type = builder.pick(STEPWISE)
    if op_type == "Not" and x.dtype == "bool":
        builder.add("Not", [x.name], exact=True)
    elif op_type == "BitwiseNot" and x.dtype in INTEGERS:
        builder.add("BitwiseNot", [x.name], exact=True)
    elif op_type not in ("Not", "BitwiseNot") and _is_float(x):
        builder.add(op_type, [x.name], exact=True)


def arithmetic(builder: Builder, x: Known) -> None:
    if x.dtype == "bool":
        y, exact = builder.beside(x)
        builder.add(builder.pick(["And", "Or", "Xor"]), [x.name, y], exact=x.exact and exact)
        return
    y, exact = builder.beside(x)
    options = ["Add", "Sub", "Mul", "Max", "Min", *(["Div"] if _is_float(x) else ["Div", "Mod"])]
    pair = [x.name, y] if builder.chance(0.6) else [y, x.name]
    builder.add(builder.pick(options), pair, exact=x.exact and exact)


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


def cast(builder: Builder, x: Known) -> None:
    if x.exact:
        to = builder.pick(["float32", "float64", "float16", "int32", "int64", "bool"])
        values = builder.values[x.name]
        with np.errstate(all="ignore"):
            fits = not _is_float(x) or (np.isfinite(values).all() and (np.abs(values.astype(np.float64)) < 1e6).all())
        if to in INTEGERS and not fits:
            return  # what does not fit is left open
        builder.add("Cast", [x.name], exact=True, to=int(helper.np_dtype_to_tensor_dtype(np.dtype(to))))


def _axes(builder: Builder, x: Known) -> list[int]:
    rank = len(builder.shape(x))
    kept = sorted(int(a) for a in builder.random.permutation(rank)[: 1 + builder.random.integers(rank)])
    if builder.chance(0.5):
        kept = kept[-1:] if builder.chance(0.5) else [rank - 1]
    return [axis - rank if builder.chance(0.3) else axis for axis in kept]


def reduced(builder: Builder, x: Known) -> None:
    shape = builder.shape(x)
    if not shape or 0 in shape or x.dtype not in ("float32", "float64"):
        return
    kinds = "Sum Mean Max Min L1 L2 SumSquare LogSumExp"
    op_type = f"Reduce{builder.pick(kinds.split())}"
    axes = _axes(builder, x)
    operands = [x.name, builder.inner(np.array(axes, np.int64))] if builder.chance(0.9) else [x.name]
    exact = x.exact and op_type in ("ReduceMax", "ReduceMin")
    builder.add(op_type, operands, exact=exact, keepdims=int(builder.chance(0.7)))


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
    builder.add("LayerNormalization", [x.name, scale, *([bias] if builder.chance(0.7) else [])], axis=-1)


def product(builder: Builder, x: Known) -> None:
    shape = builder.shape(x)
    if len(shape) < 2 or 0 in shape or x.dtype != "float32" or shape[-1] * shape[-2] > 4000:
        return
    columns = builder.pick(SIZES[:-1])
    kind = builder.random.random()
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
        builder.add("com.microsoft.FusedMatMul", [x.name, other], transB=1, alpha=builder.number(0.1, 1))


def convolved(builder: Builder, x: Known) -> None:
    """A convolution of one or two dimensions, plain or in the blocked layout."""
    shape = builder.shape(x)
    if len(shape) not in (3, 4) or 0 in shape or x.dtype != "float32" or np.prod(shape) > 2000:
        return
    if not np.isfinite(builder.values[x.name]).all():
        return  # the reference evaluator multiplies them with its zeros around the image
    image, channels = shape[2:], shape[1]
    blocked = len(shape) == 4 and bool(block_size()) and channels % 4 == 0 and builder.chance(0.7)
    small = blocked and builder.chance(0.7)  # what is summed with fewer multiplications
    kernel = [int(builder.pick((1, 3, 3, 5) if small else (1, 2, 3))) for _ in image]
    strides = [1 if small else int(builder.pick((1, 1, 2))) for _ in image]
    dilations = [1 if small else int(builder.pick((1, 1, 2))) for _ in image]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    before = [int(builder.random.integers(0, k + 1)) for k in kernel]
    after = [max(0, span - size - low) for span, size, low in zip(spans, image, before, strict=True)]
    window = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": [*before, *after]}
    if not blocked:
        group = channels if builder.chance(0.3) else 1
        weights = (group * int(builder.random.integers(1, 4)), channels // group, *kernel)
        operands = [x.name, builder.input(weights, x.dtype, constant=builder.chance(0.7))]
        if builder.chance(0.5):
            operands.append(builder.input(weights[:1], x.dtype, constant=True))
        builder.add("Conv", operands, group=group, **window)
        return
    block = block_size()
    inputs, outputs = -(-channels // block) * block, block * int(builder.random.integers(1, 4))
    (ordered,) = builder.add("com.microsoft.nchwc.ReorderInput", [x.name], channels_last=0) or (None,)
    if ordered is None:
        return
    weights = builder.input((outputs, inputs, *kernel), x.dtype, constant=builder.chance(0.9))
    bias = builder.input((outputs,), x.dtype, constant=True)
    activation = {"activation": "Relu"} if builder.chance(0.4) else {}
    made = builder.add("com.microsoft.nchwc.Conv", [ordered.name, weights, bias], group=1, **window, **activation)
    if made:
        builder.add("com.microsoft.nchwc.ReorderOutput", [made[0].name], channels=outputs, channels_last=0)


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
    kind = builder.pick(["Transpose", "Flatten", "Unsqueeze", "Concat", "Split", "Slice", "Expand", "Reshape"])
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
    (softmax, 1),
    (normalized, 1),
    (product, 2),
    (convolved, 2),
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


# ------------------------------------------------------------------ how far apart numbers may lie


def allowed(case: Case, expected: Mapping[str, Array]) -> dict[str, Array]:
    """For each output, how far from the expected value each element may lie: see the module's text."""
    random = np.random.default_rng(0)
    total = {name: np.zeros(expected[name].shape) for name in case.outputs}
    scale = {
        node.output[0]: np.maximum(np.abs(expected[node.output[0]]), max(1.0, _largest(expected[node.input[0]])))
        for node in case.nodes
        if node.op_type in CANCELLING
    }
    for source in [name for name, value in expected.items() if value.dtype.kind == "f"]:
        worst = {name: np.zeros(expected[name].shape) for name in case.outputs}
        for changed in _perturbed(expected[source], scale.get(source, np.abs(expected[source])), random):
            with np.errstate(all="ignore"):
                found = _again(case, expected, {source: changed})
                for name in case.outputs:
                    apart = np.abs(found[name].astype(np.float64) - expected[name].astype(np.float64))
                    apart = np.where(np.isfinite(apart), apart, np.inf)  # at the edge of a domain anything comes out
                    same = (found[name] == expected[name]) | (np.isnan(found[name]) & np.isnan(expected[name]))
                    worst[name] = np.maximum(worst[name], np.where(same, 0, apart))
        for name in case.outputs:
            total[name] += worst[name]
    return total


def _perturbed(value: Array, scale: Array, random: np.random.Generator) -> Iterator[Array]:
    """A tensor with errors of some units in the last place; what they may make zero is zero once."""
    with np.errstate(all="ignore"):
        unit = ULPS * np.finfo(value.dtype).eps * scale
        for _ in range(PERTURBATIONS):
            yield np.asarray(value + random.choice([-1.0, 1.0], value.shape) * unit).astype(value.dtype)
        yield np.where(np.abs(value) <= unit, np.zeros_like(value), value)
    if value.dtype == np.float16 and np.isinf(value).any():  # kernels keep in float32 what float16 cannot hold
        yield np.clip(value, np.finfo(value.dtype).min, np.finfo(value.dtype).max)


CANCELLING = {
    *("Gelu", "FastGelu", "HardSwish", "HardSigmoid", "Celu", "Elu", "Selu", "Mish", "LogSoftmax", "Sinh"),
    "Conv",  # of the size of what lies near the window, where it takes fewer multiplications
}
"""Operators that add up terms inside, of the size of one or of their operand, which may cancel."""


def _largest(x: Array) -> float:
    finite = np.abs(x[np.isfinite(x)].astype(np.float64))
    return float(finite.max()) if finite.size else 0.0


def _again(case: Case, expected: Mapping[str, Array], changed: Mapping[str, Array]) -> dict[str, Array]:
    """All tensors where some are changed; what does not depend on them stays."""
    values = {**expected, **changed}
    touched = set(changed)
    for node in case.nodes:
        if touched.isdisjoint(node.input) or not touched.isdisjoint(node.output):
            continue
        results = compute(node, [values[name] if name else None for name in node.input], case.opset)
        values.update(zip(node.output, results, strict=True))
        touched.update(node.output)
    return values


def check(case: Case, expected: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    """What a kernel computed lies where it may."""
    bounds: dict[str, Array] | None = None
    for name in case.outputs:
        right, seen = expected[name], found[name]
        message = f"{case.name}, {name}: {[n.op_type for n in case.nodes]} on {right.dtype} {right.shape}"
        assert seen.dtype == right.dtype and seen.shape == right.shape, message
        same = (seen == right) | ((seen != seen) & (right != right))
        if same.all():
            continue
        assert right.dtype.kind == "f", f"{message}: {seen[~same][:4]} for {right[~same][:4]}"
        bounds = allowed(case, expected) if bounds is None else bounds
        with np.errstate(all="ignore"):
            apart = np.abs(seen.astype(np.float64) - right.astype(np.float64))
            unit = np.maximum(np.abs(right.astype(np.float64)) * np.finfo(right.dtype).eps, np.finfo(right.dtype).tiny)
            wrong = ~same & ~(apart <= 2 * bounds[name] + ULPS * unit) & ~np.isinf(bounds[name])
        assert not wrong.any(), f"{message}: {seen[wrong][:4]} for {right[wrong][:4]}, {bounds[name][wrong][:4]}"


# ------------------------------------------------------------------ running


def build(
    cases: Sequence[Case], folder: Path, flags: Sequence[str] | None = None, compiler: Sequence[str] | None = None
) -> Path:
    """A library of the programs' kernels with a function that runs them, made of parts of many kernels each."""
    command = list(compiler or find_compiler() or ["cc"])
    level = levels(command, portable=False)[0] if flags is None else Level("plain", ())
    chosen = list(flags_of(command, level) if flags is None else flags)
    fused = [case.fused() for case in cases]
    source = emit_library([lower(f.name, f.body, f.shapes) for f in fused], "fuzzing")
    parts = list(level_parts(source, level, TOGETHER))
    parts[0] += DRIVER

    def compiled(number: int) -> str:
        part = folder / f"part{number}.c"
        part.write_text(parts[number])
        run = [*command, *chosen, "-c", part.name, "-o", f"part{number}.o"]
        subprocess.run(run, cwd=folder, check=True)
        return f"part{number}.o"

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, range(len(parts))))
    sanitizers = [flag for flag in chosen if flag.startswith("-fsanitize")]
    run = [*command, "-shared", "-pthread", *sanitizers, *objects, "-o", "fuzzing.so", "-lm"]
    subprocess.run(run, cwd=folder, check=True)
    return folder / "fuzzing.so"


@cache
def _loaded(library: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library))
    loaded.sanitized_run.restype = ctypes.c_char_p
    return loaded


def run(library: Path, index: int, case: Case, expected: Mapping[str, Array], chunk: int) -> dict[str, Array]:
    """What a kernel of the library computes from the case's inputs, so many units of work at a time."""
    inputs = [np.asarray(value, order="C") for value in case.feeds.values()]
    outputs = {name: np.empty(expected[name].shape, expected[name].dtype) for name in case.outputs}
    flat = [size for value in inputs for size in (value.ndim, *value.shape)]

    def pointers(arrays: Sequence[Array]) -> object:
        return (ctypes.c_void_p * max(1, len(arrays)))(*(array.ctypes.data for array in arrays))

    def sizes(arrays: Sequence[Array]) -> object:
        return (ctypes.c_int64 * max(1, len(arrays)))(*(array.nbytes for array in arrays))

    made = list(outputs.values())
    error = _loaded(library).sanitized_run(
        ctypes.c_int(index),
        (ctypes.c_int64 * max(1, len(flat)))(*flat),
        pointers(inputs),
        sizes(inputs),
        pointers(made),
        sizes(made),
        ctypes.c_int64(chunk),
    )
    assert error is None, f"{case.name}: {error!r}"
    return outputs


def resized(case: Case, seed: int) -> Iterator[tuple[Case, dict[str, Array]]]:
    """The case with its own inputs, and with other numbers of the same shapes."""
    yield case, case.expected(case.feeds)
    other = {}
    for number, (name, value) in enumerate(case.feeds.items()):
        again = random_values(value.shape, str(value.dtype), seed + number)
        keep = name in case.constant_inputs or value.dtype.kind in "iu"
        other[name] = value if keep else again
    yield replace(case, feeds=other), case.expected(other)


def operators_of(cases: Sequence[Case]) -> set[str]:
    """The operators that stand in some programs, by their key in the table."""
    found = {f"{n.domain}.{n.op_type}" if n.domain else n.op_type for case in cases for n in case.nodes}
    return found & set(table())


def check_all(library: Path, cases: Sequence[Case]) -> None:
    """Every kernel of a library against its operators one by one."""
    for index, case in enumerate(cases):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = case.expected(case.feeds)
            check(case, expected, run(library, index, case, expected, 1 + index % 3))


if __name__ == "__main__":
    check_all(Path(sys.argv[1]), programs(int(sys.argv[2]), int(sys.argv[3])))
    print("clean")
