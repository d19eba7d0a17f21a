"""All steps of growth from some occurrences, and the larger occurrences that they lead to, in one compiled pass.

Row by row: mark the nodes of the occurrence, go through their edges to find its neighbours on either side, drop those
that a path from another neighbour leads to (see growth.py), and look each set that is left up among those of its graph.
"""

from typing import NamedTuple

import numpy as np

from graphopt.mining.batch import Side
from graphopt.mining.compiled import compiled
from graphopt.mining.families import Branches
from graphopt.mining.hashing import empty_slots, home, more_slots, slot_of
from graphopt.mining.levels import Numbers
from graphopt.mining.refinement import Flags, Hashes, Integers


class Nodes(NamedTuple):
    """What growth asks of nodes, for each node of a batch.

    Attributes:
        local: its number in its graph.
        label: number of its label.
        random: a random number.
        eligible: whether patterns may hold it.
    """

    local: Numbers
    label: Numbers
    random: Hashes
    eligible: Flags


class Larger(NamedTuple):
    """Occurrences that others grow to.

    Attributes:
        nodes: a row for each: the nodes of the occurrence that was grown, or their images, and the new one.
        row: the occurrence that it was first grown from.
        label: label of the new node.
        starts: where the edges of the new node begin, and where the last one's end.
        edges: for each edge twice its place in the occurrence that was grown, and one more where it leads to the new
            node; times the number of kinds, and its kind. In order.
    """

    nodes: Numbers
    row: Numbers
    label: Numbers
    starts: Numbers
    edges: Integers


class _Occurrence(NamedTuple):
    """The occurrence that is being grown.

    Attributes:
        nodes: its nodes, and the one that is added, or their images.
        bits: the same as bits, in words.
        states: for each equal branch the bits of the places that the occurrence holds there.
    """

    nodes: Integers
    bits: Hashes
    states: Integers


class _Neighbours(NamedTuple):
    """The neighbours of an occurrence on one side, numbered as they come, and the edges to them.

    Attributes:
        marks: for each node of the batch a number that says whether it is in the occurrence, or which neighbour it is.
        node: for each neighbour the node.
        apart: whether it may not be in an occurrence with one of the nodes that it has an edge to.
        first: its first edge.
        last: its last one.
        way: for each edge what Larger.edges says.
        following: the neighbour's next edge, -1 for none.
        beyond: bits, in words, of what a path leads to from any neighbour.
    """

    marks: Integers
    node: Numbers
    apart: Flags
    first: Numbers
    last: Numbers
    way: Integers
    following: Numbers
    beyond: Hashes


