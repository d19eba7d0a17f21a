"""Which operators an operator can reach: bitsets, one integer per node, for fast convexity tests."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import or_

from graphopt.graph import OperatorGraph


@dataclass(frozen=True)
class Reach:
    """Reachability of an operator graph. Bit i of an integer stands for node i; a node does not reach itself.

    Attributes:
        ancestors: for each node the nodes that it depends on.
        descendants: for each node the nodes that depend on it.
    """

    ancestors: tuple[int, ...]
    descendants: tuple[int, ...]

    def gaps(self, nodes: Iterable[int]) -> int:
        """Nodes outside of the set on a path that leaves it and comes back; 0 when the set is convex."""
        members = list(nodes)
        mask = bits(members)
        above = reduce(or_, (self.ancestors[index] for index in members), 0)
        below = reduce(or_, (self.descendants[index] for index in members), 0)
        return above & below & ~mask


def bits(nodes: Iterable[int]) -> int:
    """The set of nodes as an integer."""
    mask = 0
    for index in nodes:
        mask |= 1 << index
    return mask


def reach(graph: OperatorGraph) -> Reach:
    """Reachability over data edges, reads of If, Loop and Scan bodies included."""
    count = len(graph.nodes)
    feeders: list[set[int]] = [set() for _ in range(count)]
    for producer, _, consumer, _ in graph.edges:
        feeders[consumer].add(producer)
    ancestors = [0] * count
    for index in range(count):
        for feeder in feeders[index]:
            ancestors[index] |= ancestors[feeder] | (1 << feeder)
    descendants = [0] * count
    for index in reversed(range(count)):
        for feeder in feeders[index]:
            descendants[feeder] |= descendants[index] | (1 << index)
    return Reach(tuple(ancestors), tuple(descendants))
