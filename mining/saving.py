"""The best k patterns of any graphs, by what fusing them would save: the gains of their nodes but the greatest."""

from collections.abc import Callable, Iterable, Sequence
from math import ceil, fsum

from graphopt.mining.graphs import MiningGraph, bits
from graphopt.mining.marginal import SLACK, Covered, marginal_order
from graphopt.mining.pattern import Pattern

GAIN_UNITS = 2**40
"""The gains of all nodes together, in the units that the miner adds them up in."""

Gain = Callable[[str], float]
"""A node's label to the most that the node can add to what one execution of an occurrence saves."""

Saving = Callable[[Pattern], float]
"""A pattern to what one execution of one occurrence saves."""


def whole(gains: Sequence[Sequence[float]]) -> tuple[list[tuple[float, ...]], float]:
    """Gains in whole numbers, rounded up, so that their sums are exact in any order; and the unit they are in."""
    unit = fsum(map(fsum, gains)) / GAIN_UNITS or 1.0
    return [tuple([float(ceil(gain / unit)) for gain in row]) for row in gains], unit


def label_gains(graphs: Iterable[MiningGraph], gain: Gain) -> list[list[float]]:
    """What each node can add in all executions of its graph."""
    return [[gain(label) * graph.weight for label in graph.labels] for graph in graphs]


class Savings:
    """What patterns save in the distinct graphs that they were mined from.

    Args:
        patterns: the patterns.
        graphs: the distinct graphs.
        saving: what one execution of one occurrence saves.
    """

    def __init__(self, patterns: Iterable[Pattern], graphs: Sequence[MiningGraph], saving: Saving) -> None:
        self._patterns = {pattern.digest: pattern for pattern in patterns}
        self._graphs = graphs
        self._each = {digest: saving(pattern) for digest, pattern in self._patterns.items()}
        self._touched: dict[str, dict[int, int]] = {}
        self.last = 0.0  # what the pattern that was taken last saves beyond those before it

    def best(self, k: int | None) -> list[Pattern]:
        """The patterns that save most, in marginal order."""
        return [self._patterns[digest] for digest in marginal_order(self._patterns, self, k)]

    def most(self, name: str, covered: Covered) -> float:
        """No less than what a pattern saves: as if as many occurrences as fit were disjoint."""
        pattern = self._patterns[name]
        runs = 0
        for places in pattern.places:
            graph = self._graphs[places.graph]
            left = len(graph.labels) - covered.get(places.graph, 0).bit_count()
            runs += graph.weight * min(sum(places.multiplicities), left // pattern.size)
        return runs * self._each[name] * (1 + SLACK)

    def value(self, name: str, covered: Covered) -> float:
        """What occurrences save that are disjoint and hold nothing covered."""
        runs = 0
        for places in self._patterns[name].places:
            disjoint = self._patterns[name].disjoint_in(places, covered.get(places.graph, 0))
            runs += self._graphs[places.graph].weight * sum(1 for _ in disjoint)
        return runs * self._each[name]

    def touched(self, name: str) -> Covered:
        """All nodes that occurrences may hold; where equal branches stand for each other, all nodes."""
        if name not in self._touched:
            found = self._touched[name] = {}
            for places in self._patterns[name].places:
                alone = max(places.multiplicities) == 1
                found[places.graph] = bits(set(places.nodes.ravel().tolist())) if alone else -1
        return self._touched[name]

    def take(self, name: str, covered: Covered) -> Covered:
        """The nodes of the occurrences that ``value`` counts."""
        self.last = self.value(name, covered)
        fresh: dict[int, int] = {}
        for places in self._patterns[name].places:
            for nodes in self._patterns[name].disjoint_in(places, covered.get(places.graph, 0)):
                fresh[places.graph] = fresh.get(places.graph, 0) | bits(nodes)
        return fresh
