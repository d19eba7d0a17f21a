"""Bodies of If, Loop and Scan: which ran, how often, and what they cost."""

from collections.abc import Mapping

import onnx.parser
import pytest

from graphopt import machine, operators
from graphopt.bodies import bodies_of
from graphopt.capture import Execution, capture_executions
from graphopt.characterization.characterize import characterize
from graphopt.characterization.classes import OperatorClass
from graphopt.characterization.layers import Kind, layers
from graphopt.characterization.parameters import parameter_elements
from graphopt.graph import Capture, Shape
from graphopt.model_inputs import Range
from graphopt.observation import Observer
from graphopt.operators.base import Cost
from graphopt.roofline import operator_seconds, operator_times


def captured(
    text: str, shapes: Mapping[str, Shape] | None = None, ranges: Mapping[str, Range] | None = None
) -> Capture:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    return capture_executions(model, "g", [Execution(shapes or {}, 1, ranges or {})], "raw")[0].capture


def place(capture: Capture, op_type: str) -> int:
    return next(i for i, node in enumerate(capture.graph.nodes) if node.op_type == op_type)


def body_of(capture: Capture, op_type: str) -> tuple[int, list[str]]:
    """Trips and operators of the one body of the one such node."""
    (body,) = capture.bodies[capture.graph.nodes[place(capture, op_type)].name]
    return body.trips, [node.op_type for node in body.capture.graph.nodes]


BRANCHES = """
    y = If (c) <
        then_branch = yes () => (float[4,4] a) { e = Exp(x) a = Relu(e) },
        else_branch = no () => (float[4,4] b) { b = MatMul(x, x) }
    >
"""


@pytest.mark.parametrize(("value", "inside"), [(1, ["Exp", "Relu"]), (0, ["MatMul"])])
def test_the_branch_of_a_constant_condition(value: int, inside: list[str]) -> None:
    capture = captured(f"g (float[4,4] x) => (float[4,4] y) <bool c = {{{value}}}> {{ {BRANCHES} }}")
    assert body_of(capture, "If") == (1, inside)


@pytest.mark.parametrize(("high", "inside"), [(9.0, ["Exp", "Relu"]), (-9.0, ["MatMul"])])
def test_the_branch_that_an_input_chooses(high: float, inside: list[str]) -> None:
    capture = captured(
        f"g (float[4,4] x, float s) => (float[4,4] y) <float zero = {{0.0}}> {{ c = Greater(s, zero) {BRANCHES} }}",
        ranges={"s": (high, high)},
    )
    assert body_of(capture, "If") == (1, inside)
    at = place(capture, "If")
    expected = Cost(32, 128, 128, 0) if high > 0 else Cost(128, 64, 64, 0)
    assert operators.cost(capture, at) == expected
    device = machine.load()
    (body,) = capture.bodies[capture.graph.nodes[at].name]
    inner = sum(seconds or 0.0 for seconds in operator_times(body.capture, device))
    assert operator_seconds(capture, at, device) == pytest.approx(device.node_seconds + inner)


def test_a_loop_ends_when_its_condition_does() -> None:
    """Counts up in steps of 3 until 10 is passed, of at most 100 trips."""
    capture = captured(
        """g (float[2,2] x) => (float[2,2] y) <int64 most = {100}, bool go = {1}, int64 three = {3}, int64 ten = {10}> {
            y = Loop (most, go, x) <
                body = one (int64 i, bool c, float[2,2] s) => (bool more, float[2,2] t) {
                    t = Add(s, x)
                    now = Mul(i, three)
                    more = Less(now, ten)
                }
            >
        }"""
    )
    trips, inside = body_of(capture, "Loop")
    assert trips == 5  # 0, 3, 6, 9 are below 10; the fifth trip finds 12
    found = operators.cost(capture, place(capture, "Loop"))
    assert found is not None
    assert found.flops == trips * (4 + 1 + 1)
    assert sorted(inside) == ["Add", "Less", "Mul"]


def test_a_state_may_change_its_shape_on_the_first_trip() -> None:
    text = """g (float[2,4] x, float[1,4] start) => (float[N,4] y) <bool go = {1}, int64 n = {3}> {
        y = Loop (n, go, start) <
            body = one (int64 i, bool c, float[M,4] s) => (bool c2, float[K,4] t) { c2 = Identity(c) t = NEXT }
        >
    }"""
    capture = captured(text.replace("NEXT", "Add(s, x)"))
    (body,) = capture.bodies[capture.graph.nodes[0].name]
    assert (body.trips, body.capture.shapes["s"], body.capture.shapes["t"]) == (3, (2, 4), (2, 4))
    assert captured(text.replace("NEXT", "Concat<axis=0>(s, x)")).bodies == {}, "grows on every trip"