@compiled
def expanded(
    rows: Numbers,
    graphs: Numbers,
    nodes: Nodes,
    ahead: Side,
    behind: Side,
    branches: Branches,
    kinds: int,
    budget: int,
) -> tuple[tuple[Numbers, Numbers, Numbers, Flags, Flags], Larger, Integers]:
    """All steps of growth from some occurrences, and what they lead to.

    Args:
        rows: the occurrences: rows of nodes.
        graphs: the graph of each, rising.
        nodes: all nodes.
        ahead: the edges to consumers.
        behind: the edges to producers.
        branches: equal branches; occurrences are representatives.
        kinds: number of kinds of edges.
        budget: the most rows that a graph may have; a graph that is over it has no steps.

    Returns:
        the steps: for each the occurrence, the larger one, the new node, whether equal branches give more such steps,
        whether the node is a consumer; the larger occurrences; the first row of each graph that is over the budget.
    """
    count, size = rows.shape
    total, words = ahead.reach.shape
    own = _Occurrence(np.empty(size + 1, np.int64), np.zeros(words, np.uint64), np.zeros(branches.total + 1, np.int64))
    near = _Neighbours(
        np.zeros(total, np.int64),
        np.empty(total, np.int32),
        np.empty(total, np.bool_),
        np.empty(total, np.int32),
        np.empty(total, np.int32),
        np.empty(len(ahead.other), np.int64),
        np.empty(len(ahead.other), np.int32),
        np.empty(words, np.uint64),
    )
    unmarked = 1
    # Steps: row, larger occurrence, node, flags. Larger occurrences: nodes; row, label, where the edges end; edges.
    steps = np.empty((1024, 4), np.int32)
    held, about, edges = np.empty((256, size + 1), np.int32), np.empty((256, 3), np.int32), np.empty(1024, np.int64)
    # The larger occurrences of one graph.
    hashes, sets = np.empty(256, np.uint64), np.empty((256, words), np.uint64)
    cut = np.empty(0, np.int64)
    made = reached = written = row = 0
    while row < count:
        begin, made_before, reached_before, written_before = row, made, reached, written
        # A larger occurrence is reached in as many ways as it has nodes at most.
        most = made + budget * (size + 1)
        slots = empty_slots(0)
        while row < count and graphs[row] == graphs[begin] and made <= most and reached - reached_before <= budget:
            own_hash = _enter(rows, row, nodes, branches, own, near.marks)
            for onward in (True, False):
                if onward:
                    found, crossing = _look_around(rows, row, ahead, onward, kinds, near, unmarked)
                else:
                    found, crossing = _look_around(rows, row, behind, onward, kinds, near, unmarked)
                unmarked += found
                if made + found > len(steps):
                    steps = _roomier_rows(steps, made + found)
                if reached + found > len(held):
                    held, about = _roomier_rows(held, reached + found), _roomier_rows(about, reached + found)
                if written + crossing > len(edges):
                    edges = _roomier(edges, written + crossing)
                known = reached - reached_before
                if known + found > len(hashes):
                    hashes, sets = _roomier(hashes, known + found), _roomier_rows(sets, known + found)
                if 2 * (known + found) > len(slots):
                    slots = more_slots(hashes, known, known + found)
                for neighbour in range(found):
                    node = near.node[neighbour]
                    if near.apart[neighbour] or not nodes.eligible[node] or _holds(near.beyond, nodes.local[node]):
                        continue
                    # Of equal branches the first is extended; one that then holds more than others changes places.
                    several, target = False, -1
                    if branches.family[node] >= 0:
                        slot = branches.slot[node]
                        if branches.branch[node] > 0 and own.states[slot - 1] == own.states[slot]:
                            continue
                        several, target = _extended(node, branches, own.states)
                    if target < 0:
                        own.nodes[size] = node
                        own.bits[nodes.local[node] >> 6] ^= _bit(nodes.local[node])
                        value = own_hash + nodes.random[node]
                    else:
                        value = _rearrange(rows, row, node, target, nodes, branches, own)
                    slot = slot_of(slots, hashes, value, home(slots, value))
                    while slots[slot] >= 0 and not _equal(sets, slots[slot], own.bits):
                        slot = slot_of(slots, hashes, value, slot + 1)
                    known = slots[slot]
                    if known < 0:
                        known = reached - reached_before
                        slots[slot] = known
                        hashes[known] = value
                        for word in range(words):
                            sets[known, word] = own.bits[word]
                        for place in range(size + 1):
                            held[reached, place] = own.nodes[place]
                        written = _write_edges(near, neighbour, edges, written)
                        about[reached, 0], about[reached, 1], about[reached, 2] = row, nodes.label[node], written
                        reached += 1
                    steps[made, 0], steps[made, 1], steps[made, 2] = row, reached_before + known, node
                    steps[made, 3] = 2 * several + onward
                    made += 1
                    if target < 0:
                        own.bits[nodes.local[node] >> 6] ^= _bit(nodes.local[node])
                    else:
                        _enter(rows, row, nodes, branches, own, near.marks)
            _leave(rows, row, nodes, branches, own)
            row += 1
        if made > most or reached - reached_before > budget:
            made, reached, written = made_before, reached_before, written_before
            cut = np.append(cut, begin)
            while row < count and graphs[row] == graphs[begin]:
                row += 1
    columns = (
        steps[:made, 0].copy(),
        steps[:made, 1].copy(),
        steps[:made, 2].copy(),
        steps[:made, 3] >= 2,
        (steps[:made, 3] & 1) > 0,
    )
    starts = np.zeros(reached + 1, np.int32)
    starts[1:] = about[:reached, 2]
    larger = Larger(
        held[:reached].copy(), about[:reached, 0].copy(), about[:reached, 1].copy(), starts, edges[:written].copy()
    )
    return columns, larger, cut


@compiled
def _enter(rows: Numbers, row: int, nodes: Nodes, branches: Branches, own: _Occurrence, marks: Integers) -> np.uint64:
    """Make a row the occurrence that is being grown.

    Returns:
        the sum of its nodes' random numbers.
    """
    found = np.uint64(0)
    own.bits[:] = 0
    for place in range(rows.shape[1]):
        node = rows[row, place]
        own.nodes[place] = node
        marks[node] = -1 - row
        found += nodes.random[node]
        own.bits[nodes.local[node] >> 6] |= _bit(nodes.local[node])
        if branches.family[node] >= 0:
            own.states[branches.slot[node]] |= np.int64(1) << np.int64(branches.place[node])
    return found


@compiled
def _leave(rows: Numbers, row: int, nodes: Nodes, branches: Branches, own: _Occurrence) -> None:
    """Forget what equal branches the occurrence holds."""
    for place in range(rows.shape[1]):
        if branches.family[rows[row, place]] >= 0:
            own.states[branches.slot[rows[row, place]]] = 0


