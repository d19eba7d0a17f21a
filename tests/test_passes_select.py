"""Selection against brute force on random graphs, cycles among the chosen included."""

import itertools

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.graph import Node, OperatorGraph, Tensor
from graphopt.passes.select import Candidate, find_cycle, select
from tests.convexity import is_convex


def graph_of(edges: list[list[int]]) -> OperatorGraph:
    """A graph in which node i reads the results of the nodes in edges[i]."""
    nodes = tuple(
        Node(f"n{i}", "test", "Op", 1, tuple(f"t{p}" for p in feeders), (f"t{i}",), {})
        for i, feeders in enumerate(edges)
    )
    tensors = {f"t{i}": Tensor(f"t{i}") for i in range(len(edges))}
    return OperatorGraph("g", nodes, tensors, (), ())


def acyclic(graph: OperatorGraph, sets: list[tuple[int, ...]]) -> bool:
    owner = {n: f"s{i}" for i, nodes in enumerate(sets) for n in nodes}
    quotient = nx.DiGraph()
    for producer, _, consumer, _ in graph.edges:
        a, b = owner.get(producer, str(producer)), owner.get(consumer, str(consumer))
        if a != b:
            quotient.add_edge(a, b)
    return nx.is_directed_acyclic_graph(quotient)


def brute_force(graph: OperatorGraph, candidates: list[Candidate]) -> float:
    best = 0.0
    for count in range(len(candidates) + 1):
        for chosen in itertools.combinations(candidates, count):
            nodes = [n for c in chosen for n in c.nodes]
            if len(nodes) == len(set(nodes)) and acyclic(graph, [c.nodes for c in chosen]):
                best = max(best, sum(c.saving for c in chosen))
    return best


@st.composite
def problems(draw: st.DrawFn) -> tuple[OperatorGraph, list[Candidate]]:
    count = draw(st.integers(3, 12))
    edges = [sorted(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else [] for i in range(count)]
    graph = graph_of(edges)
    wanted = st.sets(st.integers(0, count - 1), min_size=2, max_size=4)
    sets = draw(st.lists(wanted, max_size=9, unique_by=lambda s: tuple(sorted(s))))
    convex = [tuple(sorted(s)) for s in sets if is_convex(graph, sorted(s))]
    savings = draw(st.lists(st.integers(-2, 20), min_size=len(convex), max_size=len(convex)))
    return graph, [Candidate(nodes, float(s)) for nodes, s in zip(convex, savings, strict=True)]


def check(graph: OperatorGraph, candidates: list[Candidate], chosen: list[int]) -> float:
    nodes = [n for i in chosen for n in candidates[i].nodes]
    assert len(nodes) == len(set(nodes))
    assert acyclic(graph, [candidates[i].nodes for i in chosen])
    assert all(candidates[i].saving > 0 for i in chosen)
    return sum(candidates[i].saving for i in chosen)


@settings(max_examples=250, deadline=None)
@given(problems())
def test_exact_choice_is_the_best(problem: tuple[OperatorGraph, list[Candidate]]) -> None:
    graph, candidates = problem
    total = check(graph, candidates, select(graph, candidates))
    assert abs(total - brute_force(graph, candidates)) < 1e-6


@settings(max_examples=250, deadline=None)
@given(problems())
def test_greedy_choice_is_valid_and_good(problem: tuple[OperatorGraph, list[Candidate]]) -> None:
    graph, candidates = problem
    total = check(graph, candidates, select(graph, candidates, largest_exact=0))
    best = brute_force(graph, candidates)
    assert total >= 0.5 * best
    assert (total > 0) == (best > 0)


@settings(max_examples=200, deadline=None)
@given(problems())
def test_cycles_are_found(problem: tuple[OperatorGraph, list[Candidate]]) -> None:
    graph, candidates = problem
    sets: list[tuple[int, ...]] = []
    for candidate in candidates:
        if not set(candidate.nodes) & {n for nodes in sets for n in nodes}:
            sets.append(candidate.nodes)
    cycle = find_cycle(graph, sets)
    assert (not cycle) == acyclic(graph, sets)
    if cycle:
        assert not acyclic(graph, [sets[i] for i in cycle])


def test_two_convex_sets_that_feed_each_other() -> None:
    # 0 -> 2 and 1 -> 3; {0, 3} and {1, 2} are convex, but contracted each feeds the other.
    graph = graph_of([[], [], [0], [1]])
    candidates = [Candidate((0, 3), 5.0), Candidate((1, 2), 4.0)]
    assert select(graph, candidates) == [0]
    assert select(graph, candidates, largest_exact=0) == [0]


def test_nothing_to_choose() -> None:
    graph = graph_of([[], [0]])
    assert select(graph, []) == []
    assert select(graph, [Candidate((0, 1), 0.0)]) == []
