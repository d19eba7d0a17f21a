"""The best k patterns of any graphs: as mining everything and ranking it, with fewer patterns visited."""

import random
from collections.abc import Callable, Sequence

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from graphopt.mining import MiningResult, Pattern, mine
from graphopt.mining.graphs import MiningGraph
from tests.brute_force import Entry
from tests.random_dags import branches, corpora
from tests.test_mining_exact import given_graphs


def taken(pattern: Pattern, covered: set[tuple[int, int]]) -> list[tuple[int, tuple[int, ...]]]:
    """Disjoint occurrences that hold nothing covered: distinct graph and nodes."""
    return [
        (places.graph, nodes)
        for places in pattern.places
        for nodes in pattern.disjoint_in(places, sum(1 << node for graph, node in covered if graph == places.graph))
    ]


def ranked(
    result: MiningResult, graphs: Sequence[MiningGraph], each: Callable[[Pattern], float]
) -> list[tuple[str, float]]:
    """All patterns in marginal order by definition: every one is valued anew each time."""
    weights: dict[int, int] = {}
    for graph, index in zip(graphs, result.index, strict=True):
        weights[index] = weights.get(index, 0) + graph.weight
    covered: set[tuple[int, int]] = set()
    left = list(result)
    order = []
    while left:
        values = [(each(p) * sum(weights[graph] for graph, _ in taken(p, covered)), p) for p in left]
        value, best = min(values, key=lambda pair: (-pair[0], pair[1].digest))
        if value <= 0:
            break
        order.append((best.digest, value))
        covered |= {(graph, node) for graph, nodes in taken(best, covered) for node in nodes}
        left.remove(best)
    return order


@settings(max_examples=150, deadline=None)
@given(corpora(8, 4), st.integers(1, 3), st.integers(1, 6), st.booleans())
def test_the_best_k(corpus: list[Entry], min_support: int, k: int, closed: bool) -> None:
    graphs = given_graphs(corpus)
    asked = {"min_support": min_support, "max_size": 4, "closed": closed, "engine": "serial"}
    expected = ranked(mine(graphs, clipped=True, **asked), graphs, lambda pattern: pattern.size - 1)
    best = mine(graphs, k=k, **asked)
    assert [pattern.digest for pattern in best] == [digest for digest, _ in expected[:k]]


@settings(max_examples=60, deadline=None)
@given(corpora(8, 4), st.integers(1, 4), st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)))
def test_the_best_k_by_a_saving_of_ones_own(corpus: list[Entry], k: int, gains: dict[str, int]) -> None:
    graphs = given_graphs(corpus)

    def half(pattern: Pattern) -> float:
        return sum(gains.get(label, 2) for label in pattern.labels) / 2

    expected = ranked(mine(graphs, max_size=4, clipped=True, engine="serial"), graphs, half)
    best = mine(graphs, k=k, max_size=4, saving=half, gain=lambda label: gains.get(label, 2), engine="serial")
    assert [pattern.digest for pattern in best] == [digest for digest, _ in expected[:k]]


def chains(seed: int) -> list[tuple["nx.DiGraph[int]", int]]:
    """Long graphs, few of which run often."""
    chance = random.Random(seed)
    found = []
    for weight in (1000, 800, *([1] * 20)):
        graph = nx.gnp_random_graph(30, 0.06, seed=chance.randrange(1000), directed=True)
        dag = nx.DiGraph((a, b) for a, b in graph.edges if a < b)
        dag.add_edges_from((node, node + 1) for node in range(29))
        nx.set_node_attributes(dag, {node: chance.choice("abcd") for node in dag}, "label")
        found.append((dag, weight))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_fewer_patterns_are_visited(seed: int) -> None:
    corpus = chains(seed)
    everything = mine(corpus, max_size=6, clipped=True, engine="serial")
    graphs = [MiningGraph((), (), weight) for _, weight in corpus]
    for k in (1, 3):
        best = mine(corpus, k=k, max_size=6, engine="serial")
        assert [p.digest for p in best] == [d for d, _ in ranked(everything, graphs, lambda p: p.size - 1)[:k]]
        assert best.visited < everything.visited


def test_equal_branches_are_worth_what_is_disjoint() -> None:
    best = mine([(branches(26, 2), 3)], k=2, max_size=4, engine="serial")
    assert best.patterns[0].labels == ("b0", "b1")
    assert best.patterns[0].disjoint_occurrences == 78


def test_k_is_at_least_one() -> None:
    with pytest.raises(GraphoptError, match="k must be"):
        mine([branches(2, 1)], k=0)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_saves_enough_is_found_and_known_to_be_closed(seed: int) -> None:
    """With gains of nodes at random, the bounds against all patterns."""
    chance = random.Random(seed)
    graphs = []
    for _ in range(4):
        count = chance.randrange(5, 10)
        edges = [(a, 0, b, 0) for b in range(count) for a in range(b) if chance.random() < 0.3]
        labels = tuple(chance.choice("ab") for _ in range(count))
        gains = tuple(float(chance.randrange(20)) for _ in labels)
        graphs.append(MiningGraph(labels, tuple(sorted(edges)), gains=gains, identities=tuple(range(count))))

    def most(pattern: Pattern) -> float:
        """What disjoint occurrences, chosen greedily, gain."""
        total, taken = 0.0, set()
        rows = [(sum(graphs[at].gains[n] for n in nodes), at, nodes) for at, nodes in pattern.found()]
        for gain, at, nodes in sorted(rows, reverse=True):
            if not taken & {(at, node) for node in nodes}:
                taken |= {(at, node) for node in nodes}
                total += gain
        return total

    for closed in (False, True):
        everything = mine(graphs, max_size=5, closed=closed, engine="serial")
        for least in (30.0, 60.0, 120.0):
            some = mine(graphs, max_size=5, closed=closed, engine="serial", least_saving=least)
            assert some.visited <= everything.visited
            wanted = {pattern.digest for pattern in everything if most(pattern) >= least}
            assert wanted <= {pattern.digest for pattern in some}
            assert {p.digest for p in some if most(p) >= least} == wanted
