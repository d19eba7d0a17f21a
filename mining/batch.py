"""Graphs of similar size as flat tables, which all steps of growth work on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.mining.canonical import Vocabulary
from graphopt.mining.families import Families
from graphopt.mining.graphs import MiningGraph
from graphopt.mining.levels import Level, Numbers, Steps
from graphopt.mining.refinement import Flags, Hashes, Integers, mixed
from graphopt.mining.symmetry import Symmetry


class Side(NamedTuple):
    """Edges of all nodes towards their consumers, or towards their producers.

    Attributes:
        starts: for each node where its edges begin.
        other: the node at the other end.
        kind: number of the edge's (output, slot).
        apart: whether the edge may not lie within an occurrence.
        reach: for each node, in words of 64, bits of all nodes that a path leads to (from, for producers).
        forward: whether the others are consumers.
    """

    starts: Numbers
    other: Numbers
    kind: Numbers
    apart: Flags
    reach: Hashes
    forward: bool


class Batch:
    """Graphs of similar size as flat tables. Nodes are numbered through all graphs of the batch.

    Args:
        graphs: index of each graph among all graphs, and the graph.
        vocabulary: numbers of labels and kinds of edges.
    """

    def __init__(self, graphs: Sequence[tuple[int, MiningGraph]], vocabulary: Vocabulary) -> None:
        self.indices: Integers = np.array([index for index, _ in graphs], dtype=np.int64)
        own = [graph for _, graph in graphs]
        self.count = len(own)
        self.weights = [graph.weight for graph in own]
        self.vocabulary = vocabulary
        counts = [len(graph.labels) for graph in own]
        self.offsets: Integers = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        total = int(self.offsets[-1])
        self.words = max(1, -(-max(counts) // 64))
        self.graph_of: Numbers = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.local: Numbers = (np.arange(total) - self.offsets[self.graph_of]).astype(np.int32)
        self.word = self.local >> 6
        self.bit = np.uint64(1) << (self.local & 63).astype(np.uint64)
        self.label: Numbers = np.array(
            [vocabulary.label_numbers[label] for graph in own for label in graph.labels], dtype=np.int32
        )
        self.random = mixed(self.local.astype(np.uint64) + np.uint64(1))
        self.eligible = _flags(own, [graph.eligible_nodes for graph in own])
        self.symmetries = []
        reaches: tuple[list[bytes], list[bytes]] = ([], [])
        for graph in own:  # one after the other: what is computed of a graph takes much room
            self.symmetries.append(Symmetry.of(graph))
            for sets, reach in zip((graph.descendants, graph.ancestors), reaches, strict=True):
                reach.append(b"".join(bits.to_bytes(8 * self.words, "little") for bits in sets))
            graph.forget_tables()
        self.sides = self._tables(own, reaches)
        self.families = Families(self.symmetries, self.offsets)
        self.eligible_bits = self._eligible_bits(own)
        self._add_gains(own)
        self.levels: list[Level] = []
        self.steps: Steps | None = None
        self._beyond: dict[bool, Flags] = {}
        self.truncated: dict[int, int] = {}

    def _eligible_bits(self, graphs: Sequence[MiningGraph]) -> Hashes:
        """For each graph the bits of the nodes that patterns may hold, in words."""
        content = b"".join(graph.eligible_nodes.to_bytes(8 * self.words, "little") for graph in graphs)
        found: Hashes = np.frombuffer(content, dtype="<u8").reshape(len(graphs), self.words).astype(np.uint64)
        return found

    def counts_beyond(self, side: Side) -> Flags:
        """Which nodes patterns may hold, or lead on that side (to producers: come from) to nodes that they may hold."""
        if side.forward not in self._beyond:
            held = self.eligible_bits[self.graph_of]
            self._beyond[side.forward] = self.eligible | (side.reach & held).any(axis=1)
        return self._beyond[side.forward]

    def _add_gains(self, graphs: Sequence[MiningGraph]) -> None:
        """Gains of nodes, the greatest of those that can change places, and the sum of each graph's."""
        self.total_gains = np.array([sum(graph.gains) for graph in graphs])
        self.gains = np.zeros(len(self.local))
        if any(graph.gains for graph in graphs):
            own = [graph.gains or (0.0,) * len(graph.labels) for graph in graphs]
            self.gains = self.families.greatest(np.array([gain for gains in own for gain in gains], dtype=np.float64))
        self._gains_within: list[npt.NDArray[np.float64]] = []

    def gains_within(self, steps: int) -> npt.NDArray[np.float64]:
        """For each node the greatest gain among the nodes within so many steps that patterns may hold."""
        if not self._gains_within:
            self._gains_within.append(np.where(self.eligible, self.gains, 0.0))
        ahead = self.sides[0]
        source = np.repeat(np.arange(len(self.local)), np.diff(ahead.starts))
        inner = self.eligible[source] & self.eligible[ahead.other]
        source, target = source[inner], ahead.other[inner]
        while len(self._gains_within) <= steps:
            before = self._gains_within[-1]
            after = before.copy()
            np.maximum.at(after, source, before[target])
            np.maximum.at(after, target, before[source])
            self._gains_within.append(after)
        return self._gains_within[steps]

    def _tables(self, graphs: Sequence[MiningGraph], reaches: tuple[list[bytes], list[bytes]]) -> tuple[Side, Side]:
        numbers = self.vocabulary.kind_numbers
        columns: list[tuple[int, int, int, bool]] = []
        for graph, offset in zip(graphs, self.offsets.tolist(), strict=False):
            apart = set(graph.apart)
            columns.extend(
                (offset + p, offset + c, numbers[output, slot], (p, c) in apart) for p, output, c, slot in graph.edges
            )
        edges = np.array(columns, dtype=np.int32).reshape(-1, 4)
        total = len(self.local)
        sides = []
        for near, far, reached in ((0, 1, reaches[0]), (1, 0, reaches[1])):
            ordered = edges[np.argsort(edges[:, near], kind="stable")]
            reach = np.frombuffer(b"".join(reached), dtype="<u8")
            sides.append(
                Side(
                    starts=np.searchsorted(ordered[:, near], np.arange(total + 1)).astype(np.int32),
                    other=ordered[:, far].copy(),
                    kind=ordered[:, 2].copy(),
                    apart=ordered[:, 3].astype(np.bool_),
                    reach=reach.reshape(total, self.words).astype(np.uint64),
                    forward=near == 0,
                )
            )
        return sides[0], sides[1]

    def forget_growth(self) -> None:
        """Give back the memory of what only growth needs."""
        del self.sides, self._gains_within, self._beyond, self.eligible_bits, self.label, self.random, self.eligible
        self.steps = None

    def bits(self, rows: Integers, counted: Flags | None = None) -> Hashes:
        """Sets of nodes as bits: a row of words per set.

        Args:
            rows: the sets.
            counted: which of the nodes to take; all when None.
        """
        found = np.zeros(len(rows) * self.words, dtype=np.uint64)
        at = np.arange(len(rows))[:, None] * self.words + self.word[rows]
        bit = self.bit[rows]
        if counted is not None:
            bit[~counted] = 0
        np.add.at(found, at.ravel(), bit.ravel())
        return found.reshape(len(rows), self.words)


def _flags(graphs: Sequence[MiningGraph], masks: Sequence[int]) -> Flags:
    """Sets of each graph's nodes as a flag per node of the batch."""
    parts = []
    for mask, graph in zip(masks, graphs, strict=True):
        count = len(graph.labels)
        content = np.frombuffer((mask & ((1 << count) - 1)).to_bytes(-(-count // 8) or 1, "little"), dtype=np.uint8)
        parts.append(np.unpackbits(content, bitorder="little")[:count].astype(np.bool_))
    return np.concatenate(parts)
