"""Whether larger occurrences overlap only where smaller ones in them do: the second condition of closedness.

Rows stand for all images of an occurrence under the exchange of equal branches (symmetry.py), so this is asked of every
two images of two rows. It is enough to move one of them. Nodes outside of the families stay; in each family the
branches that it holds are placed on different branches such that no smaller occurrences meet: a matching in the graph
of branches that do not. If there is none in some family, the smaller ones always overlap. If there is one in each, and
nodes that stay are in both larger occurrences, or these meet on some branch of such a placement, they clash.
"""

from typing import NamedTuple

import numpy as np

from graphopt.mining.batch import Batch
from graphopt.mining.compiled import compiled
from graphopt.mining.families import Branches
from graphopt.mining.levels import Numbers, at_least_two_bytes
from graphopt.mining.links import Links
from graphopt.mining.refinement import Flags, Hashes, Integers


def clashing(batch: Batch, links: Links, chosen: Flags) -> Flags:
    """For each pair of patterns whether larger occurrences overlap somewhere where the smaller ones do not.

    Args:
        batch: the graphs.
        links: the pairs.
        chosen: which of them are asked for; False for all others.
    """
    below, above = batch.levels[-2:]
    several = np.zeros(len(above), dtype=np.bool_)
    several[above.multiples] = True
    return _clashing(
        links,
        chosen,
        at_least_two_bytes(below.nodes),
        at_least_two_bytes(above.nodes),
        several,
        batch.graph_of,
        batch.local,
        batch.words,
        batch.families.branches,
    )


ABSENT = -2
"""Says of a node that no row asks for it; less than any number of a row, and than -1 for none."""


class _Held(NamedTuple):
    """For each row what the larger occurrence, and the smaller one within it, hold.

    Attributes:
        part: bits of those nodes of the smaller one that stay.
        whole: bits of those of the larger one.
        touched: number of branches that the larger one holds anything of.
        family: family of each of them, rising; see Branches.
        branch: each one's number in that, rising within a family.
        inner: bits of the places that the smaller one holds there.
        outer: bits of those of the larger one.
    """

    part: Hashes
    whole: Hashes
    touched: Integers
    family: Integers
    branch: Integers
    inner: Integers
    outer: Integers


@compiled
def _room(rows: int, words: int, size: int) -> _Held:
    """Room for what rows of so many nodes hold."""
    return _Held(
        np.empty((rows, words), np.uint64),
        np.empty((rows, words), np.uint64),
        np.empty(rows, np.int64),
        np.empty((rows, size), np.int64),
        np.empty((rows, size), np.int64),
        np.empty((rows, size), np.int64),
        np.empty((rows, size), np.int64),
    )


