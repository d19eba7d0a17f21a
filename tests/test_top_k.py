"""The best k: what growth leaves out must not change the list that mining everything and then ranking gives."""

import math
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import corpus, machine, roofline
from graphopt.graph import Capture
from graphopt.machine import Machine
from graphopt.mining import MiningResult, Pattern, find, find_opportunities, mine
from graphopt.mining.opportunity import Opportunity
from graphopt.mining.ranking import Ranking
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


@st.composite
def observed_fleets(draw: st.DrawFn) -> list[Capture]:
    """Models observed with several shapes each, some under two names; operators of equal cost, so that savings tie."""
    found = []
    for number in range(draw(st.integers(1, 2))):
        tensors, nodes = ["x"], []
        for place in range(draw(st.integers(2, 7))):
            operator = draw(st.sampled_from(("Relu", "Neg", "Add", "Mul")))
            operands = [draw(st.sampled_from(tensors[-2:])) for _ in range(2 if operator in ("Add", "Mul") else 1)]
            nodes.append(f"t{place} = {operator}({', '.join(operands)})")
            tensors.append(f"t{place}")
        for name in draw(st.sampled_from(([f"m{number}"], [f"m{number}", f"copy{number}"]))):
            text = f"{name} (float[N,N] x) => (float[N,N] {tensors[-1]}) {{ {' '.join(nodes)} }}"
            for size in draw(st.lists(st.sampled_from([4, 64, 1000]), min_size=1, max_size=3)):
                found.append(capture(text, {"x": (size, size)}, draw(st.sampled_from([1, 7, 1000])), name))
    return found


def by_definition(ranking: Ranking, patterns: list[Pattern]) -> list[str]:
    """Digests in marginal order: every pattern is valued anew each time, its occurrences in all captures."""

    def saving(graph: int, nodes: tuple[int, ...]) -> float:
        total = []
        for one in ranking.by_graph[graph]:
            times = roofline.operator_times(one, ranking.machine)
            before = math.fsum(times[node] or 0.0 for node in nodes)
            total.append(one.executions * (before - (roofline.fused_seconds(one, nodes, ranking.machine) or 0.0)))
        return math.fsum(total)

    covered: set[tuple[int, int]] = set()

    def taken(pattern: Pattern) -> list[tuple[int, tuple[int, ...], float]]:
        found: list[tuple[int, tuple[int, ...], float]] = []
        held = set(covered)
        for one in ranking.candidates(pattern, {}):
            own = {(one.graph, node) for node in one.nodes}
            assert one.saving == pytest.approx(saving(one.graph, one.nodes))
            if not own & held:
                held |= own
                found.append((one.graph, one.nodes, one.saving))
        return found

    order = []
    left = {pattern.digest: pattern for pattern in patterns}
    while left:
        values = {digest: math.fsum(gain for *_, gain in taken(pattern)) for digest, pattern in left.items()}
        best = min(values, key=lambda digest: (-values[digest], digest))
        if values[best] <= 0:
            break
        order.append(best)
        covered |= {(graph, node) for graph, nodes, _ in taken(left.pop(best)) for node in nodes}
    return order


@settings(max_examples=40, deadline=None)
@given(observed_fleets(), st.integers(1, 4), st.sampled_from([1, 8, 0.5]))
def test_order_by_definition(xeon: Machine, captures: list[Capture], k: int, support: int | float) -> None:
    seen: list[tuple[Ranking, list[Pattern]]] = []
    best = Ranking.best

    def remembered(self: Ranking, patterns: Iterable[Pattern], *asked: object) -> list[Opportunity]:
        seen.append((self, list(patterns)))
        return best(self, seen[-1][1], *asked)

    asked = {"min_support": support, "max_size": 5, "engine": "serial"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranking, "best", remembered)
        everything = find_opportunities(captures, xeon, k=None, **asked).opportunities
    expected = by_definition(*seen[0])
    assert [one.digest for one in everything] == expected
    assert find_opportunities(captures, xeon, k=k, **asked).opportunities == everything[:k]


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
