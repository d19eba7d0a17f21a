"""Every element-wise lowering against the reference evaluator: broadcasting, special values, all dtypes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from onnx import helper

from graphopt.operators import table
from graphopt.operators.lowering import Elementwise
from tests.kernel_checks import ALL_DTYPES, DTYPES, Array, Case, KernelLibrary, random_values, special_values

REAL, SIGNED, UNSIGNED = DTYPES["real"], DTYPES["signed"], DTYPES["unsigned"]
INTEGERS = (*SIGNED, *UNSIGNED)
NUMBERS = (*REAL, *INTEGERS)
MICROSOFT = "com.microsoft."
EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10}


@dataclass(frozen=True)
class Row:
    """An operator as it is checked.

    Attributes:
        operator: full name.
        dtypes: of the operands from ``first`` on.
        operands: how many.
        attributes: of the node.
        ulps: tolerance in units of the dtype's epsilon, relative.
        absolute: tolerance in epsilons, absolute.
        first: dtypes of the operands before the others (a condition).
        last: dtype of the last operand, where it differs.
        scalars: operands that must have one element (bounds of Clip).
        opset: of the standard operators.
        moderate: no special values, where implementations may differ at them.
    """

    operator: str
    dtypes: tuple[str, ...] = REAL
    operands: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)
    ulps: float = 0
    absolute: float = 0
    first: tuple[str, ...] = ()
    last: str = ""
    scalars: tuple[int, ...] = ()
    opset: int = 21
    moderate: bool = False


ROWS = (
    Row("Add", NUMBERS, 2),
    Row("Sub", NUMBERS, 2),
    Row("Mul", NUMBERS, 2),
    Row("Div", NUMBERS, 2),
    Row("Mod", INTEGERS, 2),
    Row("Mod", NUMBERS, 2, {"fmod": 1}),
    Row("Pow", REAL, 2, ulps=4),
    Row("Pow", ("int32", "int64"), 2),
    Row("Pow", ("float32",), 2, last="int64", ulps=4),
    Row("Pow", ("float32",), 2, last="float64", ulps=4),
    Row("Pow", ("float64",), 2, last="float32", ulps=4),
    Row("Pow", ("int32",), 2, last="float32", moderate=True),
    Row("Neg", (*REAL, *SIGNED)),
    Row("Abs", NUMBERS),
    Row("Reciprocal", REAL, ulps=1),
    Row("Sqrt", REAL, ulps=1),
    Row("Sign", NUMBERS),
    Row("Floor"),
    Row("Ceil"),
    Row("Round"),
    *(Row("Sum", REAL, n, ulps=4, absolute=16) for n in (1, 2, 4)),
    *(Row("Mean", REAL, n, ulps=4, absolute=16) for n in (1, 3)),
    *(Row(name, NUMBERS, n) for name in ("Max", "Min") for n in (1, 2, 3)),
    Row("Clip", NUMBERS, 3, scalars=(1, 2)),
    Row("Clip", REAL, 2, scalars=(1,)),
    Row("Clip", REAL, 1),
    Row("Clip", ("float32",), 1, {"min": -0.5, "max": 1.5}, opset=6),
    Row("Clip", ("float32",), 1, {"max": 1.5}, opset=6),
    Row("Exp", ulps=4),
    Row("Log", ulps=4),
    Row("Erf", ulps=4),
    Row("Tanh", ulps=4),
    Row("Sigmoid", ulps=4),
    Row("Softplus", ulps=6),
    *(Row(name, ulps=4) for name in ("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh")),
    *(Row(name, ulps=4) for name in ("Asinh", "Acosh", "Atanh")),
    Row("Equal", (*NUMBERS, "bool"), 2),
    *(Row(name, NUMBERS, 2) for name in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")),
    *(Row(name, ("bool",), 2) for name in ("And", "Or", "Xor")),
    Row("Not", ("bool",)),
    *(Row(name, INTEGERS, 2) for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    Row("BitwiseNot", INTEGERS),
    Row("BitShift", UNSIGNED, 2, {"direction": "LEFT"}),
    Row("BitShift", UNSIGNED, 2, {"direction": "RIGHT"}),
    Row("IsNaN", REAL),
    Row("IsInf", ("float32", "float64")),
    Row("IsInf", ("float32", "float64"), 1, {"detect_negative": 0}),
    Row("IsInf", ("float32", "float64"), 1, {"detect_positive": 0}),
    Row("Where", ALL_DTYPES, 3, first=("bool",)),
    *(
        Row("Cast", ALL_DTYPES, 1, {"to": helper.np_dtype_to_tensor_dtype(np.dtype(to))}, moderate=True)
        for to in ALL_DTYPES
    ),
    Row("CastLike", ("float32",), 2, last="int32", moderate=True),
    Row("CastLike", ("int64",), 2, last="float32"),
    Row("Identity", ALL_DTYPES),
    Row("Relu", (*REAL, *SIGNED)),
    Row("LeakyRelu", ulps=1),
    Row("LeakyRelu", REAL, 1, {"alpha": 0.3}, ulps=1),
    Row("PRelu", REAL, 2),
    Row("Elu", ulps=4, absolute=2),
    Row("Elu", REAL, 1, {"alpha": 0.7}, ulps=4, absolute=2),
    Row("Celu", ("float32",), ulps=4, absolute=4),
    Row("Celu", ("float32",), 1, {"alpha": 2.5}, ulps=4, absolute=8),
    Row("Selu", ulps=4, absolute=4),
    Row("Selu", REAL, 1, {"alpha": 1.1, "gamma": 0.9}, ulps=4, absolute=4),
    Row("ThresholdedRelu"),
    Row("ThresholdedRelu", REAL, 1, {"alpha": -0.25}),
    Row("Shrink"),
    Row("Shrink", REAL, 1, {"bias": 0.25, "lambd": 1.25}),
    Row("HardSigmoid", ulps=2, absolute=1),
    Row("HardSigmoid", REAL, 1, {"alpha": 0.4, "beta": 0.1}, ulps=2, absolute=1),
    Row("HardSwish", ulps=4, absolute=2),
    Row("Softsign", ulps=2),
    Row("Mish", ulps=8, absolute=2),
    Row("Swish", ulps=8, absolute=2, opset=24),
    Row("Swish", REAL, 1, {"alpha": 1.5}, ulps=8, absolute=2, opset=24),
    Row("Gelu", ulps=8, absolute=4),
    Row("Gelu", REAL, 1, {"approximate": "tanh"}, ulps=8, absolute=4),
    Row(MICROSOFT + "Gelu", ("float32",), ulps=8, absolute=4),
    Row(MICROSOFT + "BiasGelu", ("float32",), 2, ulps=8, absolute=16, moderate=True),
    Row(MICROSOFT + "FastGelu", ("float32",), 1, ulps=8, absolute=16, moderate=True),
    Row(MICROSOFT + "FastGelu", ("float32",), 2, ulps=8, absolute=16, moderate=True),
    Row(MICROSOFT + "QuickGelu", ("float32",), ulps=8, absolute=4, moderate=True),
    Row(MICROSOFT + "QuickGelu", ("float32",), 1, {"alpha": 1.1}, ulps=8, absolute=4, moderate=True),
)

SHAPES = (
    ((), (), ()),
    ((5,), (), ()),
    ((), (1,), (3,)),
    ((2, 3), (3,), (2, 1)),
    ((1, 7), (5, 1), ()),
    ((2, 1, 4), (3, 1), (1, 1, 1, 4)),
    ((2, 5, 3, 4), (5, 1, 1), (1, 5, 1, 1)),
    ((2, 1, 3, 1, 2), (1, 4, 1, 5, 1), (1, 1, 1, 1, 1)),
    ((2, 0, 3), (1, 3), (3,)),
    ((0,), (1,), ()),
    ((33, 65), (33, 65), (33, 65)),
    ((2, 2100), (1, 2100), (2, 1)),
    ((40, 17, 9), (17, 1), (40, 1, 1)),
    ((4, 1, 1, 1, 1, 1, 1, 2), (3, 1), (2,)),
)
"""Shapes of three operands; operators with fewer take the first ones."""


def _operand_dtypes(row: Row, dtype: str) -> tuple[str, ...]:
    rest = row.operands - len(row.first)
    dtypes = [*row.first, *([dtype] * rest)]
    if row.last:
        dtypes[-1] = row.last
    return tuple(dtypes)


def _case(number: int, row: Row, dtype: str) -> Case:
    domain, _, op_type = row.operator.rpartition(".")
    names = [f"x{slot}" for slot in range(row.operands)]
    node = helper.make_node(op_type, names, ["y"], domain=domain, **row.attributes)
    feeds = {x: np.ones((), d) for x, d in zip(names, _operand_dtypes(row, dtype), strict=True)}
    if op_type in ("BiasGelu", "FastGelu"):  # a bias along the last axis
        feeds = {x: np.ones((1,), value.dtype) for x, value in feeds.items()}
    return Case(f"{op_type}_{number}_{dtype}", (node,), feeds, ("y",), opset=row.opset, shaped=False)


CASES = {
    case.name: (row, case)
    for number, row in enumerate(ROWS)
    for dtype in row.dtypes
    for case in (_case(number, row, dtype),)
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary([case for _, case in CASES.values()], tmp_path_factory.mktemp("elementwise"))


def _shapes(row: Row) -> Iterator[tuple[tuple[int, ...], ...]]:
    name = row.operator.rpartition(".")[2]
    for shapes in SHAPES:
        chosen = list((*shapes, ())[: row.operands])
        for slot in row.scalars:
            chosen[slot] = ()
        if name in ("BiasGelu", "FastGelu"):
            chosen = [shapes[0] or (1,), (shapes[0] or (1,))[-1:]][: row.operands]
        if name == "CastLike":
            chosen[1] = ()
        if name == "PRelu":
            try:
                fits = np.broadcast_shapes(*chosen) == chosen[0]
            except ValueError:
                fits = False
            if not fits:
                chosen[1] = chosen[0][-1:]
        yield tuple(chosen)


def _values(shape: tuple[int, ...], dtype: str, seed: int, row: Row, slot: int) -> Array:
    values = random_values(shape, dtype, seed)
    name = row.operator.rpartition(".")[2]
    if name == "Pow" and slot == 1 and dtype not in REAL:
        values = np.asarray(values % 7, dtype)
    elif name == "Pow" and slot == 0 and row.last:
        values = np.asarray(np.abs(values % 9), dtype)
    elif name == "Cast" and dtype in REAL:
        target = str(helper.tensor_dtype_to_np_dtype(int(row.attributes["to"])))
        values = np.abs(values) if target in UNSIGNED else values
    elif name == "BitShift" and slot == 1:
        values = np.asarray(values % 70, dtype)
    return values


@pytest.mark.parametrize("name", CASES)
def test_operator_on_shapes_and_values(library: KernelLibrary, name: str) -> None:
    row, case = CASES[name]
    dtypes = {x: str(value.dtype) for x, value in case.feeds.items()}
    result = str(case.expected(case.feeds)["y"].dtype)
    relative, absolute = (t * EPSILON.get(result, 0.0) for t in (row.ulps, row.absolute))
    if result == "float16":  # kernels compute in float32 and round once, the evaluator rounds each step
        relative, absolute = (4 * EPSILON[result], 4 * EPSILON[result]) if row.ulps or row.absolute else (0.0, 0.0)
    threads = 1 + list(CASES).index(name) % 2
    for seed, shapes in enumerate(_shapes(row)):
        feeds = {
            x: _values(shape, dtype, 10 * seed + slot, row, slot)
            for slot, ((x, dtype), shape) in enumerate(zip(dtypes.items(), shapes, strict=True))
        }
        library.check(name, feeds, relative=relative, absolute=absolute, threads=threads)
    if not row.moderate:
        _check_special(library, name, row, dtypes, relative, absolute, threads)


def _check_special(
    library: KernelLibrary,
    name: str,
    row: Row,
    dtypes: dict[str, str],
    relative: float,
    absolute: float,
    threads: int,
) -> None:
    """All pairs (or triples) of special values, by broadcasting."""
    feeds = {}
    for slot, (x, dtype) in enumerate(dtypes.items()):
        values = special_values(dtype)
        if row.operator == "Pow" and slot == 1 and dtype not in REAL:
            values = np.array([0, 1, 2, 3, 5], dtype)
        if row.operator == "PRelu" and slot == 1:
            values = np.array([-2, 0.25, 1, 3], dtype)
        if slot in row.scalars:
            values = values[3]
        elif row.operands > 1 and row.operator != "CastLike":
            values = values.reshape(-1, *(1,) * (min(row.operands, 3) - 1 - min(slot, 2)))
        feeds[x] = values
    if row.operator == "PRelu":
        feeds["x0"] = np.broadcast_to(feeds["x0"], np.broadcast_shapes(*(f.shape for f in feeds.values())))
    if row.operator == "CastLike":
        feeds["x1"] = feeds["x1"][0]
    tiny = float(np.finfo(np.float16 if "float16" in dtypes.values() else np.float32).tiny) * 2.0**-10
    library.check(name, feeds, relative=relative, absolute=max(absolute, tiny if relative else 0.0), threads=threads)


def test_every_lowering_is_checked() -> None:
    lowered = {name for name, operator in table().items() if isinstance(operator.lowering, Elementwise)}
    assert lowered == {row.operator for row in ROWS}


def test_clip_bounds_that_cross_and_are_absent(library: KernelLibrary) -> None:
    name = next(name for name in CASES if name.startswith("Clip_") and CASES[name][0].operands == 3)
    dtype = str(CASES[name][1].feeds["x0"].dtype)
    feeds = {"x0": random_values((50,), dtype, 1), "x1": np.array(2, dtype), "x2": np.array(-1, dtype)}
    assert (library.run(name, feeds)[0] == -1).all()


# ------------------------------------------------------------------ constants inside of the body

INNER: tuple[tuple[str, Array], ...] = (
    *(("Pow", np.array(power, np.float32)) for power in (0.0, 1.0, 2.0, 3.0, 4.0, -1.0, 0.5, -0.5, 2.5, -3.0, np.inf)),
    ("Pow", np.array(2, np.int64)),
    ("Pow", np.array([[[0.5]]], np.float64)),
    ("Pow", np.array([2.0], np.float32)),
    *(
        (op_type, np.array(value, np.float32))
        for op_type in ("Add", "Mul", "Less")
        for value in (np.inf, -np.inf, np.nan, -0.0, 1e-45)
    ),
    ("Sub", np.array([[-3.5]], np.float32)),
    ("Mul", np.array(2**64 - 1, np.uint64)),
    ("Add", np.array(-(2**63), np.int64)),
    ("Div", np.array(-1, np.int8)),
    ("Mod", np.array(-7, np.int32)),
    ("BitShift", np.array(3, np.uint8)),
    ("Or", np.array(True)),
    ("Add", np.array(0.1, np.float16)),
)


def _inner_case(number: int, op_type: str, constant: Array, first: bool) -> Case:
    dtype = "float32" if op_type == "Pow" else str(constant.dtype)
    operands = ["c", "x"] if first else ["x", "c"]
    attributes = {"direction": "LEFT"} if op_type == "BitShift" else {}
    node = helper.make_node(op_type, operands, ["y"], **attributes)
    feeds = {"x": np.ones((), dtype)}  # of fewer dimensions than some constants
    return Case(f"inner{number}_{int(first)}", (node,), feeds, ("y",), {"c": constant}, shaped=False)


INNER_CASES = {
    case.name: case
    for number, (op_type, constant) in enumerate(INNER)
    for first in ((False,) if op_type == "Pow" else (False, True))
    for case in (_inner_case(number, op_type, constant, first),)
}
EXTRA_CASES = (
    Case(
        "negative_infinity",
        (helper.make_node("Neg", ["c"], ["t"]), helper.make_node("Min", ["x", "t"], ["y"])),
        {"x": np.array(1, np.float32)},
        ("y",),
        {"c": np.array(-np.inf, np.float32)},
        shaped=False,
    ),
    Case(
        "shifted_constant",
        (helper.make_node("BitShift", ["c", "x"], ["y"], direction="RIGHT"),),
        {"x": np.array(1, np.uint16)},
        ("y",),
        {"c": np.array(60_000, np.uint16)},
        shaped=False,
    ),
)


@pytest.fixture(scope="module")
def inner_library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary([*INNER_CASES.values(), *EXTRA_CASES], tmp_path_factory.mktemp("inner"))


@pytest.mark.parametrize("name", [*INNER_CASES, *(case.name for case in EXTRA_CASES)])
def test_constants_inside_of_the_body(inner_library: KernelLibrary, name: str) -> None:
    """Ranks are those of the body: a constant of more dimensions than its partner gives them to the result."""
    dtype = str(inner_library.cases[name].feeds["x"].dtype)
    relative = 4 * EPSILON.get(dtype, 0.0)
    inner_library.check(name, {"x": random_values((), dtype, 1)}, relative=relative)
    if name.startswith("shifted") or any(c.ndim for c in inner_library.cases[name].constants.values()):
        return
    inner_library.check(name, {"x": special_values(dtype)}, relative=relative, absolute=1e-41 if relative else 0.0)
