"""Growing occurrences level by level, in the flat tables of a batch of graphs.

An occurrence is a set of nodes that is connected (ignoring direction) and convex (no path leaves it and comes back).
Every such set of two or more nodes has a source or a sink without which it is still connected and convex, so adding
one consumer or one producer at a time reaches all of them. A path from S to a consumer v of S that leaves S does so
through some other consumer of S. So S + v is convex exactly if v descends from no other consumer of S; for producers
likewise, the other way round.

An occurrence is a row of nodes in the canonical order of its pattern. So the pattern of S + v follows from the pattern
of S and from where v is attached, and is computed once for each such pair, not for each occurrence.

Of equal branches only one representative grows (see symmetry.py); counts are those of the whole orbit.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from graphopt.mining.batch import Batch, Side
from graphopt.mining.canonical import Forms, canonical_forms
from graphopt.mining.compiled import compiled
from graphopt.mining.families import Branches
from graphopt.mining.levels import Level, Numbers, Steps, narrow
from graphopt.mining.patterns import Patterns
from graphopt.mining.refinement import Edges, Flags, Hashes, Integers, spread_out

CHUNK_ROWS = 100_000
"""Occurrences that are grown at once, unless one graph has more."""

CHUNK_FORMS = 10_000
"""Patterns that are put into canonical form at once."""

FIRST_SLOTS = 1024
"""Slots of a hash table to begin with, a power of two."""


class _Nodes(NamedTuple):
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


class _Larger(NamedTuple):
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


def start(batch: Batch, patterns: Patterns) -> None:
    """The level of single nodes."""
    nodes = np.flatnonzero(batch.eligible)[:, None]
    nodes = np.unique(batch.families.representatives(nodes))[:, None] if len(nodes) else nodes
    labels, inverse = np.unique(batch.label[nodes[:, 0]], return_inverse=True)
    labels = labels[:, None]
    forms = Forms(labels, labels[:, :0], np.zeros_like(labels), np.ones(labels.shape, dtype=np.bool_))
    numbers = patterns.numbered(forms, batch.vocabulary)
    batch.levels = [_level(batch, nodes, numbers[inverse.ravel()])]


def _level(batch: Batch, nodes: Numbers, pattern: Integers) -> Level:
    """Occurrences as they are kept: a row of nodes each, and the numbers of their patterns."""
    multiples, counts = batch.families.multiples(nodes)
    return Level(narrow(nodes), narrow(pattern), multiples.astype(np.int32), counts, batch.graph_of)


def grow(batch: Batch, patterns: Patterns, larger: Patterns, budget: int) -> None:
    """The next level, from all that is left of the last one, and the steps to it.

    Args:
        batch: the graphs.
        patterns: the patterns of the last level.
        larger: takes the patterns of the next level.
        budget: the most rows that a graph may have; a graph that has more has no rows from this level on.
    """
    level = batch.levels[-1]
    parts = [_grown(batch, level, low, high, patterns, larger, budget) for low, high in _chunks(level.graph)]
    batch.levels.append(Level.joined([part for part, _ in parts], larger.size, batch.graph_of))
    batch.steps = Steps.joined([steps for _, steps in parts], [len(part) for part, _ in parts])


def _grown(
    batch: Batch,
    level: Level,
    low: int,
    high: int,
    patterns: Patterns,
    larger: Patterns,
    budget: int,
) -> tuple[Level, Steps]:
    """What the rows of some graphs, from one to before another, grow to."""
    rows = level.nodes[low:high].astype(np.int32)
    graph = batch.graph_of[rows[:, 0]]
    kinds = max(len(batch.vocabulary.kinds), 1)
    nodes = _Nodes(batch.local, batch.label, batch.random, batch.eligible)
    steps, found, cut = _expanded(rows, graph, nodes, *batch.sides, batch.families.branches, batch.words, kinds, budget)
    for position in graph[cut].tolist():
        batch.truncated[int(batch.indices[position])] = larger.size
    own = level.pattern[low:high].astype(np.int64)[found.row]
    which, first = _alike(own, found.label, found.starts, found.edges)
    numbers, orders = _recognised(batch, own, found, first, patterns, larger)
    steps = Steps(*steps)._replace(parents=steps[0] + np.int32(low))
    return _level(batch, _in_order(found.nodes, orders, which), numbers[which]), steps


@compiled
def _expanded(
    rows: Numbers,
    graphs: Numbers,
    nodes: _Nodes,
    ahead: Side,
    behind: Side,
    branches: Branches,
    words: int,
    kinds: int,
    budget: int,
) -> tuple[tuple[Numbers, Numbers, Numbers, Flags, Flags], _Larger, Integers]:
    """All steps of growth from some occurrences, and what they lead to.

    Args:
        rows: the occurrences: rows of nodes.
        graphs: the graph of each, rising.
        nodes: all nodes.
        ahead: the edges to consumers.
        behind: the edges to producers.
        branches: equal branches; occurrences are representatives.
        words: words of 64 nodes in a set.
        kinds: number of kinds of edges.
        budget: see grow. A graph that is over it has no steps.

    Returns:
        the steps: for each the occurrence, the larger one, the new node, whether equal branches give more such steps,
        whether the node is a consumer; the larger occurrences; the first row of each graph that is over the budget.
    """
    count, size = rows.shape
    one = np.uint64(1)
    total = len(nodes.local)
    # Where a node of the occurrence stands; which row it, or a neighbour (for either side), was last seen at.
    place_of, inside, seen = np.empty(total, np.int64), np.full(total, -1, np.int64), np.full(total, -1, np.int64)
    neighbours = np.empty(total, np.int64)
    states = np.zeros(branches.total + 1, np.int64)
    own_bits, beyond, new_bits = (np.empty(words, np.uint64), np.empty(words, np.uint64), np.empty(words, np.uint64))
    image = np.empty(size + 1, np.int64)
    attached = np.empty(64, np.int64)
    parents, children, added = np.empty(1024, np.int32), np.empty(1024, np.int32), np.empty(1024, np.int32)
    several, forward = np.empty(1024, np.bool_), np.empty(1024, np.bool_)
    held, first, label = np.empty((256, size + 1), np.int32), np.empty(256, np.int32), np.empty(256, np.int32)
    starts, edges = np.zeros(257, np.int32), np.empty(1024, np.int64)
    hashes, bits = np.empty(256, np.uint64), np.empty((256, words), np.uint64)
    slots = np.empty(FIRST_SLOTS, np.int32)
    cut = np.empty(0, np.int64)
    made = reached = row = 0
    while row < count:
        begin, made_before, reached_before = row, made, reached
        # A larger occurrence is reached in as many ways as it has nodes at most.
        most = made + budget * (size + 1)
        room = FIRST_SLOTS
        slots[:room] = -1
        while row < count and graphs[row] == graphs[begin] and made <= most and reached - reached_before <= budget:
            own_hash = np.uint64(0)
            own_bits[:] = 0
            for place in range(size):
                node = rows[row, place]
                place_of[node], inside[node] = place, row
                own_hash += nodes.random[node]
                own_bits[nodes.local[node] >> 6] |= one << np.uint64(nodes.local[node] & 63)
                if branches.family[node] >= 0:
                    states[branches.slot[node]] |= np.int64(1) << np.int64(branches.place[node])
            for onward in (True, False):
                side, other_side = (ahead, behind) if onward else (behind, ahead)
                near = 0
                beyond[:] = 0
                for place in range(size):
                    node = rows[row, place]
                    for edge in range(side.starts[node], side.starts[node + 1]):
                        other = side.other[edge]
                        if inside[other] == row or seen[other] == 2 * row + onward:
                            continue
                        seen[other] = 2 * row + onward
                        neighbours[near] = other
                        near += 1
                        # What a path leads to from any neighbour outside: one to a node there leaves the occurrence.
                        for word in range(words):
                            beyond[word] |= side.reach[other, word]
                for at in range(near):
                    node = neighbours[at]
                    local = nodes.local[node]
                    if not nodes.eligible[node] or (beyond[local >> 6] >> np.uint64(local & 63)) & one:
                        continue
                    degree = 0
                    apart = False
                    low, high = other_side.starts[node], other_side.starts[node + 1]
                    if high - low > len(attached):
                        attached = np.empty(high - low, np.int64)
                    for edge in range(low, high):
                        other = other_side.other[edge]
                        if inside[other] == row:
                            apart = apart or other_side.apart[edge]
                            way = (2 * place_of[other] + onward) * kinds + other_side.kind[edge]
                            spot = degree
                            while spot > 0 and attached[spot - 1] > way:
                                attached[spot] = attached[spot - 1]
                                spot -= 1
                            attached[spot] = way
                            degree += 1
                    if apart:
                        continue
                    # Of equal branches the first is extended; one that then holds more than others changes places.
                    family = branches.family[node]
                    again = False
                    target = np.int64(-1)
                    if family >= 0:
                        slot = branches.slot[node]
                        base = slot - branches.branch[node]
                        if slot > base and states[slot - 1] == states[slot]:
                            continue
                        again = branches.branch[node] + 1 < branches.counts[family] and states[slot + 1] == states[slot]
                        state = states[slot] | np.int64(1) << np.int64(branches.place[node])
                        target = slot
                        while target > base and states[target - 1] < state:
                            target -= 1
                        target = target - base if target < slot else np.int64(-1)
                    if target < 0:
                        new_hash = own_hash + nodes.random[node]
                        for word in range(words):
                            new_bits[word] = own_bits[word]
                        new_bits[local >> 6] |= one << np.uint64(local & 63)
                    else:
                        new_hash = np.uint64(0)
                        for word in range(words):
                            new_bits[word] = 0
                        for place in range(size + 1):
                            moved = np.int64(rows[row, place] if place < size else node)
                            if branches.family[moved] == family:
                                to = np.int64(branches.branch[moved])
                                if to == branches.branch[node]:
                                    to = target
                                elif target <= to < branches.branch[node]:
                                    to += 1
                                moved = branches.members[
                                    branches.starts[family] + to * branches.lengths[family] + branches.place[moved]
                                ]
                            image[place] = moved
                            new_hash += nodes.random[moved]
                            new_bits[nodes.local[moved] >> 6] |= one << np.uint64(nodes.local[moved] & 63)
                    # Is it known?
                    slot = np.int64(new_hash & np.uint64(room - 1))
                    while slots[slot] >= 0:
                        known = slots[slot]
                        if hashes[known] == new_hash:
                            same = True
                            for word in range(words):
                                same = same and bits[known, word] == new_bits[word]
                            if same:
                                break
                        slot = (slot + 1) & (room - 1)
                    child = slots[slot]
                    if child < 0:
                        child = reached
                        slots[slot] = child
                        reached += 1
                        if reached > len(first):
                            held, bits = _twice_rows(held), _twice_rows(bits)
                            first, label, hashes = _twice(first), _twice(label), _twice(hashes)
                            starts = _twice(starts)
                        while starts[child] + degree > len(edges):
                            edges = _twice(edges)
                        for place in range(size + 1):
                            if target >= 0:
                                held[child, place] = image[place]
                            else:
                                held[child, place] = rows[row, place] if place < size else node
                        first[child], label[child], hashes[child] = row, nodes.label[node], new_hash
                        for word in range(words):
                            bits[child, word] = new_bits[word]
                        for at_edge in range(degree):
                            edges[starts[child] + at_edge] = attached[at_edge]
                        starts[reached] = starts[child] + degree
                        if 2 * (reached - reached_before) > room:
                            room *= 2
                            if room > len(slots):
                                slots = np.empty(room, np.int32)
                            slots[:room] = -1
                            for known in range(reached_before, reached):
                                slot = np.int64(hashes[known] & np.uint64(room - 1))
                                while slots[slot] >= 0:
                                    slot = (slot + 1) & (room - 1)
                                slots[slot] = known
                    if made == len(parents):
                        parents, children, added = _twice(parents), _twice(children), _twice(added)
                        several, forward = _twice(several), _twice(forward)
                    parents[made], children[made], added[made] = row, child, node
                    several[made], forward[made] = again, onward
                    made += 1
            for place in range(size):
                node = rows[row, place]
                if branches.family[node] >= 0:
                    states[branches.slot[node]] = 0
            row += 1
        if made > most or reached - reached_before > budget:
            made, reached = made_before, reached_before
            cut = np.append(cut, begin)
            while row < count and graphs[row] == graphs[begin]:
                row += 1
    steps = (
        parents[:made].copy(),
        children[:made].copy(),
        added[:made].copy(),
        several[:made].copy(),
        forward[:made].copy(),
    )
    larger = _Larger(
        held[:reached].copy(),
        first[:reached].copy(),
        label[:reached].copy(),
        starts[: reached + 1].copy(),
        edges[: starts[reached]].copy(),
    )
    return steps, larger, cut


@compiled
def _twice(values: Numbers) -> Numbers:
    """The same with as much room again."""
    found = np.zeros(2 * len(values), values.dtype)
    found[: len(values)] = values
    return found


@compiled
def _twice_rows(values: Numbers) -> Numbers:
    """The same rows with room for as many again."""
    found = np.zeros((2 * len(values), values.shape[1]), values.dtype)
    found[: len(values)] = values
    return found


@compiled
def _stirred(value: np.uint64, other: np.uint64) -> np.uint64:
    """A hash of two numbers."""
    value = (value ^ other) * np.uint64(0x9E3779B97F4A7C15)
    return value ^ value >> np.uint64(32)


@compiled
def _alike(pattern: Integers, label: Numbers, starts: Numbers, edges: Integers) -> tuple[Numbers, Numbers]:
    """Which larger occurrences are of one pattern by what was grown: equal patterns, labels, and edges.

    Args:
        pattern: for each the pattern that was grown.
        label: see _Larger.
        starts: see _Larger.
        edges: see _Larger.

    Returns:
        for each a number; the first with each number.
    """
    count = len(pattern)
    room = FIRST_SLOTS
    while room < 2 * count:
        room *= 2
    slots = np.full(room, -1, np.int32)
    which, first = np.empty(count, np.int32), np.empty(count, np.int32)
    numbers = 0
    for row in range(count):
        low, high = starts[row], starts[row + 1]
        value = _stirred(np.uint64(pattern[row]), np.uint64(label[row]))
        for edge in range(low, high):
            value = _stirred(value, np.uint64(edges[edge]))
        slot = np.int64(value & np.uint64(room - 1))
        while slots[slot] >= 0:
            other = first[slots[slot]]
            begin = starts[other]
            same = pattern[other] == pattern[row] and label[other] == label[row]
            same = same and starts[other + 1] - begin == high - low
            for edge in range(low, high):
                same = same and edges[edge] == edges[begin + edge - low]
            if same:
                break
            slot = (slot + 1) & (room - 1)
        if slots[slot] < 0:
            slots[slot] = numbers
            first[numbers] = row
            numbers += 1
        which[row] = slots[slot]
    return which, first[:numbers].copy()


def _recognised(
    batch: Batch, own: Integers, found: _Larger, first: Numbers, patterns: Patterns, larger: Patterns
) -> tuple[Integers, Integers]:
    """Patterns of some larger occurrences, and what puts (old nodes, new node) in their canonical order.

    Args:
        batch: the graphs.
        own: for each larger occurrence the pattern that was grown.
        found: the larger occurrences.
        first: the ones that are asked for.
        patterns: the patterns that were grown.
        larger: takes the new patterns.
    """
    vocabulary = batch.vocabulary
    kinds = max(len(vocabulary.kinds), 1)
    numbers, orders = [np.zeros(0, np.int64)], [np.zeros((0, larger.size), np.int64)]
    for low in range(0, len(first), CHUNK_FORMS):
        some = first[low : low + CHUNK_FORMS]
        lengths = np.diff(found.starts)[some]
        places, kind = np.divmod(found.edges[spread_out(found.starts[some], lengths)], kinds)
        place, forward = places >> 1, (places & 1).astype(np.bool_)
        labels = np.concatenate([patterns.labels[own[some]], found.label[some][:, None]], axis=1)
        added = Edges(
            np.repeat(np.arange(len(some)), lengths),
            np.where(forward, place, patterns.size),
            np.where(forward, patterns.size, place),
            kind,
        )
        forms = canonical_forms(labels, patterns.extended(own[some], added, vocabulary), vocabulary)
        numbers.append(larger.numbered(forms, vocabulary))
        orders.append(forms.order)
    return np.concatenate(numbers), np.concatenate(orders)


@compiled
def _in_order(nodes: Numbers, orders: Integers, which: Numbers) -> Numbers:
    """Rows of nodes, each in the order with the number given for it."""
    found = np.empty_like(nodes)
    for row in range(len(nodes)):
        for place in range(nodes.shape[1]):
            found[row, place] = nodes[row, orders[which[row], place]]
    return found


def _chunks(graph: Integers) -> Iterator[tuple[int, int]]:
    """Ranges of rows of whole graphs, of about CHUNK_ROWS rows each."""
    ends = np.flatnonzero(np.diff(graph, append=-1)) + 1
    low = 0
    for position, end in enumerate(ends.tolist()):
        following = ends[position + 1] if position + 1 < len(ends) else None
        if following is None or following - low > CHUNK_ROWS:
            yield low, end
            low = end
