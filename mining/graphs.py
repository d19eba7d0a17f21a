"""Graphs as the miner sees them: numbered nodes, labelled edges, and sets of nodes as the bits of an integer.

Any dataflow graph can be mined: an operator graph, a capture, or a networkx graph with ``label`` on its nodes and
``slot`` (default 0) and ``output`` (default 0) on its edges.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from sys import intern
from typing import TYPE_CHECKING, Any

import networkx as nx

from graphopt import operators
from graphopt.errors import GraphoptError
from graphopt.graph import Capture, OperatorGraph
from graphopt.mining.canonical import Edge

ANY_OPERAND = frozenset({"Concat", "com.microsoft.QLinearConcat"})
"""Operators whose operands all play the same role: which one a tensor is, is a parameter, as a slice's bounds are."""

ANY_RESULT = frozenset({"Split", "SplitToSequence"})
"""Operators whose results all play the same role: a Split is as many slices."""

if TYPE_CHECKING:
    NetworkxGraph = nx.DiGraph[Any]
else:
    NetworkxGraph = nx.DiGraph

Source = OperatorGraph | Capture | NetworkxGraph
Weighted = Source | tuple[Source, int]
"""What can be mined: a graph that counts once (a capture: as often as it was executed), or a graph and its weight."""


@dataclass(frozen=True)
class MiningGraph:
    """A labelled DAG with a weight.

    Attributes:
        labels: label of each node.
        edges: (producer, output, consumer, slot), sorted; parallel edges are kept.
        weight: how many executions it stands for.
        eligible: bits of the nodes that patterns may hold. Paths through all other nodes count for convexity.
        apart: edges (producer, consumer) that may not lie within an occurrence.
        gains: the most that each node can add to what a pattern saves, in whole numbers; empty where that does not
            matter.
        identities: what the nodes are called in the graph that was given: its index in an operator graph, or
            networkx's node.
    """

    labels: tuple[str, ...]
    edges: tuple[Edge, ...]
    weight: int = 1
    eligible: int = -1
    apart: tuple[tuple[int, int], ...] = ()
    gains: tuple[float, ...] = field(default=(), compare=False)
    identities: Sequence[Hashable] = field(default=(), compare=False)

    def weighted(self, weight: int) -> "MiningGraph":
        """The same graph with another weight; it shares what has been computed of this one."""
        found = copy(self)
        object.__setattr__(found, "weight", weight)
        return found

    def sharing(self, edges: dict[Edge, Edge]) -> "MiningGraph":
        """The same graph, whose labels and edges are the same objects as those of other graphs.

        Args:
            edges: the edges that are known so far.
        """
        shared = tuple([edges.setdefault(edge, edge) for edge in self.edges])
        return replace(self, labels=tuple(map(intern, self.labels)), edges=shared)

    def forget_tables(self) -> None:
        """Give back the memory of what has been computed of the graph's edges; it is computed again when needed."""
        for name in ("incoming", "outgoing", "topological", "descendants", "ancestors"):
            self.__dict__.pop(name, None)

    @cached_property
    def fingerprint(self) -> str:
        """Equal for graphs that are mined as one: everything but the weight and the nodes' names."""
        parts = (self.labels, self.edges, self.eligible_nodes, self.apart)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @cached_property
    def eligible_nodes(self) -> int:
        """Bits of the nodes that patterns may hold, without bits beyond the last node."""
        return self.eligible & ((1 << len(self.labels)) - 1)

    @cached_property
    def incoming(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """For each node, (producer, output, slot) of its operands."""
        found: list[list[tuple[int, int, int]]] = [[] for _ in self.labels]
        for producer, output, consumer, slot in self.edges:
            found[consumer].append((producer, output, slot))
        return tuple(tuple(sorted(edges)) for edges in found)

    @cached_property
    def outgoing(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """For each node, (consumer, output, slot) of the uses of its results."""
        found: list[list[tuple[int, int, int]]] = [[] for _ in self.labels]
        for producer, output, consumer, slot in self.edges:
            found[producer].append((consumer, output, slot))
        return tuple(tuple(sorted(edges)) for edges in found)

    @cached_property
    def topological(self) -> tuple[int, ...]:
        """Nodes, producers first.

        Raises:
            GraphoptError: the graph has a cycle.
        """
        waiting = [len({edge[0] for edge in edges}) for edges in self.incoming]
        ready = [node for node, count in enumerate(waiting) if not count]
        for node in ready:
            for consumer in {edge[0] for edge in self.outgoing[node]}:
                waiting[consumer] -= 1
                if not waiting[consumer]:
                    ready.append(consumer)
        if len(ready) < len(self.labels):
            raise GraphoptError("cannot mine a graph with a cycle")
        return tuple(ready)

    @cached_property
    def descendants(self) -> tuple[int, ...]:
        """For each node, bits of all nodes that a path leads to."""
        found = [0] * len(self.labels)
        for node in reversed(self.topological):
            for consumer, _, _ in self.outgoing[node]:
                found[node] |= found[consumer] | 1 << consumer
        return tuple(found)

    @cached_property
    def ancestors(self) -> tuple[int, ...]:
        """For each node, bits of all nodes that a path comes from."""
        found = [0] * len(self.labels)
        for node in self.topological:
            for producer, _, _ in self.incoming[node]:
                found[node] |= found[producer] | 1 << producer
        return tuple(found)


def bits(nodes: Iterable[int]) -> int:
    """A set of nodes as the bits of an integer."""
    found = 0
    for node in nodes:
        found |= 1 << node
    return found


def members(mask: int) -> Iterator[int]:
    """The nodes of a set, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def from_operator_graph(
    graph: OperatorGraph,
    weight: int = 1,
    *,
    eligible: Callable[[OperatorGraph, int], bool] | None = None,
    planned: bool = False,
) -> MiningGraph:
    """An operator graph for the miner.

    An edge carries the slot of the operand, folded for commutative operators and for the operands of a Concat, and the
    index of the result, folded for a Split. Tensors read by the body of an If, Loop or Scan are edges with slot -1.

    Args:
        graph: the operator graph.
        weight: executions.
        eligible: whether a node (graph, index) may be part of a pattern; all may when not given.
        planned: grow no pattern that computes an operand which a kernel of the pattern needs when it plans.
    """
    edges = []
    apart = set()
    for producer, output, consumer, slot in graph.edges:
        maker, user = graph.nodes[producer], graph.nodes[consumer]
        folded = 0 if user.operator in ANY_OPERAND and slot >= 0 else operators.commutative_slot(user, slot)
        edges.append((producer, 0 if maker.operator in ANY_RESULT else output, consumer, folded))
        row = operators.find(user)
        if row is not None and slot in row.structural:
            apart.add((producer, consumer))
    count = len(graph.nodes)
    return MiningGraph(
        labels=tuple(operators.label(graph, index) for index in range(count)),
        edges=tuple(sorted(edges)),
        weight=weight,
        eligible=-1 if eligible is None else bits(i for i in range(count) if eligible(graph, i)),
        apart=tuple(sorted(apart)) if planned else (),
        identities=tuple(range(count)),
    )


def from_networkx(graph: NetworkxGraph, weight: int = 1) -> MiningGraph:
    """A networkx DiGraph or MultiDiGraph for the miner.

    Args:
        graph: nodes have ``label``; edges may have ``slot`` and ``output`` (integers, 0 by default).
        weight: how often it counts.

    Raises:
        GraphoptError: it is undirected, has a cycle, or a node has no label.
    """
    if not graph.is_directed():
        raise GraphoptError("cannot mine an undirected graph")
    nodes = list(graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    labels = []
    for node, data in graph.nodes(data=True):
        if "label" not in data:
            raise GraphoptError(f"cannot mine a graph whose node {node!r} has no label")
        labels.append(str(data["label"]))
    edges = sorted(
        (place[producer], int(data.get("output", 0)), place[consumer], int(data.get("slot", 0)))
        for producer, consumer, data in graph.edges(data=True)
    )
    flat = MiningGraph(tuple(labels), tuple(edges), weight, identities=tuple(nodes))
    _ = flat.topological  # raises on a cycle
    return flat


def from_any(item: Weighted | MiningGraph, known: dict[int, MiningGraph] | None = None) -> MiningGraph:
    """Whatever can be mined, for the miner.

    Args:
        item: the graph, or the graph and its weight.
        known: graphs by identity that have been converted; the same object is converted once. The caller keeps them
            alive.

    Raises:
        GraphoptError: it cannot be mined, or its weight is no whole number above zero.
    """
    if isinstance(item, MiningGraph):
        return item
    known = {} if known is None else known
    weight: int | None = None
    if isinstance(item, tuple):
        item, weight = item
    if isinstance(item, Capture):
        weight = item.executions if weight is None else weight
        item = item.graph
    weight = 1 if weight is None else weight
    whole: object = weight
    if isinstance(whole, bool) or not isinstance(whole, int) or whole < 1:
        raise GraphoptError(f"the weight of a graph must be a whole number above zero, not {weight!r}")
    if id(item) not in known:
        if isinstance(item, OperatorGraph):
            found = from_operator_graph(item)
        elif isinstance(item, nx.Graph):  # undirected ones included: from_networkx says what is wrong
            found = from_networkx(item)
        else:
            raise GraphoptError(f"cannot mine a {type(item).__name__}")
        _ = found.fingerprint  # its copies share it
        known[id(item)] = found
    return known[id(item)].weighted(weight)


def merged(graphs: Sequence[MiningGraph]) -> tuple[list[MiningGraph], list[int]]:
    """Graphs that are written alike as one with the sum of their weights.

    Returns:
        the distinct graphs in order of first appearance; for each graph given, the index of its distinct graph.
    """
    first: dict[str, int] = {}
    weights: list[int] = []
    gains: list[tuple[float, ...]] = []
    distinct: list[MiningGraph] = []
    index = []
    for graph in graphs:
        position = first.setdefault(graph.fingerprint, len(distinct))
        if position == len(distinct):
            distinct.append(graph)
            weights.append(0)
            gains.append(())
        weights[position] += graph.weight
        if graph.gains:
            known = gains[position] or (0.0,) * len(graph.gains)
            gains[position] = tuple(map(sum, zip(known, graph.gains, strict=True)))
        index.append(position)
    found = zip(distinct, weights, gains, strict=True)
    return [replace(graph, weight=weight, gains=gain) for graph, weight, gain in found], index
