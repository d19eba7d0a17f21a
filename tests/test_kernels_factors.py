"""Factors: small costly values that many elements repeat are computed once."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper

from graphopt.kernels.emit import emit_kernel
from graphopt.kernels.factors import repeated_factors
from graphopt.kernels.lower import lower
from graphopt.kernels.program import Program
from tests.kernel_checks import Case, Feeds, KernelLibrary

ROWS, COLUMNS = 64, 48


def node(op_type: str, inputs: list[str], output: str, **attributes: object) -> NodeProto:
    return helper.make_node(op_type, inputs, [output], **attributes)


def real(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32)


def whole(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 9, shape).astype(np.int64)


def case(name: str, nodes: list[NodeProto], feeds: Feeds, constants: frozenset[str] = frozenset()) -> Case:
    return Case(name, tuple(nodes), feeds, (nodes[-1].output[0],), constant_inputs=constants)


DIVIDED = [node("Div", ["a", "b"], "t"), node("Mul", ["x", "t"], "y")]
SCALED = {"a": real(COLUMNS), "b": real(COLUMNS, seed=1), "x": real(ROWS, COLUMNS, seed=2)}
GATED = [node("Conv", ["p", "w"], "c"), node("Sigmoid", ["c"], "g"), node("Mul", ["x", "g"], "y")]
NORMALISED = {"x": real(2, COLUMNS, 6, 8), **{name: real(COLUMNS, seed=ord(name)) for name in "sbmv"}}

APART = (
    case("columns", DIVIDED, SCALED),
    case("rows", DIVIDED, {"a": real(ROWS, 1), "b": real(1, 1), "x": real(ROWS, COLUMNS)}),
    case("behind_a_view",
         [node("Exp", ["a"], "e"), node("Transpose", ["e"], "t", perm=[1, 0]), node("Mul", ["t", "x"], "y")],
         {"a": real(COLUMNS, 1), "x": real(ROWS, COLUMNS)}),
    case("integers", [node("Div", ["a", "b"], "t"), node("Cast", ["t"], "u", to=1), node("Mul", ["x", "u"], "y")],
         {"a": whole(COLUMNS, seed=1), "b": whole(COLUMNS), "x": real(ROWS, COLUMNS)}),
    case("batch_normalization", [node("BatchNormalization", ["x", "s", "b", "m", "v"], "y")], NORMALISED),
    case("one_behind_the_other",
         [node("Div", ["a", "b"], "t"), node("Div", ["t", "c"], "u"), node("Mul", ["x", "u"], "y")],
         {"a": real(1, 8), "b": real(1, 8, seed=1), "c": real(512, 8, seed=2), "x": real(8, 512, 8)}),
    case("behind_a_convolution", GATED,
         {"p": real(2, 8, 1, 1), "w": real(COLUMNS, 8, 1, 1), "x": real(2, COLUMNS, 6, 8)}),
    case("before_a_sum", [*DIVIDED[:1], node("Mul", ["x", "t"], "p"), node("ReduceSum", ["p"], "y")], SCALED),
)  # fmt: skip
INSIDE = (
    case("few_elements", DIVIDED, {"a": real(8), "b": real(8), "x": real(16, 8)}),
    case("as_many_elements", DIVIDED, {name: real(ROWS, COLUMNS) for name in "abx"}),
    case("simple", [node("Sub", ["a", "b"], "t"), node("Mul", ["x", "t"], "y")], SCALED),
    case("single_constants", DIVIDED, {"a": real(1), "b": real(1), "x": real(ROWS, COLUMNS)}, frozenset("ab")),
    case("behind_a_sum",
         [node("ReduceMax", ["x"], "m", keepdims=1), node("Exp", ["m"], "e"), node("Mul", ["x", "e"], "y")],
         {"x": real(ROWS, COLUMNS)}),
    case("behind_a_convolution_of_as_many_elements", GATED,
         {"p": real(2, 8, 6, 8), "w": real(COLUMNS, 8, 1, 1), "x": real(2, COLUMNS, 6, 8)}),
    case("concatenated", [node("Exp", ["a"], "e"), node("Concat", ["e", "x"], "y", axis=0)],
         {"a": real(1, COLUMNS), "x": real(ROWS, COLUMNS)}),
)  # fmt: skip


def program_of(example: Case) -> Program:
    fused = example.fused()
    return lower(fused.name, fused.body, fused.shapes)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary((*APART, *INSIDE), Path(tmp_path_factory.mktemp("factors")))


@pytest.mark.parametrize("example", APART, ids=lambda example: example.name)
def test_what_many_elements_repeat_is_computed_apart(example: Case) -> None:
    assert repeated_factors(program_of(example))


@pytest.mark.parametrize("example", INSIDE, ids=lambda example: example.name)
def test_what_does_not_pay_stays_inside(example: Case) -> None:
    assert not repeated_factors(program_of(example))


def test_a_factor_behind_another_is_one_of_its_own() -> None:
    (example,) = (example for example in APART if example.name == "one_behind_the_other")
    assert len(repeated_factors(program_of(example))) == 2


def test_the_large_loop_of_the_fitted_schedule_does_not_divide() -> None:
    text = emit_kernel(program_of(APART[0]))
    loops = re.findall(r"static void \w+_fitted\w*_compute\w*\(.*?\n}", text, re.DOTALL)
    assert [" / " in loop for loop in loops] == [True, False]


@pytest.mark.parametrize("example", (*APART, *INSIDE), ids=lambda example: example.name)
def test_kernels_give_what_their_operators_give(library: KernelLibrary, example: Case) -> None:
    for threads in (1, 2):
        library.check(example.name, relative=2e-6, absolute=2e-5, threads=threads)


@given(
    name=st.sampled_from(("columns", "integers")), rows=st.integers(0, 40), columns=st.integers(0, 70), data=st.data()
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_kernels_are_right_at_other_shapes(
    library: KernelLibrary, name: str, rows: int, columns: int, data: st.DataObject
) -> None:
    """Whichever operand repeats: nothing of the schedule depends on the shapes of the example."""
    make = whole if name == "integers" else real
    a, b = (data.draw(st.sampled_from((1, columns))) for _ in "ab")
    feeds = {"a": make(a, seed=rows), "b": make(b, seed=columns), "x": real(rows, columns)}
    library.check(name, feeds)
