"""Occurrences that were found, as columns: what a pattern says of its places on demand."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.mining.levels import Numbers, narrow
from graphopt.mining.tallies import Counts


class Places(NamedTuple):
    """Representative occurrences of one pattern in one graph.

    Attributes:
        graph: index of the graph.
        nodes: a row per representative, its nodes in canonical order.
        multiplicities: for each, the number of occurrences it stands for.
    """

    graph: int
    nodes: Numbers
    multiplicities: tuple[int, ...]


class Found(NamedTuple):
    """Representative occurrences of patterns of one size, a row each, sorted by pattern and graph.

    Attributes:
        pattern: id of each row's pattern.
        graph: index of each row's graph.
        nodes: the rows' nodes, as numbers in their graph.
        multiples: rows, rising, that stand for several occurrences.
        counts: for each of those, how many.
    """

    pattern: Numbers
    graph: Numbers
    nodes: Numbers
    multiples: Numbers
    counts: Counts

    @classmethod
    def of(
        cls, pattern: npt.NDArray[Any], graph: npt.NDArray[Any], nodes: npt.NDArray[Any], multiplicities: Counts
    ) -> "Found":
        """Rows in any order, put in order."""
        order = np.lexsort((graph, pattern))
        multiplicities = multiplicities[order]
        multiples = np.flatnonzero(multiplicities != 1)
        return cls(
            narrow(pattern[order]),
            narrow(graph[order]),
            narrow(nodes)[order],
            narrow(multiples),
            multiplicities[multiples],
        )

    @classmethod
    def joined(cls, parts: Sequence["Found"], size: int) -> "Found":
        """The rows of several, put in order.

        Args:
            parts: rows of different graphs.
            size: nodes of an occurrence.
        """
        parts = [part for part in parts if len(part.pattern)]
        if len(parts) == 1:
            return parts[0]
        empty = np.zeros(0, dtype=np.uint8)
        many: Counts = np.concatenate([np.zeros(0, dtype=np.int64), *(part.multiplicities() for part in parts)])
        return cls.of(
            np.concatenate([empty, *(part.pattern for part in parts)]),
            np.concatenate([empty, *(part.graph for part in parts)]),
            np.concatenate([np.zeros((0, size), dtype=np.uint8), *(part.nodes for part in parts)]),
            many,
        )

    def multiplicities(self) -> Counts:
        """Number of occurrences that each row stands for."""
        found: Counts = np.ones(len(self.pattern), dtype=self.counts.dtype)
        found[self.multiples] = self.counts
        return found

    def of_pattern(self, pattern: int) -> Iterator[Places]:
        """The occurrences of one pattern, graph by graph."""
        low, high = np.searchsorted(self.pattern, [pattern, pattern + 1]).tolist()
        graphs = self.graph[low:high]
        ends = [*(np.flatnonzero(np.diff(graphs.astype(np.int64))) + low + 1).tolist(), high]
        for end in ends if high > low else ():
            first, last = np.searchsorted(self.multiples, [low, end]).tolist()
            multiplicities = [1] * (end - low)
            for row, count in zip(self.multiples[first:last].tolist(), self.counts[first:last].tolist(), strict=True):
                multiplicities[row - low] = count
            yield Places(int(self.graph[low]), self.nodes[low:end], tuple(multiplicities))
            low = end
