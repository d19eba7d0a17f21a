"""The miner's canonical form, symmetry, budget and arguments."""

import doctest
import random

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from graphopt.mining import mine, miner
from graphopt.mining.canonical import canonical
from graphopt.mining.engines import open_engine
from graphopt.mining.graphs import from_any
from tests import brute_force
from tests.random_dags import branches, graphs


def describe(graph: nx.MultiDiGraph) -> str:
    place = {node: index for index, node in enumerate(graph.nodes)}
    labels = [graph.nodes[node]["label"] for node in graph.nodes]
    edges = [(place[p], d.get("output", 0), place[c], d.get("slot", 0)) for p, c, d in graph.edges(data=True)]
    return canonical(labels, edges)[0]


def summary(result: object) -> dict:
    return {pattern.digest: (pattern.support, pattern.occurrences) for pattern in result}


def test_a_worker_that_ends_is_noticed() -> None:
    graphs = [from_any(branches(2, 1)), from_any(branches(3, 1))]
    with open_engine("processes", graphs, jobs=2, budget=100) as engine:
        workers = engine._workers
        assert len(workers) == 2
        engine.call("start")
        workers[0].kill()
        with pytest.raises(GraphoptError, match="worker ended"):
            engine.call("grow", [])
    assert all(worker.poll() is not None for worker in workers)


def test_interrupts_end_the_workers() -> None:
    """As when a terminal interrupts the caller: it leaves the engine in the middle of a call."""
    graphs = [from_any(branches(2, 1)), from_any(branches(3, 1))]
    engine = open_engine("processes", graphs, jobs=2, budget=100)
    with pytest.raises(KeyboardInterrupt), engine:
        workers = engine._workers
        raise KeyboardInterrupt
    assert all(worker.poll() is not None for worker in workers)


def test_unknown_engine() -> None:
    with pytest.raises(GraphoptError, match="serial"):
        mine([branches(1, 1)], engine="steam")


# Canonical form


@settings(max_examples=300, deadline=None)
@given(graphs(most=8), st.randoms(use_true_random=False))
def test_canonical_form_of_isomorphic_graphs(graph: nx.MultiDiGraph, chance: random.Random) -> None:
    names = list(graph.nodes)
    chance.shuffle(names)
    copy = nx.relabel_nodes(graph, dict(zip(graph.nodes, names, strict=True)))
    shuffled = nx.MultiDiGraph()
    nodes = list(copy.nodes(data=True))
    chance.shuffle(nodes)
    shuffled.add_nodes_from(nodes)
    shuffled.add_edges_from(copy.edges(data=True))
    assert describe(graph) == describe(shuffled)


@settings(max_examples=300, deadline=None)
@given(graphs(most=5), graphs(most=5))
def test_canonical_form_tells_graphs_apart(first: nx.MultiDiGraph, second: nx.MultiDiGraph) -> None:
    alike = brute_force.same(brute_force.plain(first), brute_force.plain(second))
    assert (describe(first) == describe(second)) == alike


def bipartite(cycles: list[int]) -> nx.MultiDiGraph:
    """Undirected cycles as regular bipartite DAGs: every edge from a top node to a bottom node."""
    graph = nx.MultiDiGraph()
    for cycle, length in enumerate(cycles):
        for place in range(length):
            graph.add_node((cycle, place), label="x")
        for place in range(length):
            pair = (cycle, place), (cycle, (place + 1) % length)
            graph.add_edge(*(pair if place % 2 == 0 else pair[::-1]))
    return graph


@pytest.mark.filterwarnings("ignore:The hashes produced for directed graphs")
def test_canonical_form_of_regular_graphs_that_refinement_cannot_tell_apart() -> None:
    one, two = bipartite([12]), bipartite([6, 6])
    hashes = {nx.weisfeiler_lehman_graph_hash(nx.DiGraph(graph), node_attr="label") for graph in (one, two)}
    assert len(hashes) == 1
    assert describe(one) != describe(two)
    assert describe(bipartite([4, 8])) != describe(bipartite([6, 6]))
    assert describe(bipartite([4, 8])) == describe(bipartite([8, 4]))


def test_canonical_form_of_connected_regular_graphs() -> None:
    """Two cubic graphs, each hung under one node, so that nothing but their cycles differs."""

    def hung(edges: list[tuple[int, int]]) -> nx.MultiDiGraph:
        graph = nx.MultiDiGraph()
        graph.add_nodes_from(((0, n) for n in range(6)), label="x")
        graph.add_nodes_from(((1, n) for n in range(len(edges))), label="y")
        graph.add_node("root", label="r")
        graph.add_edges_from(("root", (0, n)) for n in range(6))
        for index, pair in enumerate(edges):
            graph.add_edges_from(((0, end), (1, index)) for end in pair)
        return graph

    prism = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (0, 3), (1, 4), (2, 5)]
    utility = [(a, b) for a in (0, 1, 2) for b in (3, 4, 5)]
    assert describe(hung(prism)) != describe(hung(utility))
    swapped = [tuple({0: 4, 4: 0, 1: 5, 5: 1}.get(n, n) for n in pair) for pair in prism]
    assert describe(hung(prism)) == describe(hung(swapped))


