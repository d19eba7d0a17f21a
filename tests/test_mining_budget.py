"""What the work budget cuts off: what is left is true, and what nobody could judge is not called closed."""

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.mining import MiningResult, Pattern, mine
from tests.brute_force import Entry
from tests.random_dags import branches, corpora, numbered
from tests.test_mining_exact import given_graphs


def held_by_cut(pattern: Pattern, result: MiningResult) -> list[int]:
    """By how many nodes the pattern is smaller than what is missing in each graph that holds it and was cut off."""
    cut = dict(result.truncated)
    return [cut[graph] - pattern.size for graph in {graph for graph, _ in pattern.found()} if graph in cut]


@settings(max_examples=250, deadline=None)
@given(corpora(9, 3), st.integers(1, 3), st.integers(1, 7), st.integers(1, 12))
def test_what_is_called_closed_is(corpus: list[Entry], min_support: int, max_size: int, budget: int) -> None:
    graphs = given_graphs(corpus)
    asked = {"min_support": min_support, "max_size": max_size, "engine": "serial"}
    whole = {pattern.digest: pattern for pattern in mine(graphs, **asked)}
    cut = mine(graphs, **asked, budget=budget)
    closed = {pattern.digest: pattern for pattern in cut}
    assert closed.keys() <= whole.keys()
    assert all(pattern.closed and pattern.support <= whole[pattern.digest].support for pattern in cut)
    for digest, pattern in whole.items():
        # Whatever is missing would have needed a graph that was cut off.
        assert digest in closed or min(held_by_cut(pattern, cut)) <= 1
    clipped = mine(graphs, **asked, clipped=True, budget=budget)
    assert {pattern.digest for pattern in clipped if pattern.closed} <= closed.keys()
    unjudged = [pattern for pattern in clipped if not pattern.closed and pattern.size < max_size]
    assert len(unjudged) == clipped.unjudged
    assert all(1 in held_by_cut(pattern, clipped) for pattern in unjudged)


def test_the_last_size_of_a_graph_over_the_budget_is_left_out_or_flagged() -> None:
    graph = numbered(branches(3, 3))  # has 1, 3, 4 representatives … of its sizes
    sizes = [pattern.size for pattern in mine([graph], max_size=6, closed=False, engine="serial")]
    last = next(size for size in range(1, 7) if sizes.count(size + 1) > sizes.count(size))
    budget = sizes.count(last)
    cut = mine([graph], max_size=6, engine="serial", budget=budget)
    assert cut.truncated == ((0, last + 1),)
    assert all(pattern.size < last for pattern in cut)
    assert cut.unjudged == sizes.count(last) > 0
    clipped = mine([graph], max_size=6, clipped=True, engine="serial", budget=budget)
    assert [pattern.closed for pattern in clipped if pattern.size == last] == [None] * cut.unjudged


def test_what_other_graphs_show_to_be_closed_is_listed() -> None:
    """``a → b`` goes on in two ways in a small graph: closed, whatever it does in a graph that was cut off."""
    small = nx.DiGraph([("a", "b")])
    other = nx.DiGraph([("a", "b"), ("b", "c")])
    large = nx.DiGraph([("a", "b"), *((("b", way)) for way in "cdefgh")])
    for graph in (small, other, large):
        nx.set_node_attributes(graph, {node: node for node in graph}, "label")
    cut = mine([small, other, large], max_size=4, engine="serial", budget=7)
    assert cut.truncated == ((2, 3),)
    assert ("a", "b") in [pattern.labels for pattern in cut]
    assert mine([other, large], max_size=4, engine="serial", budget=7).unjudged > 0