@compiled
def _clashing(
    links: Links,
    chosen: Flags,
    inner: Numbers,
    outer: Numbers,
    several: Flags,
    graph_of: Numbers,
    local: Numbers,
    words: int,
    branches: Branches,
) -> Flags:
    """See clashing.

    Args:
        links: see there.
        chosen: see there.
        inner: nodes of the smaller occurrences.
        outer: nodes of the larger ones.
        several: which of these stand for several occurrences.
        graph_of: for each node the position of its graph.
        local: its number in its graph.
        words: words of 64 nodes in a set.
        branches: equal branches.
    """
    found = np.zeros(len(chosen), np.bool_)
    size = outer.shape[1]
    # The last group of rows, and the last row of a group, that holds each node.
    seen, last = np.zeros(len(local), np.int32), np.full(len(local), ABSENT, np.int64)
    group = 0
    before = np.empty((16, size), np.int64)
    held = _room(16, words, size)
    scratch = np.empty((5, size + 1), np.int64)
    for pair in range(len(chosen)):
        high = links.starts[pair] if chosen[pair] else links.starts[pair + 1]
        while high < links.starts[pair + 1] and not found[pair]:
            # All rows in one graph.
            low = high
            graph = graph_of[links.node[low]]
            while high < links.starts[pair + 1] and graph_of[links.node[high]] == graph:
                high += 1
            parents, children, added = links.parents[low:high], links.children[low:high], links.node[low:high]
            count = high - low
            if count == 1 and not several[children[0]]:
                continue
            # Where all smaller occurrences share a node that stays, none are disjoint; most often at one place.
            if _at_one_place(inner, parents, branches.family):
                continue
            if count > len(before):
                before, held = np.empty((2 * count, size), np.int64), _room(2 * count, words, size)
            moving = overlapping = False
            group += 1
            for row in range(count):
                for place in range(size):
                    node = outer[children[row], place]
                    overlapping |= seen[node] == group
                    moving |= branches.family[node] >= 0
                    seen[node] = group
            if not (moving or overlapping):
                continue
            for row in range(count):
                if moving:
                    _hold(held, row, inner[parents[row]], outer[children[row]], added[row], local, branches)
                else:
                    held.touched[row] = 0
                    for word in range(words):
                        held.part[row, word] = 0
                    for place in range(size - 1):
                        own = local[inner[parents[row], place]]
                        held.part[row, own >> 6] |= np.uint64(1) << np.uint64(own & 63)
            shared = False
            for word in range(words):
                common = held.part[0, word]
                for row in range(1, count):
                    common &= held.part[row, word]
                shared = shared or common != 0
            if shared:
                continue
            for one in range(count if moving else 0):
                if held.touched[one]:
                    for other in range(count):
                        if (other >= one or not held.touched[other]) and not found[pair]:
                            found[pair] = _may_clash(held, one, other, branches, scratch)
            # Where nothing moves: for each added node the last row that holds it, for each row the one before that.
            for row in range(count):
                last[added[row]] = -1
            for row in range(count):
                for place in range(size if not held.touched[row] else 0):
                    node = outer[children[row], place]
                    if last[node] > ABSENT:
                        before[row, place] = last[node]
                        last[node] = row
            for row in range(count):
                other = last[added[row]] if not held.touched[row] else -1
                while other >= 0 and not found[pair]:
                    found[pair] = not _meet(held.part, row, other)
                    place = 0
                    while outer[children[other], place] != added[row]:
                        place += 1
                    other = before[other, place]
            for row in range(count):
                last[added[row]] = ABSENT
    return found


@compiled
def _at_one_place(rows: Numbers, chosen: Numbers, family: Numbers) -> bool:
    """Whether some rows have a node without family in common at the same place."""
    for place in range(rows.shape[1]):
        node = rows[chosen[0], place]
        same = family[node] < 0
        for row in chosen:
            same = same and rows[row, place] == node
        if same:
            return True
    return False


@compiled
def _meet(sets: Hashes, one: int, other: int) -> bool:
    """Whether two sets of nodes have one in common."""
    found = False
    for word in range(sets.shape[1]):
        found = found or (sets[one, word] & sets[other, word]) != 0
    return found


@compiled
def _hold(
    held: _Held, row: int, inner: Numbers, outer: Numbers, added: int, local: Numbers, branches: Branches
) -> None:
    """Find what an occurrence, and the smaller one within it, hold.

    Args:
        held: takes it.
        row: at which place.
        inner: the smaller occurrence that a step of growth starts from.
        outer: the larger one that it leads to, or an image of that.
        added: the node that the step adds.
        local: for each node its number in its graph.
        branches: equal branches.
    """
    one = np.uint64(1)
    held.part[row] = 0
    held.whole[row] = 0
    families, numbers, states = held.family[row], held.branch[row], held.outer[row]
    count = 0
    for node in outer:
        if branches.family[node] < 0:
            held.whole[row, local[node] >> 6] |= one << np.uint64(local[node] & 63)
            if node != added:
                held.part[row, local[node] >> 6] |= one << np.uint64(local[node] & 63)
            continue
        family, branch = np.int64(branches.family[node]), np.int64(branches.branch[node])
        place = np.int64(1) << np.int64(branches.place[node])
        at = count
        while at > 0 and (families[at - 1] > family or (families[at - 1] == family and numbers[at - 1] > branch)):
            at -= 1
        if at > 0 and families[at - 1] == family and numbers[at - 1] == branch:
            states[at - 1] |= place
        else:
            for later in range(count, at, -1):
                families[later], numbers[later] = families[later - 1], numbers[later - 1]
                states[later] = states[later - 1]
            families[at], numbers[at], states[at] = family, branch, place
            count += 1
    held.touched[row] = count
    held.inner[row, :count] = states[:count]
    if branches.family[added] >= 0:
        # The image of the smaller occurrence lacks the added node in a branch that holds as much as the one it is in.
        state = np.int64(0)
        for node in inner:
            if branches.family[node] >= 0 and branches.slot[node] == branches.slot[added]:
                state |= np.int64(1) << np.int64(branches.place[node])
        whole = state | np.int64(1) << np.int64(branches.place[added])
        at = 0
        while families[at] != branches.family[added] or states[at] != whole:
            at += 1
        held.inner[row, at] = state


