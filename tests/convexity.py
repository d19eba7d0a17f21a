"""Convexity by its definition, in one sweep over the graph: an oracle for the bitsets of the miner and the passes."""

from collections.abc import Sequence

from graphopt.graph import OperatorGraph


def is_convex(graph: OperatorGraph, nodes: Sequence[int]) -> bool:
    """Whether no path leaves the set of nodes and comes back to it."""
    members = set(nodes)
    last = max(members)
    tainted: set[int] = set()  # outside nodes that the set reaches
    for index in range(min(members), last + 1):
        node = graph.nodes[index]
        feeders = {graph.producers[n][0] for n in (*node.inputs, *node.captured) if n in graph.producers}
        if index in members:
            if feeders & tainted:
                return False
        elif feeders & (members | tainted):
            tainted.add(index)
    return True