@compiled
def _look_around(
    rows: Numbers, row: int, side: Side, onward: bool, kinds: int, near: _Neighbours, unmarked: int
) -> tuple[int, int]:
    """Find the neighbours of the occurrence on one side.

    Args:
        rows: all occurrences.
        row: the occurrence, whose nodes are marked.
        side: the edges to that side.
        onward: whether it is that of the consumers.
        kinds: number of kinds of edges.
        near: takes the neighbours.
        unmarked: the least mark that has not been used; the neighbours take the marks from there on.

    Returns:
        how many neighbours there are; how many edges lead to them.
    """
    found = crossing = 0
    words = len(near.beyond)
    near.beyond[:] = 0
    for place in range(rows.shape[1]):
        node = rows[row, place]
        for edge in range(side.starts[node], side.starts[node + 1]):
            other = side.other[edge]
            mark = near.marks[other]
            if mark == -1 - row:
                continue
            neighbour = mark - unmarked
            if neighbour < 0:
                neighbour = found
                near.marks[other] = unmarked + found
                near.node[found] = other
                near.apart[found] = False
                near.first[found] = crossing
                found += 1
                for word in range(words):
                    near.beyond[word] |= side.reach[other, word]
            else:
                near.following[near.last[neighbour]] = crossing
            near.last[neighbour] = crossing
            near.following[crossing] = -1
            near.way[crossing] = (2 * place + onward) * kinds + side.kind[edge]
            near.apart[neighbour] |= side.apart[edge]
            crossing += 1
    return found, crossing


@compiled
def _extended(node: int, branches: Branches, states: Integers) -> tuple[bool, int]:
    """What adding a node does to its branch among the equal ones.

    Returns:
        whether the next branch holds the same, so that there are more such steps; the branch that it has to change
        places with to be in order, -1 for none.
    """
    slot, branch = branches.slot[node], int(branches.branch[node])
    several = branch + 1 < branches.counts[branches.family[node]] and states[slot + 1] == states[slot]
    state = states[slot] | np.int64(1) << np.int64(branches.place[node])
    target = branch
    while target > 0 and states[slot - branch + target - 1] < state:
        target -= 1
    return several, target if target < branch else -1


@compiled
def _rearrange(
    rows: Numbers, row: int, node: int, target: int, nodes: Nodes, branches: Branches, own: _Occurrence
) -> np.uint64:
    """Make the occurrence the representative of what a node's branch gives that moves up to another one's place.

    Returns:
        the sum of its nodes' random numbers.
    """
    family, branch = branches.family[node], branches.branch[node]
    found = np.uint64(0)
    own.bits[:] = 0
    for place in range(rows.shape[1] + 1):
        image = np.int64(rows[row, place] if place < rows.shape[1] else node)
        if branches.family[image] == family:
            to = int(branches.branch[image])
            if to == branch:
                to = target
            elif target <= to < branch:
                to += 1
            image = branches.members[branches.starts[family] + to * branches.lengths[family] + branches.place[image]]
        own.nodes[place] = image
        found += nodes.random[image]
        own.bits[nodes.local[image] >> 6] |= _bit(nodes.local[image])
    return found


@compiled
def _write_edges(near: _Neighbours, neighbour: int, edges: Integers, start: int) -> int:
    """Write the edges of a neighbour, in order.

    Returns:
        where they end.
    """
    end = start
    edge = near.first[neighbour]
    while edge >= 0:
        way = near.way[edge]
        at = end
        while at > start and edges[at - 1] > way:
            edges[at] = edges[at - 1]
            at -= 1
        edges[at] = way
        end += 1
        edge = near.following[edge]
    return end


@compiled
def _bit(local: int) -> np.uint64:
    """The bit of a node in its word."""
    return np.uint64(1) << np.uint64(local & 63)


@compiled
def _holds(words: Hashes, local: int) -> bool:
    """Whether a set holds a node."""
    return bool(words[local >> 6] & _bit(local))


@compiled
def _equal(sets: Hashes, number: int, words: Hashes) -> bool:
    """Whether a set has these words."""
    same = True
    for word in range(len(words)):
        same = same and sets[number, word] == words[word]
    return same


@compiled
def _roomier(values: Numbers, least: int) -> Numbers:
    """The same with room for at least so many, and for twice as many as before."""
    found = np.empty(max(2 * len(values), least), values.dtype)
    found[: len(values)] = values
    return found


@compiled
def _roomier_rows(values: Numbers, least: int) -> Numbers:
    """The same rows with room for at least so many, and for twice as many as before."""
    found = np.empty((max(2 * len(values), least), values.shape[1]), values.dtype)
    found[: len(values)] = values
    return found
