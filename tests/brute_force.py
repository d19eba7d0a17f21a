"""Mining by its definition: all subsets, networkx's isomorphism, no code of ours. An oracle for small corpora.

A corpus is a list of (graph, weight, limits); nodes of a graph are 0, 1, …, n - 1.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import networkx as nx

Place = tuple[int, frozenset[int]]
"""A graph's position in the corpus, and the nodes of an occurrence there."""


class Limits(NamedTuple):
    """What occurrences in one graph may not hold.

    Attributes:
        barred: nodes that are in none.
        apart: pairs (producer, consumer) of which they hold one at most.
    """

    barred: frozenset[int] = frozenset()
    apart: tuple[tuple[int, int], ...] = ()


Entry = tuple[nx.MultiDiGraph, int, Limits]


@dataclass(frozen=True)
class Found:
    """A pattern: one of its occurrences as a graph, all of them, and its support."""

    part: nx.DiGraph
    places: frozenset[Place]
    support: int

    @property
    def size(self) -> int:
        return len(self.part)


def occurrences(graph: nx.MultiDiGraph, limits: Limits, max_size: int) -> list[frozenset[int]]:
    """All connected convex sets of at most so many nodes."""
    reach = {node: nx.descendants(graph, node) for node in graph}
    beside = {node: {*graph.predecessors(node), *graph.successors(node)} for node in graph}
    found = []
    for size in range(1, min(max_size, len(graph)) + 1):
        for nodes in itertools.combinations(graph.nodes, size):
            inside = set(nodes)
            known, ahead = {nodes[0]}, [nodes[0]]
            for node in ahead:
                ahead += (beside[node] & inside) - known
                known |= beside[node] & inside
            if known != inside or inside & limits.barred:
                continue
            if any(producer in inside and consumer in inside for producer, consumer in limits.apart):
                continue
            below = set().union(*(reach[node] for node in nodes)) - inside
            if any(reach[node] & inside for node in below):
                continue
            found.append(frozenset(nodes))
    return found


def plain(graph: nx.MultiDiGraph) -> nx.DiGraph:
    """Parallel edges as one, with all their slots and outputs."""
    found = nx.DiGraph()
    found.add_nodes_from(graph.nodes(data=True))
    for producer, consumer, data in graph.edges(data=True):
        if not found.has_edge(producer, consumer):
            found.add_edge(producer, consumer, kinds=[])
        kinds = found.edges[producer, consumer]["kinds"]
        kinds.append((data.get("output", 0), data.get("slot", 0)))
        kinds.sort()
    return found


def same(first: nx.DiGraph, second: nx.DiGraph) -> bool:
    """Whether two plain graphs are isomorphic."""
    return nx.is_isomorphic(
        first,
        second,
        node_match=lambda a, b: a["label"] == b["label"],
        edge_match=lambda a, b: a["kinds"] == b["kinds"],
    )


def _rough(part: nx.DiGraph) -> tuple[object, ...]:
    """Equal for isomorphic graphs: saves most calls of ``same``."""
    label = part.nodes(data="label")
    edges = sorted((label[p], label[c], tuple(d["kinds"])) for p, c, d in part.edges(data=True))
    return tuple(sorted(name for _, name in label)), tuple(edges)


def mine(corpus: Sequence[Entry], min_support: int, max_size: int, kind: str) -> list[Found]:
    """Every frequent pattern (``all``), the ``closed`` ones, or, ``clipped``, those and all of the greatest size."""
    rough: dict[tuple[object, ...], list[tuple[nx.DiGraph, set[Place]]]] = {}
    for index, (graph, _, limits) in enumerate(corpus):
        for nodes in occurrences(graph, limits, max_size + (kind == "closed")):
            part = plain(graph.subgraph(nodes))
            alike = rough.setdefault(_rough(part), [])
            places = next((places for known, places in alike if same(known, part)), None)
            if places is None:
                places = set()
                alike.append((part, places))
            places.add((index, nodes))
    found = [
        Found(part, frozenset(places), sum(corpus[index][1] for index in {index for index, _ in places}))
        for alike in rough.values()
        for part, places in alike
    ]
    found = [pattern for pattern in found if pattern.support >= min_support]
    if kind != "all":
        found = [small for small in found if not any(hides(large, small) for large in found)]
    return [pattern for pattern in found if pattern.size <= max_size]


def hides(large: Found, small: Found) -> bool:
    """Whether a pattern with one node more has the same occurrences: one to one, and disjoint ones in disjoint ones."""
    if large.size != small.size + 1 or len(large.places) != len(small.places):
        return False
    pairs = []
    for index, nodes in small.places:
        holding = [whole for at, whole in large.places if at == index and nodes <= whole]
        if len(holding) != 1:
            return False
        pairs.append((index, nodes, holding[0]))
    if len({(index, whole) for index, _, whole in pairs}) < len(pairs):
        return False
    return all(
        i != j or bool(a & b) or not (whole_a & whole_b)
        for (i, a, whole_a), (j, b, whole_b) in itertools.combinations(pairs, 2)
    )


def most_disjoint(sets: Sequence[frozenset[int]]) -> int:
    """Size of the largest set of disjoint ones."""
    if not sets:
        return 0
    first, *others = sets
    with_first = 1 + most_disjoint([other for other in others if not other & first])
    if with_first == len(sets) or not any(other & first for other in others):
        return with_first
    return max(with_first, most_disjoint(others))
