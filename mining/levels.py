"""All occurrences of one size in a batch of graphs, in few bytes each: mining keeps every level until its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.mining.refinement import Flags, Integers, spread_out
from graphopt.mining.tallies import Counts

Numbers = npt.NDArray[Any]
"""Whole numbers from 0, in as few bytes each as their greatest one needs."""


def narrow(values: npt.NDArray[Any]) -> Numbers:
    """The same numbers, none below 0, in 8, 16, 32 or 64 bits each, whatever holds them all."""
    greatest = int(values.max(initial=0))
    kinds = ((8, np.uint8), (16, np.uint16), (31, np.int32))
    return values.astype(next((kind for bits, kind in kinds if greatest < 1 << bits), np.int64))


@dataclass(frozen=True)
class Level:
    """Occurrences, one row each; rows of one graph stand together, graphs in order.

    Attributes:
        nodes: the occurrence's nodes in the canonical order of its pattern, as numbers in the batch.
        pattern: number of the pattern.
        multiples: rows, rising, that stand for several occurrences each.
        counts: for each of them, how many.
        ways: for each row the number of steps of growth that led to it; steps are in the order of these rows.
        origins: for each step, the row in the level before, counted from the first one of the same graph.
        several: steps, rising, of which equal branches give more from the same row.
        graph_of: for each node of the batch the position of its graph.
        below: for each graph, its first row in the level before.
    """

    nodes: Numbers
    pattern: Numbers
    multiples: Numbers
    counts: Counts
    ways: Numbers
    origins: Numbers
    several: Numbers
    graph_of: Numbers
    below: Integers

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def graph(self) -> Numbers:
        """Position of each row's graph in the batch."""
        found: Numbers = self.graph_of[self.nodes[:, 0]]
        return found

    def graphs(self, rows: Integers) -> Numbers:
        """Position of some rows' graphs in the batch."""
        found: Numbers = self.graph_of[self.nodes[rows, 0]]
        return found

    def firsts(self, graphs: int) -> Integers:
        """For each graph of the batch its first row."""
        return np.searchsorted(self.graph, np.arange(graphs))

    def multiplicities(self, rows: Integers) -> Counts:
        """Number of occurrences that each of some rows stands for."""
        found: Counts = np.ones(len(rows), dtype=self.counts.dtype)
        if len(self.multiples):
            at = np.minimum(np.searchsorted(self.multiples, rows), len(self.multiples) - 1)
            hit = self.multiples[at] == rows
            found[hit] = self.counts[at[hit]]
        return found

    def steps(self) -> tuple[Integers, Integers]:
        """The steps of growth that led here: for each a row of the level before, and a row of this level, rising."""
        children = np.repeat(np.arange(len(self)), self.ways)
        parents: Integers = self.origins + self.below[self.graph[children]]
        return parents, children

    def kept(self, rows: Flags, numbers: Integers) -> "Level":
        """Some of the rows, with new numbers for their patterns."""
        place = np.cumsum(rows) - 1
        steps = np.repeat(rows, self.ways)
        place_of_step = np.cumsum(steps) - 1
        multiples = rows[self.multiples]
        return Level(
            self.nodes[rows],
            narrow(numbers[self.pattern[rows]]),
            place[self.multiples[multiples]].astype(np.int32),
            self.counts[multiples],
            self.ways[rows],
            self.origins[steps],
            place_of_step[self.several[steps[self.several]]].astype(np.int32),
            self.graph_of,
            self.below,
        )

    def none(self) -> "Level":
        """No rows."""
        return Level.joined([], self.nodes.shape[1], self.graph_of, self.below)

    @classmethod
    def joined(cls, parts: Sequence["Level"], size: int, graph_of: Numbers, below: Integers) -> "Level":
        """Levels of different graphs, in order, as one.

        Args:
            parts: the levels.
            size: nodes of an occurrence.
            graph_of: for each node of the batch the position of its graph.
            below: for each graph, its first row in the level before.
        """
        empty = np.zeros(0, dtype=np.uint8)
        none = np.zeros(0, dtype=np.int32)
        rows = np.cumsum([0, *(len(part) for part in parts)]).tolist()
        steps = np.cumsum([0, *(len(part.origins) for part in parts)]).tolist()
        return cls(
            np.concatenate([np.zeros((0, size), dtype=np.uint8), *(part.nodes for part in parts)]),
            np.concatenate([empty, *(part.pattern for part in parts)]),
            np.concatenate([none, *(p.multiples + np.int32(n) for p, n in zip(parts, rows, strict=False))]),
            np.concatenate([np.zeros(0, dtype=np.int64), *(part.counts for part in parts)]),
            np.concatenate([empty, *(part.ways for part in parts)]),
            np.concatenate([empty, *(part.origins for part in parts)]),
            np.concatenate([none, *(p.several + np.int32(n) for p, n in zip(parts, steps, strict=False))]),
            graph_of,
            below,
        )


class Ways:
    """The steps of growth from a level to the next, by where they start; the rows of each pattern.

    Args:
        level: the level that they lead to.
    """

    def __init__(self, level: Level) -> None:
        parents, children = level.steps()
        order = np.argsort(parents, kind="stable")
        self._children = children[order]
        self._starts = np.searchsorted(parents[order], np.arange(int(parents.max(initial=-1)) + 2))

    def up(self, rows: Integers) -> tuple[Integers, Integers]:
        """All steps from some rows: for each the position of its row among those given, and where it leads."""
        inside = np.minimum(rows, len(self._starts) - 1)
        ends = np.minimum(rows + 1, len(self._starts) - 1)
        lows = self._starts[inside]
        lengths = self._starts[ends] - lows
        return np.repeat(np.arange(len(rows)), lengths), self._children[spread_out(lows, lengths)]
