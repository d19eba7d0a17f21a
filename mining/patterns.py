"""The patterns of one size in one shard, as columns."""

from functools import cached_property

import numpy as np

from graphopt.mining.canonical import PADDING, Forms, Vocabulary
from graphopt.mining.compiled import compiled
from graphopt.mining.hashing import empty_slots, home, slot_of
from graphopt.mining.refinement import Flags, Hashes, Integers, spread_out
from graphopt.mining.tallies import by_key


class Patterns:
    """The patterns of one size in one shard, numbered as they appear.

    Attributes:
        size: nodes of each pattern.
        labels: a row of labels per pattern, in canonical order.
        starts: for each pattern where its edges begin, and where the last one's end.
        edges: packed edges of all patterns, see Vocabulary.
        keys: 128-bit hash of each form.
        rigid: for each pattern and place whether every automorphism of the pattern leaves it where it is, as far as
            refinement can tell.
        ids: number of each pattern among all shards' frequent patterns of all sizes, rising, once that is known.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.labels: Integers = np.zeros((0, size), dtype=np.int64)
        self.starts: Integers = np.zeros(1, dtype=np.int64)
        self.edges: Integers = np.zeros(0, dtype=np.int64)
        self.keys: Hashes = np.zeros((0, 2), dtype=np.uint64)
        self.rigid: Flags = np.zeros((0, size), dtype=np.bool_)
        self.ids: Integers = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def by_key(self) -> Integers:
        """The order that sorts the patterns by key."""
        return by_key(self.keys)

    def numbered(self, forms: Forms, vocabulary: Vocabulary) -> Integers:
        """Numbers of patterns in canonical form; those that are new are made known.

        Raises:
            RuntimeError: two different forms have the same 128-bit hash.
        """
        labels, edges = forms.labels, forms.edges
        keys = vocabulary.keys(labels, edges)
        found, new = _found(self.keys, keys)
        if len(new):
            self.__dict__.pop("by_key", None)
            starts, packed = _packed(edges, new)
            self.labels = np.concatenate([self.labels, labels[new]])
            self.starts = np.concatenate([self.starts, self.starts[-1] + starts[1:]])
            self.edges = np.concatenate([self.edges, packed])
            self.keys = np.concatenate([self.keys, keys[new]])
            self.rigid = np.concatenate([self.rigid, forms.rigid[new]])
        if not _same(self.labels, self.starts, self.edges, found, labels, edges):
            raise RuntimeError("two different patterns have the same 128-bit hash")
        return found

    def kept(self, rows: Integers, ids: Integers) -> "Patterns":
        """Some of the patterns, renumbered, with their numbers among all shards' patterns."""
        found = Patterns(self.size)
        lengths = (self.starts[1:] - self.starts[:-1])[rows]
        found.labels = self.labels[rows]
        found.edges = self.edges[spread_out(self.starts[rows], lengths)]
        found.starts = np.concatenate([[0], np.cumsum(lengths)])
        found.keys = self.keys[rows]
        found.rigid = self.rigid[rows]
        found.ids = ids
        return found


@compiled
def _found(known: Hashes, keys: Hashes) -> tuple[Integers, Integers]:
    """Numbers of keys: their rows among those that are known, and rows beyond for those that are new, as they come.

    Args:
        known: different keys, a row of two numbers each.
        keys: keys.

    Returns:
        for each key its number; for each new number the first row of ``keys`` that has it.
    """
    every = np.concatenate((known, keys))
    hashes, first = np.empty(len(every), np.uint64), np.empty(len(every), np.int64)
    slots, found = empty_slots(len(every)), np.empty(len(every), np.int64)
    numbers = 0
    for row in range(len(every)):
        value = every[row, 0]
        slot = slot_of(slots, hashes, value, home(slots, value))
        while slots[slot] >= 0 and every[first[slots[slot]], 1] != every[row, 1]:
            slot = slot_of(slots, hashes, value, slot + 1)
        if slots[slot] < 0:
            slots[slot] = numbers
            first[numbers], hashes[numbers] = row, value
            numbers += 1
        found[row] = slots[slot]
    return found[len(known) :].copy(), first[len(known) : numbers] - len(known)


@compiled
def _packed(edges: Integers, rows: Integers) -> tuple[Integers, Integers]:
    """Some rows of edges one after the other: where each begins, and where the last one ends; without their padding."""
    starts = np.zeros(len(rows) + 1, np.int64)
    found = np.empty(len(rows) * edges.shape[1], np.int64)
    for at, row in enumerate(rows):
        end = starts[at]
        for edge in edges[row]:
            if edge == PADDING:
                break
            found[end] = edge
            end += 1
        starts[at + 1] = end
    return starts, found[: starts[-1]].copy()


@compiled
def _same(
    known_labels: Integers, starts: Integers, known: Integers, numbers: Integers, labels: Integers, edges: Integers
) -> bool:
    """Whether forms are those of the patterns with these numbers.

    Args:
        known_labels: see Patterns.
        starts: see Patterns.
        known: edges, see Patterns.
        numbers: a pattern for each form.
        labels: see Forms.
        edges: see Forms.
    """
    same = True
    for row, number in enumerate(numbers):
        for place in range(labels.shape[1]):
            same &= known_labels[number, place] == labels[row, place]
        count = starts[number + 1] - starts[number]
        for at in range(edges.shape[1]):
            same &= edges[row, at] == (known[starts[number] + at] if at < count else PADDING)
        same &= count <= edges.shape[1]
    return same
