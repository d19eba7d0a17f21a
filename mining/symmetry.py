"""Equal branches of a graph: what can change places without changing the graph.

Twenty-six equal embedding lookups that end in one Concat have 2^26 subsets, and all subsets of one size look the same.
The miner keeps one of them, the *representative*, and counts how many there are. A *family* is a list of disjoint
branches, each a list of nodes in matching order, such that exchanging any two branches is an automorphism of the graph.
Families are found by refining the graph's nodes into equitable cells: nodes that are alone in their cell stay where
they are under every automorphism; what remains falls into connected parts; parts of equal canonical form, attached
alike to the fixed nodes, are the branches of a family.

An occurrence is described on a family by its *states*: for each branch, the bits of the places it holds there. The
representative has its states in falling order; its orbit has as many members as there are distinct orders of the
states. Branches within branches, and symmetries of other kinds, are not collapsed: they cost time, never correctness.
"""

from collections.abc import Hashable, Iterator, Sequence
from math import comb, factorial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.mining.canonical import Adjacency, Form
from graphopt.mining.graphs import MiningGraph, members
from graphopt.mining.refinement import Flags, Integers
from graphopt.mining.tallies import SMALL, Counts

Occurrence = tuple[int, ...]
"""Nodes of an occurrence in the canonical order of its pattern."""

LONGEST_BRANCH = 63
"""Most nodes of a branch: what an occurrence holds of it is the bits of one number."""


