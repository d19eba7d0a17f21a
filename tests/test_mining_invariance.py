"""What the result must not depend on: the order of graphs and nodes, shards, workers, engines, copies for weights."""

import json
import random
from collections.abc import Sequence
from typing import Any, Self

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.mining import MiningResult, mine, miner
from graphopt.mining.engine import Numbered, answer, dealt
from graphopt.mining.shard import Shard
from tests.brute_force import Entry
from tests.random_dags import branches, corpora, graphs
from tests.test_mining_exact import given_graphs

Weighted = list[tuple[nx.MultiDiGraph, int]]


def written(result: MiningResult) -> bytes:
    """All that a result says of the fleet, in bytes."""
    rows = [(p.digest, p.labels, p.edges, p.support, p.occurrences, p.disjoint_occurrences, p.closed) for p in result]
    counts = [result.weight, result.min_support, result.incomplete, result.larger, result.unjudged]
    return json.dumps([rows, counts]).encode()


def renamed(graph: nx.MultiDiGraph, chance: random.Random) -> nx.MultiDiGraph:
    """The same graph with other names, nodes and edges in another order."""
    nodes, edges = list(graph.nodes(data=True)), list(graph.edges(data=True))
    chance.shuffle(nodes)
    chance.shuffle(edges)
    copy = nx.MultiDiGraph()
    copy.add_nodes_from((f"n{name}", data) for name, data in nodes)
    copy.add_edges_from((f"n{producer}", f"n{consumer}", data) for producer, consumer, data in edges)
    return copy


def without_limits(corpus: Sequence[Entry]) -> Weighted:
    return [(graph, weight) for graph, weight, _ in corpus]


@settings(max_examples=100, deadline=None)
@given(corpora(), st.randoms(use_true_random=False), st.booleans(), st.integers(1, 4))
def test_order_and_copies(corpus: list[Entry], chance: random.Random, closed: bool, min_support: int) -> None:
    weighted = without_limits(corpus)
    asked = {"min_support": min_support, "max_size": 5, "closed": closed, "engine": "serial"}
    expected = written(mine(weighted, **asked))
    other = [(renamed(graph, chance), weight) for graph, weight in weighted]
    chance.shuffle(other)
    assert written(mine(other, **asked)) == expected
    copies = [(renamed(graph, chance), 1) for graph, weight in weighted for _ in range(weight)]
    chance.shuffle(copies)
    assert written(mine(copies, **asked)) == expected


@settings(max_examples=300, deadline=None)
@given(graphs(12), st.randoms(use_true_random=False))
def test_order_of_nodes_and_disjoint_occurrences(graph: nx.MultiDiGraph, chance: random.Random) -> None:
    asked: dict[str, Any] = {"max_size": 4, "closed": False, "engine": "serial"}
    first, second = mine([graph], **asked), mine([renamed(graph, chance)], **asked)
    assert [p.disjoint_occurrences for p in first] == [p.disjoint_occurrences for p in second]


@pytest.mark.parametrize("count", [2, 5])
def test_order_of_nodes_among_equal_branches(count: int) -> None:
    chance = random.Random(count)
    asked: dict[str, Any] = {"max_size": 7, "closed": False, "engine": "serial"}
    graph = nx.MultiDiGraph(branches(count, 3))
    expected = written(mine([graph], **asked))
    for _ in range(10):
        assert written(mine([renamed(graph, chance)], **asked)) == expected


@settings(max_examples=60, deadline=None)
@given(corpora(), st.integers(10**18, 10**40), st.booleans())
def test_weights_of_any_size(corpus: list[Entry], factor: int, closed: bool) -> None:
    weighted = without_limits(corpus)
    heavy = [(graph, weight * factor) for graph, weight in weighted]
    asked: dict[str, Any] = {"max_size": 4, "closed": closed, "engine": "serial"}
    light = mine(weighted, min_support=2, **asked)
    result = mine(heavy, min_support=2 * factor, **asked)
    assert [(p.digest, p.support, p.occurrences) for p in result] == [
        (p.digest, p.support * factor, p.occurrences * factor) for p in light
    ]
    assert [p.disjoint_occurrences for p in result] == [p.disjoint_occurrences * factor for p in light]
    # One less is too little for what is just frequent, one more changes nothing below.
    above = mine(heavy, min_support=2 * factor + 1, **asked)
    least = 2 * factor + 1
    everything = mine(heavy, min_support=1, max_size=4, closed=False, engine="serial")
    frequent = {p.digest for p in everything if p.support >= least}
    assert {p.digest for p in above} <= frequent
    if not closed:
        assert {p.digest for p in above} == frequent


class InShards:
    """An engine with so many shards, in this process."""

    def __init__(self, graphs: Numbered, shards: int, budget: int) -> None:
        self._shards = [Shard(hand, budget) for hand in dealt(graphs, shards)]

    def call(self, method: str, *arguments: Any) -> list[Any]:
        return [answer(shard, method, arguments) for shard in self._shards]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


@settings(max_examples=120, deadline=None)
@given(corpora(7, 5), st.integers(2, 6), st.integers(1, 4), st.booleans(), st.sampled_from([5, 10_000]))
def test_shards(corpus: list[Entry], shards: int, min_support: int, closed: bool, budget: int) -> None:
    graphs = given_graphs(corpus)
    asked = {"min_support": min_support, "max_size": 5, "closed": closed, "budget": budget}
    whole = mine(graphs, engine="serial", **asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            miner,
            "open_engine",
            lambda name, graphs, **_: InShards(list(enumerate(graphs)), min(shards, len(graphs)), budget),
        )
        split = mine(graphs, **asked)
    assert written(split) == written(whole)
    assert [sorted(p.found()) for p in split] == [sorted(p.found()) for p in whole]
    assert [p.disjoint_occurrences for p in split] == [p.disjoint_occurrences for p in whole]


@pytest.mark.parametrize("closed", [False, True])
def test_worker_processes(closed: bool) -> None:
    chance = random.Random(5)
    corpus: Weighted = []
    for _ in range(9):
        graph = nx.gnp_random_graph(12, 0.2, seed=chance.randrange(1000), directed=True)
        dag = nx.MultiDiGraph((a, b, {"slot": (a + b) % 2}) for a, b in graph.edges if a < b)
        nx.set_node_attributes(dag, {node: "ab"[node % 2] for node in dag}, "label")
        corpus.append((dag, chance.randrange(1, 4)))
    corpus.append((nx.MultiDiGraph(branches(5, 2)), 1))
    asked = {"min_support": 2, "max_size": 5, "closed": closed}
    expected = mine(corpus, engine="serial", **asked)
    assert len(expected) > 20
    for jobs in (1, 2, 5):
        result = mine(corpus, engine="processes", jobs=jobs, **asked)
        assert written(result) == written(expected)
        assert [list(p.found()) for p in result] == [list(p.found()) for p in expected]
