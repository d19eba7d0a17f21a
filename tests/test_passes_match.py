"""Matching against brute force: every connected convex set, grouped by networkx isomorphism."""

import itertools

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.graph import Node, OperatorGraph, Tensor
from graphopt.passes.match import occurrences, prepared
from graphopt.passes.reach import bits, reach
from tests.convexity import is_convex

Edge = tuple[int, int, int, int]


def graph_of(labels: list[str], edges: list[Edge]) -> OperatorGraph:
    """An operator graph with these edges; labels are operator types that no table knows."""
    inputs: list[dict[int, str]] = [{} for _ in labels]
    for producer, output, consumer, slot in edges:
        inputs[consumer][slot] = f"t{producer}_{output}"
    nodes = tuple(
        Node(f"n{i}", "test", text, 1, tuple(inputs[i].get(s, "x") for s in range(3)), (f"t{i}_0", f"t{i}_1"), {})
        for i, text in enumerate(labels)
    )
    tensors = {name: Tensor(name) for node in nodes for name in (*node.inputs, *node.outputs)}
    return OperatorGraph("g", nodes, tensors, ("x",), ())


@st.composite
def graphs(draw: st.DrawFn, most: int = 8) -> tuple[list[str], list[Edge]]:
    count = draw(st.integers(2, most))
    labels = draw(st.lists(st.sampled_from("ab"), min_size=count, max_size=count))
    edges = []
    for consumer in range(1, count):
        for slot in range(draw(st.integers(0, 3))):
            edges.append((draw(st.integers(0, consumer - 1)), draw(st.integers(0, 1)), consumer, slot))
    return labels, edges


def induced(labels: list[str], edges: list[Edge], nodes: tuple[int, ...]) -> nx.MultiDiGraph:
    found = nx.MultiDiGraph()
    found.add_nodes_from((n, {"label": labels[n]}) for n in nodes)
    found.add_edges_from((p, c, {"kind": (o, s)}) for p, o, c, s in edges if p in nodes and c in nodes)
    return found


def same(left: nx.MultiDiGraph, right: nx.MultiDiGraph) -> bool:
    return bool(
        nx.is_isomorphic(
            left,
            right,
            node_match=lambda a, b: a["label"] == b["label"],
            edge_match=lambda a, b: sorted(e["kind"] for e in a.values()) == sorted(e["kind"] for e in b.values()),
        )
    )


@settings(max_examples=150, deadline=None)
@given(graphs(), st.data())
def test_matches_are_those_of_brute_force(built: tuple[list[str], list[Edge]], data: st.DataObject) -> None:
    labels, edges = built
    graph = graph_of(labels, edges)
    size = data.draw(st.integers(2, min(5, len(labels))))
    sets = [
        nodes
        for nodes in itertools.combinations(range(len(labels)), size)
        if nx.is_weakly_connected(induced(labels, edges, nodes)) and is_convex(graph, nodes)
    ]
    if not sets:
        return
    chosen = data.draw(st.sampled_from(sets))
    pattern = induced(labels, edges, chosen)
    order = data.draw(st.permutations(chosen))
    place = {node: position for position, node in enumerate(order)}
    wanted = [(place[p], o, place[c], s) for p, o, c, s in edges if p in place and c in place]
    found = occurrences(graph, [labels[n] for n in order], wanted, target=prepared(labels, edges))
    assert list(found) == [nodes for nodes in sets if same(induced(labels, edges, nodes), pattern)]


def test_symmetric_branches_do_not_explode() -> None:
    branches = 26
    labels = [*["lookup"] * branches, *["view"] * branches, "concat"]
    edges = [(i, 0, branches + i, 0) for i in range(branches)]
    edges += [(branches + i, 0, 2 * branches, 0) for i in range(branches)]
    graph = graph_of(labels, [(p, o, c, 0) for p, o, c, _ in edges[:branches]])
    found = occurrences(graph, labels, edges, target=prepared(labels, edges), reachable=reach(graph))
    assert found == (tuple(range(len(labels))),)


@settings(max_examples=100, deadline=None)
@given(graphs(10), st.data())
def test_gaps_are_what_is_not_convex(built: tuple[list[str], list[Edge]], data: st.DataObject) -> None:
    labels, edges = built
    graph = graph_of(labels, edges)
    nodes = data.draw(st.sets(st.integers(0, len(labels) - 1), min_size=1))
    gaps = reach(graph).gaps(nodes)
    assert (gaps == 0) == is_convex(graph, sorted(nodes))
    assert not gaps & bits(nodes)
