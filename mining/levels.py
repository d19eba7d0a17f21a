"""All occurrences of one size in a batch of graphs, in few bytes each: mining keeps every level until its end."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.mining.refinement import Flags, Integers
from graphopt.mining.tallies import Counts

Numbers = npt.NDArray[Any]
"""Whole numbers from 0, in as few bytes each as their greatest one needs."""


def narrow(values: npt.NDArray[Any]) -> Numbers:
    """The same numbers, none below 0, in 8, 16, 32 or 64 bits each, whatever holds them all."""
    greatest = int(values.max(initial=0))
    kinds = ((8, np.uint8), (16, np.uint16), (31, np.int32))
    return values.astype(next((kind for bits, kind in kinds if greatest < 1 << bits), np.int64))


def at_least_two_bytes(values: Numbers) -> Numbers:
    """The same numbers in 16 bits each rather than 8: a loop is compiled once for each kind that it is given."""
    return values.astype(np.uint16) if values.dtype.itemsize == 1 else values


@dataclass(frozen=True)
class Level:
    """Occurrences, one row each; rows of one graph stand together, graphs in order.

    Attributes:
        nodes: the occurrence's nodes in the canonical order of its pattern, as numbers in the batch.
        pattern: number of the pattern.
        multiples: rows, rising, that stand for several occurrences each.
        counts: for each of them, how many.
        graph_of: for each node of the batch the position of its graph.
    """

    nodes: Numbers
    pattern: Numbers
    multiples: Numbers
    counts: Counts
    graph_of: Numbers

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

    def multiplicities(self, rows: Integers) -> Counts:
        """Number of occurrences that each of some rows stands for."""
        found: Counts = np.ones(len(rows), dtype=self.counts.dtype)
        if len(self.multiples):
            at = np.minimum(np.searchsorted(self.multiples, rows), len(self.multiples) - 1)
            hit = self.multiples[at] == rows
            found[hit] = self.counts[at[hit]]
        return found

    def kept(self, rows: Flags, numbers: Integers) -> "Level":
        """Some of the rows, with new numbers for their patterns."""
        if rows.all():
            return replace(self, pattern=narrow(numbers[self.pattern]))
        place = np.cumsum(rows) - 1
        multiples = rows[self.multiples]
        return Level(
            self.nodes[rows],
            narrow(numbers[self.pattern[rows]]),
            place[self.multiples[multiples]].astype(np.int32),
            self.counts[multiples],
            self.graph_of,
        )

    def none(self) -> "Level":
        """No rows."""
        return Level.joined([], self.nodes.shape[1], self.graph_of)

    @classmethod
    def joined(cls, parts: Sequence["Level"], size: int, graph_of: Numbers) -> "Level":
        """Levels of different graphs, in order, as one.

        Args:
            parts: the levels.
            size: nodes of an occurrence.
            graph_of: for each node of the batch the position of its graph.
        """
        rows = np.cumsum([0, *map(len, parts)]).tolist()
        empty, none = np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=np.int32)
        return cls(
            np.concatenate([np.zeros((0, size), dtype=np.uint8), *(part.nodes for part in parts)]),
            np.concatenate([empty, *(part.pattern for part in parts)]),
            np.concatenate([none, *(p.multiples + np.int32(n) for p, n in zip(parts, rows, strict=False))]),
            np.concatenate([np.zeros(0, dtype=np.int64), *(part.counts for part in parts)]),
            graph_of,
        )


class Steps(NamedTuple):
    """All steps of growth from one level to the next.

    Attributes:
        parents: for each step the row that it starts from.
        children: the row that it leads to.
        node: the node that is added, as a number in the batch.
        several: whether equal branches give more such steps from the same row.
        forward: whether the node is a consumer.
    """

    parents: Numbers
    children: Numbers
    node: Numbers
    several: Flags
    forward: Flags

    def of(self, steps: Integers) -> "Steps":
        """Some of the steps."""
        return Steps._make(column[steps] for column in self)

    @classmethod
    def joined(cls, parts: Sequence["Steps"], rows: Sequence[int]) -> "Steps":
        """The steps within different graphs, in order, as one.

        Args:
            parts: the steps.
            rows: how many rows each of them leads to.
        """
        lows = np.cumsum([0, *rows]).tolist()
        moved = [part._replace(children=part.children + np.int32(low)) for part, low in zip(parts, lows, strict=False)]
        none, no = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.bool_)
        empty = cls(none, none, none, no, no)
        return cls._make(np.concatenate(columns) for columns in zip(empty, *moved, strict=True))