class Symmetry:
    """Families of branches.

    Attributes:
        families: for each family its branches; nodes at equal places of two branches correspond.
        moved: bits of all nodes of all families.
    """

    def __init__(self, families: Sequence[tuple[tuple[int, ...], ...]]) -> None:
        self.families = tuple(families)
        self.moved = 0
        self._place: dict[int, tuple[int, int, int]] = {}
        self._held: dict[tuple[int, int], list[int]] = {}
        for family, branches in enumerate(self.families):
            for branch, nodes in enumerate(branches):
                for place, node in enumerate(nodes):
                    self._place[node] = (family, branch, place)
                    self.moved |= 1 << node

    @classmethod
    def of(cls, graph: MiningGraph) -> "Symmetry":
        """All families of a graph."""
        return cls(_families(graph))

    def states(self, mask: int) -> dict[int, dict[int, int]]:
        """For each family that the set touches, the states of the branches it touches."""
        states: dict[int, dict[int, int]] = {}
        for node in members(mask & self.moved):
            family, branch, place = self._place[node]
            branches = states.setdefault(family, {})
            branches[branch] = branches.get(branch, 0) | 1 << place
        return states

    def representative(self, mask: int, nodes: Occurrence) -> tuple[int, Occurrence]:
        """The representative of a set's orbit, and the given nodes moved along with it."""
        if not mask & self.moved:
            return mask, nodes
        moves: dict[int, int] = {}
        for family, states in self.states(mask).items():
            branches = self.families[family]
            for target, source in enumerate(sorted(states, key=lambda branch: (-states[branch], branch))):
                if source != target:
                    moves.update(zip(branches[source], branches[target], strict=True))
        if not moves:
            return mask, nodes
        image = mask
        for node in members(mask & self.moved):
            if node in moves:
                image ^= 1 << node
        for node in members(mask & self.moved):
            if node in moves:
                image |= 1 << moves[node]
        return image, tuple(moves.get(node, node) for node in nodes)

    def multiplicity(self, mask: int) -> int:
        """Number of sets in the orbit."""
        count = 1
        if mask & self.moved:
            for family, states in self.states(mask).items():
                total = len(self.families[family])
                count *= factorial(total) // factorial(total - len(states))
                values = list(states.values())
                for value in set(values):
                    count //= factorial(values.count(value))
        return count

    def _masks(self, family: int, state: int) -> list[int]:
        """For each branch of a family, bits of the nodes at the places of a state."""
        if (family, state) not in self._held:
            places = list(members(state))
            branches = self.families[family]
            self._held[family, state] = [sum(1 << branch[place] for place in places) for branch in branches]
        return self._held[family, state]

    def images(self, mask: int, nodes: Occurrence, blocked: int = 0) -> Iterator[Occurrence]:
        """Every set of the orbit once, the nodes in the order given.

        Args:
            mask: bits of the nodes.
            nodes: the nodes.
            blocked: bits of nodes that the images must not hold; they may change what is skipped, not what is repeated.
        """
        if not mask & self.moved:
            if not mask & blocked:
                yield nodes
            return
        if mask & ~self.moved & blocked:
            return
        yield from self._images(list(self.states(mask).items()), {}, nodes, blocked)

    def _images(
        self, left: list[tuple[int, dict[int, int]]], moves: dict[int, int], nodes: Occurrence, blocked: int
    ) -> Iterator[Occurrence]:
        if not left:
            yield tuple(moves.get(node, node) for node in nodes)
            return
        family, states = left[0]
        branches = self.families[family]
        by_state: dict[int, list[int]] = {}
        for branch in sorted(states):
            by_state.setdefault(states[branch], []).append(branch)
        sources = [branch for state in sorted(by_state, reverse=True) for branch in by_state[state]]
        free = {
            state: [target for target, held in enumerate(self._masks(family, state)) if not held & blocked]
            for state in by_state
        }

        def place(position: int, used: frozenset[int], chosen: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
            if position == len(sources):
                yield chosen
                return
            state = states[sources[position]]
            start = 0
            if position and states[sources[position - 1]] == state:
                start = chosen[-1] + 1
            for target in free[state]:
                if target < start or target in used:
                    continue
                yield from place(position + 1, used | {target}, (*chosen, target))

        for targets in place(0, frozenset(), ()):
            moved = dict(moves)
            for source, target in zip(sources, targets, strict=True):
                moved.update(zip(branches[source], branches[target], strict=True))
            yield from self._images(left[1:], moved, nodes, blocked)


class Families:
    """The families of several graphs, for many sets of nodes at once.

    Args:
        symmetries: the families of each graph.
        offsets: for each graph what its nodes' numbers start from.
    """

    def __init__(self, symmetries: Sequence[Symmetry], offsets: Integers) -> None:
        total = int(offsets[-1])
        self.family = np.full(total, -1, dtype=np.int32)
        self.branch = np.zeros(total, dtype=np.int32)
        self.place = np.zeros(total, dtype=np.uint8)
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


class Nested(NamedTuple):
    """An occurrence and a smaller one within it.

    Attributes:
        part: bits of the smaller one.
        whole: bits of the larger one.
    """

    part: int
    whole: int


def may_clash(symmetry: Symmetry, one: Nested, other: Nested) -> bool:
    """Whether two wholes, each as given or an image of that, can overlap while their parts do not.

    It is enough to move one of them. Fixed nodes stay; in each family the branches of the one that is moved are placed
    on different branches, such that parts do not meet. If that can be done at all, and fixed nodes of the wholes meet
    or the wholes meet on some branch of such a placement, they can clash.
    """
    if one.part & other.part & ~symmetry.moved:
        return False
    meets = bool(one.whole & other.whole & ~symmetry.moved)
    mine, others = symmetry.states(one.whole), symmetry.states(other.whole)
    inner, other_inner = symmetry.states(one.part), symmetry.states(other.part)
    for family in mine.keys() & others.keys():
        held = [(inner.get(family, {}).get(branch, 0), state) for branch, state in mine[family].items()]
        placed = [(other_inner.get(family, {}).get(branch, 0), state) for branch, state in others[family].items()]
        empty = len(symmetry.families[family]) - len(held)
        if not _placeable(held, placed, empty):
            return False
        if not meets:
            meets = any(
                not part & own_part
                and whole & own_whole
                and _placeable(held[:at] + held[at + 1 :], placed[:number] + placed[number + 1 :], empty)
                for number, (part, whole) in enumerate(placed)
                if (part, whole) not in placed[:number]
                for at, (own_part, own_whole) in enumerate(held)
                if (own_part, own_whole) not in held[:at]
            )
    return meets


def _placeable(held: Sequence[tuple[int, int]], placed: Sequence[tuple[int, int]], empty: int) -> bool:
    """Whether branches can be placed on different branches, some of them empty, so that no parts meet."""
    owner: dict[int, int] = {}

    def settled(number: int, seen: set[int]) -> bool:
        for at, (part, _) in enumerate(held):
            if at in seen or part & placed[number][0]:
                continue
            seen.add(at)
            if at not in owner or settled(owner[at], seen):
                owner[at] = number
                return True
        return False

    needed = len(placed) - empty
    return needed <= 0 or sum(settled(number, set()) for number in range(len(placed))) >= needed


def _families(graph: MiningGraph) -> list[tuple[tuple[int, ...], ...]]:
    """Families of equal branches, each with at least two branches."""
    colour = _rough_colours(graph)
    if len(set(colour)) == len(colour):
        return []
    apart = set(graph.apart)
    incoming = [
        [(p, o, 2 * s + ((p, node) in apart)) for p, o, s in edges] for node, edges in enumerate(graph.incoming)
    ]
    outgoing = [
        [(c, o, 2 * s + ((node, c) in apart)) for c, o, s in edges] for node, edges in enumerate(graph.outgoing)
    ]
    helper = Adjacency(incoming, outgoing)
    nodes = list(range(len(colour)))
    colour = helper.refine(nodes, colour)
    sizes: dict[int, int] = {}
    for value in colour:
        sizes[value] = sizes.get(value, 0) + 1
    groups: dict[Form, list[tuple[int, ...]]] = {}
    for part in helper.parts([node for node in nodes if sizes[colour[node]] > 1]):
        order = helper.order(part, colour)
        groups.setdefault(helper.form(order, colour), []).append(tuple(order))
    return [
        tuple(sorted(branches))
        for branches in groups.values()
        if len(branches) > 1 and len(branches[0]) <= LONGEST_BRANCH
    ]


def _rough_colours(graph: MiningGraph) -> list[int]:
    """Colours from all that leads to a node and all that follows from it: close to equitable, in two passes."""
    numbers: dict[Hashable, int] = {}

    def number(key: Hashable) -> int:
        return numbers.setdefault(key, len(numbers))

    down = [0] * len(graph.labels)
    up = [0] * len(graph.labels)
    for node in graph.topological:
        flags = (graph.eligible_nodes >> node & 1, *(group >> node & 1 for group in graph.single))
        down[node] = number(
            (graph.labels[node], flags, tuple(sorted((down[p], o, s) for p, o, s in graph.incoming[node])))
        )
    for node in reversed(graph.topological):
        up[node] = number((down[node], tuple(sorted((up[c], o, s) for c, o, s in graph.outgoing[node]))))
    ranks = {value: rank for rank, value in enumerate(sorted(set(up)))}
    return [ranks[value] for value in up]
