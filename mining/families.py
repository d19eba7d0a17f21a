"""The families of many graphs as arrays: representatives, their orbits, and which extensions of them are enough."""

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.mining.compiled import compiled
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

    def first_of_equal(self, nodes: Integers) -> Integers:
        """For each node the one of those that it can change places with that stands for them: the first branch's."""
        first = nodes.copy()
        moved = np.flatnonzero(self.moved[nodes])
        own = nodes[moved]
        first[moved] = self._members[self._starts[self.family[own]] + self.place[own]]
        return first

    def greatest(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """For each node the greatest value among the nodes that it can change places with."""
        found = values.copy()
        for start, length, count in zip(
            self._starts.tolist(), self._lengths.tolist(), self.counts.tolist(), strict=False
        ):
            nodes = self._members[start : start + length * count].reshape(count, length)
            found[nodes] = values[nodes].max(axis=0)
        return found

    def multiples(self, sets: Numbers) -> tuple[Integers, Counts]:
        """Sets whose orbits have several members, by position, and how many.

        Args:
            sets: rows of nodes, each the representative of its orbit.
        """
        rows, starts, left, taken = _choices(sets, self.branches)
        if not len(rows):
            return rows, np.zeros(0, dtype=np.int64)
        counts = np.multiply.reduceat(self._binomials[left, taken], starts)
        several = counts > 1
        kind = np.int64 if counts.max() < SMALL >> 16 else object
        return rows[several], counts[several].astype(kind)


@compiled
def _choices(sets: Numbers, branches: Branches) -> tuple[Integers, Integers, Integers, Integers]:
    """How the branches that sets hold something of are chosen: those that hold the same, out of those that are left.

    Args:
        sets: rows of nodes, each the representative of its orbit: in each family the first branches hold something,
            those that hold the same one after the other.
        branches: all families.

    Returns:
        the rows that hold something of a family; for each where its choices begin; for each choice how many branches
        are left, and how many are taken.
    """
    states = np.zeros(branches.total, np.int64)
    touched = np.empty(sets.shape[1], np.int64)
    rows, starts = np.empty(len(sets), np.int64), np.empty(len(sets), np.int64)
    left, taken = np.empty(1024, np.int64), np.empty(1024, np.int64)
    found = made = 0
    for row in range(len(sets)):
        count = 0
        for node in sets[row]:
            if branches.family[node] >= 0:
                slot = branches.slot[node]
                if not states[slot]:
                    touched[count] = node
                    count += 1
                states[slot] |= np.int64(1) << np.int64(branches.place[node])
        if not count:
            continue
        rows[found], starts[found] = row, made
        found += 1
        if made + count > len(left):
            left, taken = _twice(left), _twice(taken)
        for at in range(count):
            node = touched[at]
            slot, branch = branches.slot[node], branches.branch[node]
            if branch == 0 or states[slot] != states[slot - 1]:
                equal = 1
                most = branches.counts[branches.family[node]] - branch
                while equal < most and states[slot + equal] == states[slot]:
                    equal += 1
                left[made], taken[made] = most, equal
                made += 1
        for at in range(count):
            states[branches.slot[touched[at]]] = 0
    return rows[:found].copy(), starts[:found].copy(), left[:made].copy(), taken[:made].copy()


@compiled
def _twice(values: Integers) -> Integers:
    """The same with as much room again."""
    return np.concatenate((values, values))
