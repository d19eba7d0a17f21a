"""The families of many graphs as arrays: representatives, their orbits, and which extensions of them are enough."""

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.mining.levels import Numbers
from graphopt.mining.refinement import Integers
from graphopt.mining.symmetry import Symmetry
from graphopt.mining.tallies import SMALL, Counts


class Branches(NamedTuple):
    """Equal branches as flat tables.

    Attributes:
        family: for each node its family, -1 for none.
        branch: for each node its branch in the family.
        place: for each node its place in the branch.
        slot: for each node the number of its branch among those of all families, one family after the other.
        starts: for each family where its nodes begin, branch by branch.
        lengths: for each family the nodes of a branch.
        counts: for each family the number of its branches.
        members: the nodes.
        total: number of branches of all families.
    """

    family: Numbers
    branch: Numbers
    place: Numbers
    slot: Numbers
    starts: Integers
    lengths: Integers
    counts: Integers
    members: Integers
    total: int


class Families:
    """The families of several graphs, for many sets of nodes at once.

    Args:
        symmetries: the families of each graph.
        offsets: for each graph what its nodes' numbers start from.
    """

    def __init__(self, symmetries: Sequence[Symmetry], offsets: Integers) -> None:
        total = int(offsets[-1])
        self.family: Numbers = np.full(total, -1, dtype=np.int32)
        self.branch: Numbers = np.zeros(total, dtype=np.int32)
        self.place: Numbers = np.zeros(total, dtype=np.uint8)
        starts, lengths, counts = [0], list[int](), list[int]()
        members: list[Integers] = []
        for symmetry, offset in zip(symmetries, offsets.tolist(), strict=False):
            for branches in symmetry.families:
                nodes = np.array(branches, dtype=np.int64) + offset
                self.family[nodes] = len(counts)
                self.branch[nodes] = np.arange(nodes.shape[0])[:, None]
                self.place[nodes] = np.arange(nodes.shape[1])
                counts.append(nodes.shape[0])
                lengths.append(nodes.shape[1])
                members.append(nodes.ravel())
                starts.append(starts[-1] + nodes.size)
        self._starts, self._lengths, self.counts = (np.array(row, dtype=np.int64) for row in (starts, lengths, counts))
        self._members = np.concatenate([np.zeros(0, dtype=np.int64), *members])
        self.moved = self.family >= 0
        slots = np.concatenate([[0], np.cumsum(self.counts)])
        self.branches = Branches(
            self.family,
            self.branch,
            self.place,
            (slots[self.family] + self.branch).astype(np.int32),
            self._starts,
            self._lengths,
            self.counts,
            self._members,
            int(slots[-1]),
        )
        most = max(counts, default=0)
        self._binomials = np.array([[comb(n, k) for k in range(most + 1)] for n in range(most + 1)], dtype=object)

    def representatives(self, sets: Integers) -> Integers:
        """The representative of each set's orbit: a row of nodes per set, in the order of the nodes given."""
        touched = np.flatnonzero(self.moved[sets].any(axis=1))
        if not len(touched):
            return sets
        rows = sets[touched]
        row, column, held, part = self._held(rows)
        # Within a set and a family: the greatest state to the first branch.
        order = np.lexsort((part.branch, ~part.state, part.family, part.row))
        change = np.ones(len(order), dtype=np.bool_)
        sorted_row, sorted_family = part.row[order], part.family[order]
        change[1:] = (sorted_row[1:] != sorted_row[:-1]) | (sorted_family[1:] != sorted_family[:-1])
        starts = np.flatnonzero(change)
        target = np.empty(len(order), dtype=np.int64)
        target[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
        nodes = rows[row, column]
        family = self.family[nodes]
        image = self._members[self._starts[family] + target[held] * self._lengths[family] + self.place[nodes]]
        rows[row, column] = image
        result = sets.copy()
        result[touched] = rows
        return result

    def greatest(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """For each node the greatest value among the nodes that it can change places with."""
        found = values.copy()
        for start, length, count in zip(
            self._starts.tolist(), self._lengths.tolist(), self.counts.tolist(), strict=False
        ):
            nodes = self._members[start : start + length * count].reshape(count, length)
            found[nodes] = values[nodes].max(axis=0)
        return found

    def multiples(self, sets: Integers) -> tuple[Integers, Counts]:
        """Sets whose orbits have several members, by position, and how many."""
        touched = np.flatnonzero(self.moved[sets].any(axis=1))
        if not len(touched):
            return touched, np.zeros(0, dtype=np.int64)
        _, _, _, part = self._held(sets[touched])
        # Branches with the same state are a choice out of those that are left.
        order = np.lexsort((part.state, part.family, part.row))
        row, family, state = part.row[order], part.family[order], part.state[order]
        set_start = np.ones(len(order), dtype=np.bool_)
        set_start[1:] = (row[1:] != row[:-1]) | (family[1:] != family[:-1])
        run_start = set_start.copy()
        run_start[1:] |= state[1:] != state[:-1]
        runs = np.flatnonzero(run_start)
        length = np.diff(runs, append=len(order))
        begin = np.maximum.accumulate(np.where(set_start, np.arange(len(order)), 0))[runs]
        choices = self._binomials[self.counts[family[runs]] - (runs - begin), length]
        row_start = np.ones(len(runs), dtype=np.bool_)
        row_start[1:] = row[runs][1:] != row[runs][:-1]
        product = np.multiply.reduceat(choices, np.flatnonzero(row_start))
        several = product > 1
        kind = np.int64 if product.max() < SMALL >> 16 else object
        return touched[several], product[several].astype(kind)

    def _held(self, rows: Integers) -> tuple[Integers, Integers, Integers, "_Held"]:
        """What sets hold of branches: row and column of each node in a family, which entry it belongs to; entries."""
        row, column = np.nonzero(self.moved[rows])
        nodes = rows[row, column]
        family, branch = self.family[nodes], self.branch[nodes]
        number = (row * len(self.counts) + family) * int(self.counts.max()) + branch
        _, first, held = np.unique(number, return_index=True, return_inverse=True)
        held = held.ravel()
        state = np.zeros(len(first), dtype=np.int64)
        np.add.at(state, held, np.int64(1) << self.place[nodes])
        return row, column, held, _Held(row[first], family[first], branch[first], state)


class _Held(NamedTuple):
    """For each set and branch that it touches: bits of the places it holds there."""

    row: Integers
    family: Integers
    branch: Integers
    state: Integers
