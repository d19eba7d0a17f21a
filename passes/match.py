"""Find every occurrence of a pattern in an operator graph: exact, induced and convex.

A backtracking search along a spanning tree of the pattern, from its rarest label: each step follows one edge of the
pattern from a node already matched, so candidates are the few neighbours over that very output and slot. Symmetric
vertices of the pattern are matched in increasing order only, so that each set of nodes is found once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from graphopt.graph import OperatorGraph
from graphopt.mining.graphs import from_operator_graph
from graphopt.passes.reach import Reach, reach

Edge = tuple[int, int, int, int]
"""(producer, output index, consumer, slot), folded as the miner folds them."""

MOST_STEPS = 500_000
MOST_SYMMETRY_STEPS = 10_000


@dataclass(frozen=True)
class Labelled:
    """A graph prepared for matching.

    Attributes:
        labels: label of each node.
        by_label: label to its nodes, ascending.
        outgoing: for each node (output, slot, consumer) of each edge.
        incoming: for each node (output, slot, producer) of each edge.
    """

    labels: tuple[str, ...]
    by_label: dict[str, tuple[int, ...]]
    outgoing: tuple[tuple[tuple[int, int, int], ...], ...]
    incoming: tuple[tuple[tuple[int, int, int], ...], ...]


@dataclass
class _Search:
    target: Labelled
    order: list[int]
    links: list[list[tuple[bool, int, int, int]]]  # per step: (is consumer, earlier vertex, output, slot)
    needed: list[Counter[Edge]]  # per step: edges between the new vertex and earlier ones
    labels: Sequence[str]
    steps: int
    smaller: dict[int, set[int]]  # vertex to vertices whose node must be smaller
    fixed: dict[int, int]  # vertex to the only node allowed
    first_only: bool = False
    image: dict[int, int] = field(default_factory=dict)
    found: set[tuple[int, ...]] = field(default_factory=set)


def prepared(labels: Sequence[str], edges: Sequence[Edge]) -> Labelled:
    """Prepare a labelled graph for matching."""
    by_label: dict[str, list[int]] = {}
    for index, text in enumerate(labels):
        by_label.setdefault(text, []).append(index)
    outgoing: list[list[tuple[int, int, int]]] = [[] for _ in labels]
    incoming: list[list[tuple[int, int, int]]] = [[] for _ in labels]
    for producer, output, consumer, slot in edges:
        outgoing[producer].append((output, slot, consumer))
        incoming[consumer].append((output, slot, producer))
    return Labelled(
        tuple(labels),
        {text: tuple(nodes) for text, nodes in by_label.items()},
        tuple(map(tuple, outgoing)),
        tuple(map(tuple, incoming)),
    )


def labelled(graph: OperatorGraph) -> Labelled:
    """Prepare an operator graph for matching, with the labels and edges that the miner gives it."""
    mined = from_operator_graph(graph)
    return prepared(mined.labels, mined.edges)


def occurrences(
    graph: OperatorGraph,
    labels: Sequence[str],
    edges: Sequence[Edge],
    *,
    target: Labelled | None = None,
    reachable: Reach | None = None,
    most_steps: int = MOST_STEPS,
) -> tuple[tuple[int, ...], ...]:
    """Every convex set of nodes whose induced subgraph is the pattern.

    Args:
        graph: the operator graph.
        labels: label of each vertex of the pattern.
        edges: edges of the pattern, parallel ones repeated; the pattern is connected.
        target: the graph prepared, to save time when many patterns are looked for.
        reachable: its reachability, likewise.
        most_steps: the search stops after so many; what was found until then is returned.

    Returns:
        Sets of node indices, each ascending, in ascending order.
    """
    target = target or labelled(graph)
    if not labels or any(text not in target.by_label for text in labels):
        return ()
    search = _prepare(target, labels, edges, most_steps)
    search.smaller = _symmetry(labels, edges)
    _extend(search, 0)
    reachable = reachable or reach(graph)
    return tuple(sorted(nodes for nodes in search.found if not reachable.gaps(nodes)))


def _prepare(target: Labelled, labels: Sequence[str], edges: Sequence[Edge], most_steps: int) -> _Search:
    neighbours: list[list[tuple[int, bool, int, int]]] = [[] for _ in labels]  # (other, other consumes, output, slot)
    for producer, output, consumer, slot in edges:
        neighbours[producer].append((consumer, True, output, slot))
        neighbours[consumer].append((producer, False, output, slot))

    def rarity(vertex: int) -> tuple[int, int]:
        return len(target.by_label[labels[vertex]]), vertex

    order = [min(range(len(labels)), key=rarity)]
    links: list[list[tuple[bool, int, int, int]]] = [[]]
    while len(order) < len(labels):
        adjacent = {other for vertex in order for other, *_ in neighbours[vertex] if other not in order}
        if not adjacent:
            break  # not connected: such a pattern has no occurrences
        vertex = min(adjacent, key=rarity)
        links.append(
            [
                (not other_consumes, other, output, slot)
                for other, other_consumes, output, slot in neighbours[vertex]
                if other in order
            ]
        )
        order.append(vertex)
    needed = []
    for step, vertex in enumerate(order):
        earlier = {*order[: step + 1]}
        needed.append(Counter(e for e in edges if vertex in (e[0], e[2]) and e[0] in earlier and e[2] in earlier))
    steps = most_steps if len(order) == len(labels) else 0
    return _Search(target, order, links, needed, labels, steps, {}, {})


def _symmetry(labels: Sequence[str], edges: Sequence[Edge]) -> dict[int, set[int]]:
    """Conditions that leave one matching of each set of nodes: vertex to vertices whose node must be smaller.

    After Grochow and Kellis (2007): of the vertices that a symmetry of the pattern can put in one vertex's place, that
    one gets the smallest node; then it is held fast and the symmetries that remain are looked at.
    """
    itself = prepared(labels, edges)
    smaller: dict[int, set[int]] = {}
    held: dict[int, int] = {}
    for vertex in range(len(labels)):
        for other in itself.by_label[labels[vertex]]:
            if other == vertex or other in held:
                continue
            search = _prepare(itself, labels, edges, MOST_SYMMETRY_STEPS)
            search.fixed = {**held, vertex: other}
            search.first_only = True
            _extend(search, 0)
            if search.found:
                smaller.setdefault(other, set()).add(vertex)
        held[vertex] = vertex
    return smaller


def _extend(search: _Search, step: int) -> None:
    if step == len(search.order):
        search.found.add(tuple(sorted(search.image.values())))
        return
    if step and search.first_only and search.found:
        return
    vertex, target = search.order[step], search.target
    wanted = search.labels[vertex]
    candidates: set[int] | None = None
    if step == 0:
        candidates = set(target.by_label[wanted])
    for is_consumer, other, output, slot in search.links[step]:
        around = target.outgoing if is_consumer else target.incoming
        reached = {n for o, s, n in around[search.image[other]] if (o, s) == (output, slot)}
        candidates = reached if candidates is None else candidates & reached
    used = set(search.image.values())
    for node in sorted(candidates or ()):
        if search.steps <= 0:
            return
        search.steps -= 1
        if node in used or target.labels[node] != wanted:
            continue
        if search.fixed.get(vertex, node) != node or _out_of_order(search, vertex, node):
            continue
        search.image[vertex] = node
        if _induced(search, step):
            _extend(search, step + 1)
        del search.image[vertex]


def _out_of_order(search: _Search, vertex: int, node: int) -> bool:
    """Whether a node breaks a condition that leaves one of several symmetric matchings."""
    for other, image in search.image.items():
        if other in search.smaller.get(vertex, ()) and image > node:
            return True
        if vertex in search.smaller.get(other, ()) and node > image:
            return True
    return False


def _induced(search: _Search, step: int) -> bool:
    """Whether the edges between the newest node and the ones before are exactly the pattern's."""
    vertex = search.order[step]
    node = search.image[vertex]
    back = {image: other for other, image in search.image.items()}
    found: Counter[Edge] = Counter()
    for output, slot, consumer in search.target.outgoing[node]:
        if consumer in back:
            found[(vertex, output, back[consumer], slot)] += 1
    for output, slot, producer in search.target.incoming[node]:
        if producer in back and producer != node:
            found[(back[producer], output, vertex, slot)] += 1
    return found == search.needed[step]
