"""The miner against brute force: patterns, occurrences, support, closedness, disjoint occurrences."""

from collections.abc import Sequence
from dataclasses import replace

import networkx as nx
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from graphopt.mining import MiningResult, Pattern, mine, miner
from graphopt.mining.graphs import MiningGraph, bits, from_networkx
from tests import brute_force
from tests.brute_force import Entry, Limits, Place
from tests.mining_captures import capture
from tests.random_dags import branches, corpora, numbered, repeated

KINDS = ["all", "closed", "clipped"]


def given_graphs(corpus: Sequence[Entry]) -> list[MiningGraph]:
    """A corpus as the miner takes it."""
    return [
        replace(
            from_networkx(graph, weight),
            eligible=~bits(limits.barred),
            apart=limits.apart,
        )
        for graph, weight, limits in corpus
    ]


def drawn(pattern: Pattern) -> nx.DiGraph:
    """A pattern as a graph."""
    graph = nx.MultiDiGraph()
    graph.add_nodes_from((place, {"label": label}) for place, label in enumerate(pattern.labels))
    graph.add_edges_from((p, c, {"output": output, "slot": slot}) for p, output, c, slot in pattern.edges)
    return brute_force.plain(graph)


def places(pattern: Pattern) -> frozenset[Place]:
    """All occurrences of a pattern; none comes twice."""
    found = [(index, frozenset(nodes)) for index, nodes in pattern.found()]
    assert len(set(found)) == len(found)
    return frozenset(found)


def check(corpus: Sequence[Entry], min_support: int, max_size: int, kind: str) -> MiningResult:
    """Mine and compare with brute force."""
    graphs = given_graphs(corpus)
    asked = {"closed": kind != "all", "clipped": kind == "clipped"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(miner, "LEAST_DEPTH", 1)  # what always comes along is taken at once in small graphs, too
        result = mine(graphs, min_support=min_support, max_size=max_size, engine="serial", **asked)
    assert not result.incomplete
    assert [(p.size, p.digest) for p in result] == sorted({(p.size, p.digest) for p in result})
    expected = {found.places: found for found in brute_force.mine(corpus, min_support, max_size, kind)}
    mined = {places(pattern): pattern for pattern in result}
    assert mined.keys() == expected.keys()
    for key, pattern in mined.items():
        assert brute_force.same(drawn(pattern), expected[key].part)
        assert pattern.support == expected[key].support
        assert pattern.occurrences == sum(corpus[index][1] for index, _ in key)
    return result


@settings(max_examples=600, deadline=None)
@given(corpora(), st.integers(1, 4), st.integers(1, 6), st.sampled_from(KINDS))
def test_brute_force(corpus: list[Entry], min_support: int, max_size: int, kind: str) -> None:
    check(corpus, min_support, max_size, kind)


@settings(max_examples=300, deadline=None)
@given(st.lists(repeated(), min_size=1, max_size=2), st.integers(1, 9), st.sampled_from(KINDS))
def test_brute_force_on_repeated_blocks(found: list[nx.MultiDiGraph], max_size: int, kind: str) -> None:
    check([(graph, 1, Limits()) for graph in found], 1, max_size, kind)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(200))
def test_brute_force_for_long(part: int) -> None:
    """20,000 larger corpora, in parts that can be run one by one (``-k "for_long and 17"``)."""

    @seed(part)
    @settings(max_examples=100, deadline=None, database=None)
    @given(corpora(9, 4), st.integers(1, 4), st.integers(1, 9), st.sampled_from(KINDS))
    def run(corpus: list[Entry], min_support: int, max_size: int, kind: str) -> None:
        check(corpus, min_support, max_size, kind)

    run()


@pytest.mark.parametrize(("count", "length", "tail"), [(2, 1, 0), (3, 1, 2), (4, 1, 0), (3, 2, 1), (2, 3, 0)])
@pytest.mark.parametrize("kind", KINDS)
def test_brute_force_on_equal_branches(count: int, length: int, tail: int, kind: str) -> None:
    first, second = numbered(branches(count, length, tail)), numbered(branches(count + 1, length))
    for min_support in (1, 2, 3):
        check([(first, 2, Limits()), (second, 1, Limits())], min_support, 6, kind)


