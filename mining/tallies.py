"""What shards say about patterns, as columns: tallies of shards add up."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.mining.refinement import Flags, Hashes, Integers

Counts = npt.NDArray[Any]
"""Whole numbers: 64 bits each where that is enough, Python's own otherwise."""

SMALL = 1 << 50
"""Totals of one shard below this are added up in 64 bits."""


class Tallies(NamedTuple):
    """A row per pattern, sorted by key.

    Attributes:
        keys: 128-bit hash of the pattern's canonical form, as two numbers.
        support: sum of the weights of the graphs that contain the pattern.
        occurrences: number of occurrences, each counted with the weight of its graph.
        first: the lowest index of a graph that contains it.
        shards: number of shards whose graphs contain it.
        bound: the most that it, or any pattern of the allowed size that contains it, can save; 0 where not asked.
    """

    keys: Hashes
    support: Counts
    occurrences: Counts
    first: Integers
    shards: Integers
    bound: npt.NDArray[np.float64]

    def of(self, rows: Integers | Flags) -> "Tallies":
        """Some of the rows."""
        return Tallies._make(column[rows] for column in self)


def joined_up(parts: Sequence[Tallies]) -> Tallies:
    """The rows of several tallies one after the other."""
    return Tallies._make(np.concatenate(columns) for columns in zip(*parts, strict=True))


def combined(shards: Sequence[Tallies]) -> Tallies:
    """The tallies of all shards together."""
    if len(shards) == 1:
        return shards[0]
    joined = joined_up(shards)
    order = by_key(joined.keys)
    joined = joined.of(order)
    start = np.ones(len(joined.keys), dtype=np.bool_)
    start[1:] = (joined.keys[1:] != joined.keys[:-1]).any(axis=1)
    starts = np.flatnonzero(start)
    if not len(starts):
        return joined
    return Tallies(
        keys=joined.keys[starts],
        support=np.add.reduceat(joined.support, starts),
        occurrences=np.add.reduceat(joined.occurrences, starts),
        first=np.minimum.reduceat(joined.first, starts),
        shards=np.add.reduceat(joined.shards, starts),
        bound=np.add.reduceat(joined.bound, starts),
    )


def by_key(keys: Hashes) -> Integers:
    """The order that sorts keys."""
    return np.lexsort((keys[:, 1], keys[:, 0]))


def located(keys: Hashes, among: Hashes) -> Integers:
    """For each key its row among sorted keys; -1 where it is missing."""
    if not len(among) or not len(keys):
        return np.full(len(keys), -1, dtype=np.int64)
    low = np.searchsorted(among[:, 0], keys[:, 0])
    high = np.searchsorted(among[:, 0], keys[:, 0], side="right")
    found = np.full(len(keys), -1, dtype=np.int64)
    for step in range(int((high - low).max(initial=0))):
        at = np.minimum(low + step, len(among) - 1)
        hit = (low + step < high) & (among[at, 1] == keys[:, 1])
        found[hit] = at[hit]
    return found
