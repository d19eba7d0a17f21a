"""All occurrences of one size in a batch of graphs, in few bytes each: mining keeps every level until its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.mining.refinement import Flags, Hashes, Integers, spread_out
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


@dataclass(frozen=True)
class Stretch:
    """The rows of one graph in a level, counted from their first, and the steps that led to them.

    Attributes:
        low: the first row.
        count: how many rows.
        parents: for each step the row in the stretch below, counted from its first; steps are in order of this.
        children: for each step the row.
    """

    low: int
    count: int
    parents: Integers
    children: Integers

    @classmethod
    def of(cls, level: Level, low: int, high: int, steps: Integers) -> "Stretch":
        """Some rows of a level, which are those of one graph.

        Args:
            level: the level.
            low: the first row.
            high: behind the last row.
            steps: for each row of the level, and for the end, its first step.
        """
        parents = level.origins[steps[low] : steps[high]].astype(np.int64)
        children = np.repeat(np.arange(high - low), level.ways[low:high])
        order = np.argsort(parents, kind="stable")
        return cls(low, high - low, parents[order], children[order])

    def down(self, marks: Hashes, count: int) -> Hashes:
        """For each of so many rows of the stretch below, all bits of the rows that steps lead to from it.

        Args:
            marks: a row of words for each row of this stretch.
            count: rows of the stretch below.
        """
        found = np.zeros((count, marks.shape[1]), dtype=np.uint64)
        if len(self.parents):
            firsts = np.flatnonzero(np.diff(self.parents, prepend=-1))
            found[self.parents[firsts]] = np.bitwise_or.reduceat(marks[self.children], firsts, axis=0)
        return found

    def up(self, rows: Integers) -> tuple[Integers, Integers]:
        """All steps from some rows of the stretch below: for each the position of its row, and where it leads."""
        lows = np.searchsorted(self.parents, rows)
        lengths = np.searchsorted(self.parents, rows, side="right") - lows
        return np.repeat(np.arange(len(rows)), lengths), self.children[spread_out(lows, lengths)]