@settings(max_examples=100, deadline=None)
@given(corpora())
def test_nodes_of_an_occurrence_stand_in_the_order_of_the_pattern(corpus: list[Entry]) -> None:
    for pattern in mine(given_graphs(corpus), max_size=4, engine="serial"):
        for index, nodes in pattern.found():
            graph = corpus[index][0]
            assert tuple(graph.nodes[node]["label"] for node in nodes) == pattern.labels
            place = {node: at for at, node in enumerate(nodes)}
            edges = sorted(
                (place[p], data.get("output", 0), place[c], data.get("slot", 0))
                for p, c, data in graph.subgraph(nodes).edges(data=True)
            )
            assert tuple(edges) == pattern.edges


@settings(max_examples=100, deadline=None)
@given(corpora(), st.booleans())
def test_disjoint_occurrences(corpus: list[Entry], closed: bool) -> None:
    """As many as are disjoint and leave no room for another one; never more than there can be."""
    for pattern in mine(given_graphs(corpus), max_size=4, closed=closed, engine="serial"):
        total = most = 0
        for index, (_, weight, _) in enumerate(corpus):
            here = [nodes for at, nodes in places(pattern) if at == index]
            own = [at for at in pattern.places if at.graph == result_index(pattern, index)]
            chosen = [frozenset(nodes) for at in own for nodes in pattern.disjoint_in(at)]
            assert sum(map(len, chosen)) == len(frozenset().union(*chosen))
            assert all(any(nodes & other for other in chosen) for nodes in here)
            total += weight * len(chosen)
            most += weight * brute_force.most_disjoint(here)
        assert pattern.disjoint_occurrences == total <= most


def result_index(pattern: Pattern, position: int) -> int:
    """The distinct graph that a given graph is."""
    assert pattern._corpus is not None
    return pattern._corpus.index[position]


def test_operands_of_commutative_operators_can_change_places() -> None:
    def model(operator: str, operands: str) -> str:
        return f"m (float[2] x) => (float[2] y) {{ a = Relu(x)\n b = Neg(x)\n y = {operator}({operands}) }}"

    def patterns(operator: str) -> set[str]:
        captures = [capture(model(operator, operands)) for operands in ("a, b", "b, a")]
        return {p.digest for p in mine(captures, min_support=2, max_size=3, engine="serial") if p.size == 3}

    assert len(patterns("Add")) == 1
    assert len(patterns("Sub")) == 0


# Regular graphs with equal labels


def under_a_root(cycles: Sequence[int]) -> nx.MultiDiGraph:
    """Undirected cycles as regular bipartite DAGs, whose top nodes have one producer."""
    graph = nx.MultiDiGraph()
    graph.add_node("root", label="root")
    for cycle, length in enumerate(cycles):
        graph.add_nodes_from(((cycle, place) for place in range(length)), label="x")
        for place in range(length):
            pair = (cycle, place), (cycle, (place + 1) % length)
            graph.add_edge(*(pair if place % 2 == 0 else pair[::-1]))
            if place % 2 == 0:
                graph.add_edge("root", (cycle, place))
    return numbered(graph)


@pytest.mark.filterwarnings("ignore:The hashes produced for directed graphs")
def test_regular_graphs_that_refinement_cannot_tell_apart() -> None:
    one, two = under_a_root([8]), under_a_root([4, 4])
    hashes = {nx.weisfeiler_lehman_graph_hash(nx.DiGraph(graph), node_attr="label") for graph in (one, two)}
    assert len(hashes) == 1
    corpus = [(one, 1, Limits()), (two, 1, Limits())]
    for kind in KINDS:
        result = check(corpus, 1, 9, kind)
        assert sum(pattern.size == 9 for pattern in result) == 2
        assert all(pattern.size < 9 for pattern in check(corpus, 2, 9, kind))
