"""Many captures of the same graphs and shapes cost what one of each costs."""

from dataclasses import replace

import pytest

from graphopt import machine, roofline
from graphopt.graph import Capture
from graphopt.mining import find_opportunities
from graphopt.mining.folding import folded
from tests.mining_captures import capture

TEXT = "m (float[N] x) => (float[N] z) { a = Relu(x)  b = Exp(a)  z = Neg(b) }"


def observed(size: int, executions: int) -> Capture:
    return capture(TEXT, {"x": (size,)}, executions)


def test_equal_captures_are_one() -> None:
    first, other = observed(1000, 2), observed(8, 1)
    found = folded([first, other, replace(first, executions=5), observed(1000, 1)])
    assert [(one.capture.shapes["x"], one.capture.executions, one.count) for one in found] == [
        ((1000,), 8, 3),
        ((8,), 1, 1),
    ]
    assert found[1].capture is other


@pytest.mark.parametrize(
    "other",
    [TEXT.replace("Exp", "Tanh"), TEXT.replace("b", "c"), TEXT.replace("b = Exp(a)  z = Neg(b)", "z = Exp(a)")],
)
def test_other_graphs_are_others(other: str) -> None:
    assert len(folded([observed(8, 1), capture(other, {"x": (8,)})])) == 2


def test_constants_count() -> None:
    text = "m (float[2] x) => (float[2] y) <float[2] c = {1, VALUE}> { y = Mul(x, c) }"
    assert len(folded([capture(text.replace("VALUE", value)) for value in ("2", "3", "2")])) == 2


def test_costs_are_found_once_for_each_graph_and_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    captures = [observed(size, executions) for size in (1000, 8, 100_000) for executions in range(1, 40)]
    asked: list[int] = []
    times = roofline.times_beside_bodies

    def counted(one: Capture, hardware: machine.Machine) -> list[float | None]:
        asked.append(id(one))
        return times(one, hardware)

    monkeypatch.setattr(roofline, "times_beside_bodies", counted)
    xeon = machine.load(machine.DEFAULT)
    many = find_opportunities(captures, xeon)
    assert len(asked) == 3
    few = find_opportunities([observed(size, sum(range(1, 40))) for size in (1000, 8, 100_000)], xeon)
    assert many.captures == 117
    assert {entry.captures for entry in many.opportunities} == {117}
    alike = tuple(replace(entry, captures=3) for entry in many.opportunities)
    assert alike == few.opportunities
