"""The best k: what growth leaves out must not change the list that mining everything and then ranking gives."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import corpus, machine
from graphopt.graph import Capture
from graphopt.machine import Machine
from graphopt.mining import MiningResult, find, find_opportunities, mine
from tests.mining_captures import capture, random_fleet

OPERATORS = ("Relu", "Exp", "Sigmoid", "Neg", "Add", "Mul", "Softmax", "Transpose")


@pytest.fixture(scope="module")
def xeon() -> Machine:
    return machine.load(machine.DEFAULT)


@st.composite
def models(draw: st.DrawFn, name: str) -> Capture:
    """A random model of square matrices, with its size and executions."""
    tensors = ["x"]
    nodes = []
    for number in range(draw(st.integers(2, 9))):
        operator = draw(st.sampled_from(OPERATORS))
        operands = [draw(st.sampled_from(tensors[-3:])) for _ in range(2 if operator in ("Add", "Mul") else 1)]
        nodes.append(f"t{number} = {operator}({', '.join(operands)})")
        tensors.append(f"t{number}")
    size = draw(st.sampled_from([4, 64, 1000]))
    text = f"{name} (float[N,N] x) => (float[N,N] {tensors[-1]}) {{ {' '.join(nodes)} }}"
    return capture(text, {"x": (size, size)}, draw(st.sampled_from([1, 7, 1000])), name)


fleets = st.integers(1, 3).flatmap(lambda count: st.tuples(*(models(f"m{number}") for number in range(count))))


@settings(max_examples=60, deadline=None)
@given(fleets, st.integers(1, 6), st.integers(2, 6), st.sampled_from([1, 8, 0.5]))
def test_random_fleets(xeon: Machine, captures: tuple[Capture, ...], k: int, size: int, support: int | float) -> None:
    asked = {"min_support": support, "max_size": size, "engine": "serial"}
    everything = find_opportunities(captures, xeon, k=None, **asked)
    assert find_opportunities(captures, xeon, k=k, **asked).opportunities == everything.opportunities[:k]


def test_sample_models_with_fewer_patterns(xeon: Machine, sample_graphs: Path) -> None:
    captures = [
        one
        for name in ("dlrm", "mobilenet_v3_large", "wide_and_deep")
        for one in corpus.load(sample_graphs / f"{name}.onnx", view="raw").captures
    ]
    visited = {}
    found = {}
    for k in (1, None):
        levels: list[tuple[int, int]] = []
        report = find_opportunities(
            captures,
            xeon,
            k=k,
            max_size=12,
            engine="serial",
            progress=lambda size, patterns, _, levels=levels: levels.append((size, patterns)),
        )
        last = max(index for index, (size, _) in enumerate(levels) if size == 1)
        visited[k] = sum(patterns for _, patterns in levels[last:])
        found[k] = report.opportunities
    assert len(found[1]) == 1
    assert found[1] == found[None][:1]
    assert visited[1] < visited[None]


@pytest.mark.parametrize("seed", range(6))
def test_the_best_k_are_those_of_all_and_fewer_patterns_are_visited(
    xeon: Machine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    captures = random_fleet(random.Random(seed), 25)
    visited: list[int] = []

    def counted(*arguments: object, **settings: object) -> MiningResult:
        result = mine(*arguments, **settings)
        visited.append(result.visited)
        return result

    monkeypatch.setattr(find, "mine", counted)
    everything = find_opportunities(captures, xeon, k=None, max_size=6, engine="serial").opportunities
    (all_visited,) = visited
    assert len(everything) > 10
    for k in (1, 3, 8):
        visited.clear()
        assert find_opportunities(captures, xeon, k=k, max_size=6, engine="serial").opportunities == everything[:k]
        assert k > 3 or sum(visited) < all_visited