def test_a_scan_takes_a_trip_per_slice() -> None:
    capture = captured(
        """g (float[7,2,3] x, float[2,4] start) => (float[2,4] last, float[7,2,4] all)
            <int64[2] ws = {3, 4}> {
            w = ConstantOfShape(ws)
            last, all = Scan (start, x) <
                num_scan_inputs = 1,
                body = step (float[2,4] s, float[2,3] slice) => (float[2,4] t, float[2,4] out) {
                    p = MatMul(slice, w)
                    t = Add(p, s)
                    out = Identity(t)
                }
            >
        }"""
    )
    assert body_of(capture, "Scan") == (7, ["MatMul", "Add", "Identity"])
    found = operators.cost(capture, place(capture, "Scan"))
    assert found is not None
    assert found.flops == 7 * (2 * 3 * 8 + 8)
    assert found.bytes_written == 7 * (32 + 32)


def test_layers_and_times_of_bodies_count() -> None:
    capture = captured(
        """g (float[4,4] x) => (float[4,4] y)
            <int64 n = {5}, bool go = {1}, int64[2] ws = {4, 4}> {
            y = Loop (n, go, x) <
                body = one (int64 i, bool c, float[4,4] s) => (bool c2, float[4,4] t)
                <float[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}> {
                    c2 = Identity(c)
                    t = MatMul(s, w)
                }
            >
        }"""
    )
    (layer,) = layers(capture)
    assert (layer.kind, layer.operations, layer.weights) == (Kind.FC, 5 * 128, 5 * 16)
    assert parameter_elements(capture) == 16
    (model,) = characterize([capture], machine.load(), view="raw").models
    assert model.times[OperatorClass.FC] > 0
    assert sum(model.times.values()) == pytest.approx(model.seconds)
    assert model.unknown_operators == 0


def test_nested_bodies_follow_from_shapes_and_constants() -> None:
    text = """g (float[N,4] x) => (float[N,4] y) <bool go = {1}, int64 n = {3}, int64 two = {2}> {
        y = Loop (n, go, x) <
            body = one (int64 i, bool c, float[N,4] s) => (bool c2, float[N,4] t) {
                c2 = Identity(c)
                size = Size(s)
                large = Greater(size, two)
                t = If (large) <
                    then_branch = yes () => (float[N,4] a) { a = Exp(s) },
                    else_branch = no () => (float[N,4] b) { b = Relu(s) }
                >
            }
        >
    }"""
    capture = captured(text, {"x": (3, 4)})
    (body,) = capture.bodies[capture.graph.nodes[0].name]
    assert body.trips == 3
    assert body_of(body.capture, "If") == (1, ["Exp"])


def test_what_is_not_known_stays_unknown() -> None:
    """A state that grows with each trip has no one shape; a nested condition on values is nobody's to guess."""
    grows = captured(
        """g (float[1,4] x) => (float[N,4] y) <int64 n = {3}, bool go = {1}> {
            y = Loop (n, go, x) <
                body = one (int64 i, bool c, float[K,4] s) => (bool c2, float[L,4] t) {
                    c2 = Identity(c)
                    t = Concat <axis = 0> (s, x)
                }
            >
        }"""
    )
    assert grows.bodies == {}
    assert operators.cost(grows, 0) is None
    assert operator_seconds(grows, 0, machine.load()) is None
    nested = captured(
        """g (float[4] x) => (float[4] y) <int64 n = {3}, bool go = {1}, float zero = {0.0}> {
            y = Loop (n, go, x) <
                body = one (int64 i, bool c, float[4] s) => (bool c2, float[4] t) {
                    c2 = Identity(c)
                    total = ReduceSum <keepdims = 0> (s)
                    up = Greater(total, zero)
                    t = If (up) <
                        then_branch = yes () => (float[4] a) { a = Exp(s) },
                        else_branch = no () => (float[4] b) { b = Relu(s) }
                    >
                }
            >
        }"""
    )
    assert list(nested.bodies) == [nested.graph.nodes[0].name]
    assert operators.cost(nested, 0) is None


def test_a_graph_without_control_flow_has_no_bodies() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Exp(x) }'
    )
    observer = Observer(model, "g")
    assert bodies_of(observer.model, observer.observe({})) == {}