# Symmetry, budgets, arguments


def test_equal_producers_do_not_explode() -> None:
    star = branches(26, 1, 0)
    star.remove_node("split")
    result = mine([star, star.copy()], min_support=2, max_size=27, closed=False)
    assert [pattern.size for pattern in result] == [1, *range(1, 28)]
    assert sorted(p.occurrences for p in result if p.size == 14) == [2 * 10400600]
    assert result.patterns[-1].occurrences == 2


def test_equal_branches_do_not_explode() -> None:
    result = mine([branches(26, 4, 8), branches(26, 4, 8)], min_support=2, max_size=8, closed=False)
    assert sum(pattern.occurrences for pattern in result if pattern.size == 8) > 5_000_000
    assert len(result) < 400


def test_disjoint_occurrences_of_equal_branches() -> None:
    result = mine([(branches(26, 2), 3)], max_size=2, closed=False)
    found = {pattern.labels: pattern for pattern in result}
    branch = found["b0", "b1"]
    assert (branch.occurrences, branch.disjoint_occurrences) == (78, 78)
    end = next(pattern for labels, pattern in found.items() if set(labels) == {"b1", "j"})
    assert (end.occurrences, end.disjoint_occurrences) == (78, 3)


def test_overlapping_occurrences_are_not_the_same_occurrences() -> None:
    """26 branches are 26 kernels; with the consumer that they share, they would be one."""
    result = mine([branches(26, 2)], max_size=3)
    assert ("b0", "b1") in {pattern.labels for pattern in result}


def chain(labels: str) -> nx.DiGraph:
    graph = nx.DiGraph((at, at + 1) for at in range(len(labels) - 1))
    nx.set_node_attributes(graph, dict(enumerate(labels)), "label")
    return graph


def test_what_always_comes_along_is_taken_at_once() -> None:
    """A block of parallel chains that stands twice, with something else between: of it, only the whole is closed."""
    block = nx.DiGraph()
    for way in "abc":
        nx.add_path(block, ["in", f"{way}0", f"{way}1", f"{way}2", "out"])
    both = nx.union(block, block, rename=("1", "2"))
    nx.set_node_attributes(both, {node: node[1:] for node in both}, "label")
    both.add_node("between", label="between")
    both.add_edges_from([("1out", "between"), ("between", "2in")])
    closed = mine([both], max_size=11, engine="serial")
    every = mine([both], max_size=11, clipped=True, engine="serial")
    assert not closed.incomplete and not every.incomplete
    assert [p.occurrences for p in closed] == [2]
    assert [p.digest for p in every if p.size < 11] == []
    assert closed.visited < every.visited / 4


def test_what_is_larger_than_the_greatest_size_is_counted_or_clipped() -> None:
    one = chain("abcdefghijklmnop")
    result = mine([one], max_size=4, engine="serial")
    assert (len(result), result.larger > 0) == (0, True)
    assert [p.size for p in mine([one], max_size=4, clipped=True, engine="serial")] == [4] * 13
    whole = mine([one], max_size=16, engine="serial")
    assert ([p.size for p in whole], whole.larger) == ([16], 0)
    assert whole.visited < 16 * 17 / 2


def test_budget_is_said_to_be_exceeded() -> None:
    whole = mine([branches(3, 3)], max_size=6, closed=False, engine="serial")
    assert not whole.incomplete
    cut = mine([branches(2, 1), branches(3, 3)], max_size=6, closed=False, engine="serial", budget=6)
    assert cut.incomplete
    assert [graph for graph, _ in cut.truncated] == [1]
    assert set(summary(cut)) < set(summary(whole)) | set(summary(mine([branches(2, 1)], closed=False)))


def test_support_is_a_weight_or_a_fraction() -> None:
    graph = branches(1, 1)
    other = nx.DiGraph()
    other.add_node(0, label="b0")
    corpus = [(graph, 2 * 10**30), (other, 10**30)]
    assert mine(corpus, min_support=0.67).min_support == 2_010_000_000_000_000_000_000_000_000_000
    assert {p.labels for p in mine(corpus, min_support=0.7)} == {("b0",)}
    assert next(iter(mine(corpus, min_support=1.0))).support == 3 * 10**30
    with pytest.raises(GraphoptError, match="fraction"):
        mine(corpus, min_support=1.5)


@pytest.mark.parametrize(
    "bad",
    [nx.DiGraph([(0, 1)]), nx.Graph(), (nx.DiGraph(), 0), (nx.DiGraph(), 1.5), "graph"],
)
def test_what_cannot_be_mined(bad: object) -> None:
    with pytest.raises(GraphoptError, match=r"mine|weight"):
        mine([bad])


def test_cycles_cannot_be_mined() -> None:
    ring = nx.DiGraph([(0, 1), (1, 0)])
    nx.set_node_attributes(ring, "x", "label")
    with pytest.raises(GraphoptError, match="cycle"):
        mine([ring])


def test_empty() -> None:
    assert len(mine([])) == 0
    assert len(mine([nx.DiGraph()])) == 0


def test_example_in_the_docstring() -> None:
    results = doctest.testmod(miner)
    assert results.attempted > 0
    assert results.failed == 0