@compiled
def _may_clash(held: _Held, one: int, other: int, branches: Branches, scratch: Integers) -> bool:
    """Whether two larger occurrences or images of them can overlap while the smaller ones within them do not.

    Args:
        held: what all of them hold.
        one: the first.
        other: the second.
        branches: equal branches.
        scratch: room for numbers of branches, five rows.
    """
    if _meet(held.part, one, other):
        return False
    meets = _meet(held.whole, one, other)
    first = second = 0
    while first < held.touched[one] and second < held.touched[other]:
        family, other_family = held.family[one, first], held.family[other, second]
        low, other_low = first, second
        while family <= other_family and first < held.touched[one] and held.family[one, first] == family:
            first += 1
        while other_family <= family and second < held.touched[other] and held.family[other, second] == other_family:
            second += 1
        if family != other_family:
            continue
        empty = branches.counts[family] - (first - low)
        inner, placed = held.inner[one, low:first], held.inner[other, other_low:second]
        if _placeable(inner, placed, -1, -1, scratch) < len(placed) - empty:
            return False
        outer, wholes = held.outer[one, low:first], held.outer[other, other_low:second]
        for number in range(len(placed)):
            for at in range(len(inner)):
                if not meets and not inner[at] & placed[number] and outer[at] & wholes[number]:
                    known = False  # Branches that hold the same make no difference.
                    for before in range(number):
                        known = known or (placed[before] == placed[number] and wholes[before] == wholes[number])
                    for before in range(at):
                        known = known or (inner[before] == inner[at] and outer[before] == outer[at])
                    meets = not known and _placeable(inner, placed, at, number, scratch) >= len(placed) - 1 - empty
    return meets


@compiled
def _placeable(held: Integers, placed: Integers, left_out: int, without: int, scratch: Integers) -> int:
    """How many branches can be placed on different others at most, such that no parts meet: a matching.

    Args:
        held: what the others hold.
        placed: what the branches hold.
        left_out: one of the others that counts as absent; -1 for none.
        without: a branch that counts as absent; -1 for none.
        scratch: room for numbers, five rows.
    """
    owner, mate, reached_by, seen, queue = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    owner[:], mate[:] = -1, -1
    found = 0
    for number in range(len(placed)):
        if number == without:
            continue
        # Breadth first over branches that would have to move for this one.
        seen[:] = 0
        queue[0] = number
        first, end, free = 0, 1, -1
        while first < end and free < 0:
            for at in range(len(held)):
                if free < 0 and at != left_out and not seen[at] and not held[at] & placed[queue[first]]:
                    seen[at], reached_by[at] = 1, queue[first]
                    if owner[at] < 0:
                        free = at
                    else:
                        queue[end] = owner[at]
                        end += 1
            first += 1
        found += free >= 0
        while free >= 0:
            mover = reached_by[free]
            owner[free] = mover
            free, mate[mover] = mate[mover], free
    return found
