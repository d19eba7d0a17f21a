"""Kernels of recurrent layers against their equations, in all their forms."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from graphopt.graph import AttributeValue
from graphopt.kernels import lowerable
from tests.kernel_checks import Array, Case, KernelLibrary, element_type
from tests.recurrent_layers import GATES, REVERSED


def _feeds(op_type: str, directions: int, steps: int, batch: int, width: int, size: int, seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    gates = GATES[op_type]
    shapes = {
        "x": (steps, batch, width),
        "w": (directions, gates * size, width),
        "r": (directions, gates * size, size),
        "b": (directions, 2 * gates * size),
        "h": (directions, batch, size),
        "c": (directions, batch, size),
    }
    return {name: random.standard_normal(shape).astype(np.float32) / 2 for name, shape in shapes.items()}


def _case(
    name: str,
    op_type: str,
    direction: str,
    size: int,
    operands: str,
    results: str,
    **extra: int,
) -> Case:
    wanted = operands.split()
    slots = [n if n in wanted else "" for n in ("x", "w", "r", "b", "-", "h", *("c" if op_type == "LSTM" else ""))]
    while not slots[-1]:
        slots.pop()
    outputs = [n if n in results.split() else "" for n in ("y", "yh", *(("yc",) if op_type == "LSTM" else ()))]
    while not outputs[-1]:
        outputs.pop()
    attributes = {"hidden_size": size, "direction": direction, **extra}
    node = helper.make_node(op_type, slots, outputs, **attributes)
    feeds = _feeds(op_type, len(REVERSED[direction]), 3, 2, 4, size, 0)
    example = {n: feeds[n] for n in wanted}
    return Case(name, (node,), example, tuple(results.split()))


CASES = (
    _case("gru", "GRU", "forward", 5, "x w r", "y yh"),
    _case("gru_after", "GRU", "bidirectional", 16, "x w r b h", "y", linear_before_reset=1),
    _case("gru_before", "GRU", "bidirectional", 33, "x w r b h", "y yh"),
    _case("gru_last", "GRU", "reverse", 8, "x w r b", "yh", linear_before_reset=1),
    _case("lstm", "LSTM", "forward", 7, "x w r", "y"),
    _case("lstm_states", "LSTM", "bidirectional", 20, "x w r b h c", "y yh yc"),
    _case("lstm_cells", "LSTM", "reverse", 16, "x w r b", "yc"),
)
FORMS = {
    case.name: (case.nodes[0].op_type, {a.name: helper.get_attribute_value(a) for a in case.nodes[0].attribute})
    for case in CASES
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary(CASES, tmp_path_factory.mktemp("recurrence"))


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([case.name for case in CASES]),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(0, 99),
)
def test_any_shape(library: KernelLibrary, name: str, steps: int, batch: int, width: int, seed: int) -> None:
    case = library.cases[name]
    op_type, attributes = FORMS[name]
    directions = len(REVERSED[attributes["direction"].decode()])
    every = _feeds(op_type, directions, steps, batch, width, attributes["hidden_size"], seed)
    feeds = {n: every[n] for n in case.feeds}
    expected = case.expected(feeds)
    for threads in (1, 2):
        for output, found in zip(case.outputs, library.run(name, feeds, threads=threads), strict=True):
            assert found.shape == expected[output].shape
            np.testing.assert_allclose(found, expected[output], rtol=1e-5, atol=2e-6)


def test_the_equations_are_those_of_onnxruntime() -> None:
    for case in CASES:
        feeds = case.feeds
        types = [helper.make_tensor_value_info(n, element_type("float32"), None) for n in feeds]
        outputs = [helper.make_tensor_value_info(n, 1, None) for n in case.outputs]
        graph = helper.make_graph(list(case.nodes), "layer", types, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = case.expected(feeds)
        for output, found in zip(case.outputs, session.run(None, dict(feeds)), strict=True):
            np.testing.assert_allclose(found, expected[output], rtol=1e-5, atol=2e-6)


def test_no_steps_and_no_samples(library: KernelLibrary) -> None:
    case = library.cases["lstm_cells"]
    feeds = _feeds("LSTM", 1, 0, 3, 4, 16, 1)
    (cells,) = library.run("lstm_cells", {n: feeds[n] for n in case.feeds})
    np.testing.assert_array_equal(cells, np.zeros((1, 3, 16), np.float32))
    case = library.cases["gru_after"]
    for steps, batch in ((0, 3), (4, 0)):
        feeds = _feeds("GRU", 2, steps, batch, 4, 16, 1)
        assert library.run("gru_after", {n: feeds[n] for n in case.feeds})[0].shape == (steps, 2, batch, 16)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"clip": 1.0}, "bounds"),
        ({"layout": 1}, "batch first"),
        ({"activations": ("Relu", "Tanh")}, "activations Relu, Tanh"),
    ],
)
def test_other_layers_have_no_kernel(attributes: dict[str, AttributeValue], reason: str) -> None:
    case = _case("other", "GRU", "forward", 5, "x w r", "y")
    body = case.body()
    node = replace(body.nodes[0], attributes={**body.nodes[0].attributes, **attributes})
    assert reason in (lowerable(replace(body, nodes=(node,))) or "")
