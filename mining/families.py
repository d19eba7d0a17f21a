"""The families of many graphs as arrays: representatives, their orbits, and which extensions of them are enough."""

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.mining.levels import Numbers
from graphopt.mining.refinement import Flags, Integers
from graphopt.mining.symmetry import Symmetry
from graphopt.mining.tallies import SMALL, Counts


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
        self._starts, self._lengths, self.counts = np.array(starts), np.array(lengths), np.array(counts)
        self._members = np.concatenate([np.zeros(0, dtype=np.int64), *members])
        self.moved = self.family >= 0
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

    def open_branches(self, sets: Integers) -> "OpenBranches":
        """For representatives: which nodes lead to the same larger sets, but for exchanges of branches."""
        touched = np.flatnonzero(self.moved[sets].any(axis=1))
        number = state = np.zeros(0, dtype=np.int64)
        if len(touched):
            _, _, _, part = self._held(sets[touched])
            number = (touched[part.row] * len(self.counts) + part.family) * int(self.counts.max()) + part.branch
            state = part.state
        return OpenBranches(self, number, state)

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


class OpenBranches:
    """Which nodes extend representatives: of branches of which a set holds the same, only the first.

    Args:
        families: the families.
        number: sorted numbers of (set, family, branch) that sets touch.
        state: for each, the bits of the places held there.
    """

    def __init__(self, families: Families, number: Integers, state: Integers) -> None:
        self._families = families
        self._number = number
        self._state = state

    def first_of_equals(self, row: Integers, node: Integers) -> tuple[Integers, Flags, Flags]:
        """Which of some extensions are enough.

        Args:
            row: the set of each extension.
            node: its new node.

        Returns:
            positions of extensions; for each, whether it stands for several, and whether it leads to a set that may
            not be a representative.
        """
        families = self._families
        moved = families.moved[node]
        if not moved.any():
            none = np.zeros(len(row), dtype=np.bool_)
            return np.arange(len(row)), none, none
        at = np.flatnonzero(moved)
        family, branch = families.family[node[at]], families.branch[node[at]]
        most = families.counts[family]
        number = (row[at] * len(families.counts) + family) * int(families.counts.max()) + branch
        own = self._held(number)
        before = np.where(branch == 0, np.iinfo(np.int64).max, self._held(number - 1))
        first = before != own
        again = (branch + 1 < most) & (self._held(number + 1) == own)
        kept = np.ones(len(row), dtype=np.bool_)
        kept[at] = first
        several = np.zeros(len(row), dtype=np.bool_)
        several[at] = again
        astray = np.zeros(len(row), dtype=np.bool_)
        astray[at] = (own | np.int64(1) << families.place[node[at]]) > before
        return np.flatnonzero(kept), several[kept], astray[kept]

    def _held(self, number: Integers) -> Integers:
        """What sets hold of branches: 0 for nothing."""
        if not len(self._number):
            return np.zeros(len(number), dtype=np.int64)
        at = np.minimum(np.searchsorted(self._number, number), len(self._number) - 1)
        return np.where(self._number[at] == number, self._state[at], 0)


class _Held(NamedTuple):
    """For each set and branch that it touches: bits of the places it holds there."""

    row: Integers
    family: Integers
    branch: Integers
    state: Integers
