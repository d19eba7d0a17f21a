"""Random labelled DAGs for the tests of mining, and graphs of equal branches."""

import networkx as nx
from hypothesis import strategies as st

from tests.brute_force import Entry, Limits


@st.composite
def graphs(draw: st.DrawFn, most: int = 7) -> nx.MultiDiGraph:
    """A random labelled DAG: parallel edges, several outputs, equal slots, twins, parts that are not connected."""
    count = draw(st.integers(1, most))
    alphabet = draw(st.sampled_from(["a", "ab", "abc"]))
    slots = draw(st.sampled_from([(0,), (0, 1)]))  # equal slots: a commutative operator
    outputs = draw(st.sampled_from([(0,), (0, 1)]))
    graph = nx.MultiDiGraph()
    for node in range(count):
        twin = draw(st.one_of(st.none(), st.integers(0, node - 1))) if node else None
        if twin is not None and draw(st.booleans()):
            graph.add_node(node, label=graph.nodes[twin]["label"])
            for producer, _, data in list(graph.in_edges(twin, data=True)):
                graph.add_edge(producer, node, **data)
            continue
        graph.add_node(node, label=draw(st.sampled_from(alphabet)))
        for _ in range(draw(st.integers(0, min(3, node + 1)))):
            if node:
                graph.add_edge(
                    draw(st.integers(0, node - 1)),
                    node,
                    slot=draw(st.sampled_from(slots)),
                    output=draw(st.sampled_from(outputs)),
                )
    return graph


@st.composite
def limited(draw: st.DrawFn, most: int = 7) -> Entry:
    """A graph with its weight and, at times, what its occurrences may not hold."""
    graph = draw(graphs(most))
    nodes = st.frozensets(st.sampled_from(sorted(graph.nodes)), max_size=3)
    limits = Limits()
    if draw(st.integers(0, 3)) == 0:
        edges = sorted({(producer, consumer) for producer, consumer, _ in graph.edges})
        limits = Limits(
            barred=draw(nodes),
            apart=tuple(sorted(draw(st.sets(st.sampled_from(edges), max_size=2)))) if edges else (),
        )
    return graph, draw(st.integers(1, 3)), limits


def corpora(most: int = 7, most_graphs: int = 3) -> st.SearchStrategy[list[Entry]]:
    """Some graphs with weights and limits."""
    return st.lists(limited(most), min_size=1, max_size=most_graphs)


@st.composite
def repeated(draw: st.DrawFn) -> nx.MultiDiGraph:
    """A small block of operators that stands several times in a row, alike but for what it begins or ends with."""
    size, times = draw(st.sampled_from([(2, 2), (2, 3), (2, 4), (3, 2), (3, 3), (4, 2)]))
    labels = draw(st.lists(st.sampled_from("abcd"), min_size=size, max_size=size))
    pairs = [(a, b) for b in range(size) for a in range(b)]
    inner = draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=5, unique=True))
    between = st.tuples(st.integers(0, size - 1), st.integers(0, size - 1))
    links = draw(st.lists(between, min_size=1, max_size=2, unique=True))
    graph = nx.MultiDiGraph()
    graph.add_nodes_from((node, {"label": labels[node % size]}) for node in range(size * times))
    for low in range(0, size * times, size):
        graph.add_edges_from((low + a, low + b) for a, b in inner)
        if low:
            graph.add_edges_from((low - size + a, low + b) for a, b in links)
    graph.remove_nodes_from(draw(st.sets(st.sampled_from([0, size * times - 1]), max_size=1)))
    return numbered(graph)


def branches(count: int, length: int, tail: int = 1) -> nx.DiGraph:
    """Equal branches from one producer into one consumer, with a tail."""
    graph = nx.DiGraph()
    graph.add_node("split", label="s")
    graph.add_node("join", label="j")
    for branch in range(count):
        last: object = "split"
        for place in range(length):
            graph.add_node((branch, place), label=f"b{place}")
            graph.add_edge(last, (branch, place))
            last = (branch, place)
        graph.add_edge(last, "join")
    last = "join"
    for place in range(tail):
        graph.add_node(("tail", place), label="t")
        graph.add_edge(last, ("tail", place))
        last = ("tail", place)
    return graph


def numbered(graph: nx.DiGraph) -> nx.MultiDiGraph:
    """The same graph with nodes 0, 1, …, as brute force wants it."""
    return nx.convert_node_labels_to_integers(nx.MultiDiGraph(graph))
