"""Growing occurrences level by level, as arrays: the flat tables of a batch of graphs.

An occurrence is a set of nodes that is connected (ignoring direction) and convex (no path leaves it and comes back).
Every such set of two or more nodes has a source or a sink without which it is still connected and convex, so adding
one consumer or one producer at a time reaches all of them. A path from S to a consumer v of S that leaves S does so
through some other consumer of S. So S + v is convex exactly if v descends from no other consumer of S; for producers
likewise, the other way round.

An occurrence is a row of nodes in the canonical order of its pattern. So the pattern of S + v follows from the pattern
of S and from where v is attached, and is computed once for each such pair, not for each occurrence.

Of equal branches only one representative grows (see symmetry.py); counts are those of the whole orbit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from graphopt.mining.batch import Batch, Side
from graphopt.mining.canonical import Forms, canonical_forms
from graphopt.mining.families import OpenBranches
from graphopt.mining.levels import Level, Steps, narrow
from graphopt.mining.patterns import Patterns
from graphopt.mining.refinement import Edges, Flags, Hashes, Integers, mixed, spread_out

CHUNK_ROWS = 20000
"""Occurrences that are made distinct at once, unless one graph has more."""

PIECE_EDGES = 200_000
"""Edges of nodes of occurrences that are extended at once, unless one occurrence has more."""

BITS = 63
"""Bits of a packed number."""


@dataclass(frozen=True)
class _Ways:
    """Ways to add a node to an occurrence.

    Attributes:
        row: the occurrence.
        node: the new node.
        starts: where the step's edges begin.
        lengths: how many edges it has.
        place: for each edge the place in the occurrence.
        kind: for each edge the number of its (output, slot).
        forward: for each edge whether it leads to the new node.
        several: whether equal branches give more such steps, which are not listed.
        astray: whether the larger occurrence may not be the representative of its orbit.
    """

    row: Integers
    node: Integers
    starts: Integers
    lengths: Integers
    place: Integers
    kind: Integers
    forward: Flags
    several: Flags
    astray: Flags

    def of(self, steps: Integers) -> "_Ways":
        """Some of the steps."""
        return replace(
            self,
            row=self.row[steps],
            node=self.node[steps],
            starts=self.starts[steps],
            lengths=self.lengths[steps],
            several=self.several[steps],
            astray=self.astray[steps],
        )

    def of_rows(self, rows: Integers) -> "_Ways":
        """The same steps, of occurrences with other numbers."""
        return replace(self, row=rows[self.row])

    @classmethod
    def joined(cls, parts: Sequence["_Ways"]) -> "_Ways":
        """The steps of several, one after the other."""
        if len(parts) == 1:
            return parts[0]
        edges = np.cumsum([0, *(len(part.place) for part in parts)]).tolist()
        moved = [replace(part, starts=part.starts + low) for part, low in zip(parts, edges, strict=False)]
        return cls(
            *(np.concatenate([getattr(part, column.name) for part in moved]) for column in fields(cls)),
        )


def start(batch: Batch, patterns: Patterns) -> None:
    """The level of single nodes."""
    nodes = np.flatnonzero(batch.eligible)[:, None]
    nodes = np.unique(batch.families.representatives(nodes))[:, None] if len(nodes) else nodes
    labels, inverse = np.unique(batch.label[nodes[:, 0]], return_inverse=True)
    labels = labels[:, None]
    forms = Forms(labels, labels[:, :0], np.zeros_like(labels), np.ones(labels.shape, dtype=np.bool_))
    numbers = patterns.numbered(forms, batch.vocabulary)
    batch.levels = [_level(batch, nodes, numbers[inverse.ravel()])]


def _level(batch: Batch, nodes: Integers, pattern: Integers) -> Level:
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
    rows = level.nodes[low:high].astype(np.int64)
    graph = batch.graph_of[rows[:, 0]]
    # A larger occurrence is reached in as many ways as it has nodes at most.
    most_ways = budget * larger.size
    ways = np.zeros(batch.count, dtype=np.int64)
    pieces = []
    ahead, behind = (np.diff(side.starts)[rows].sum(axis=1) for side in batch.sides)
    part = np.cumsum(ahead + behind) // PIECE_EDGES
    for piece in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(part)) + 1):
        piece = piece[ways[graph[piece]] <= most_ways]
        pieces.append(_ways(batch, rows[piece], graph[piece]).of_rows(piece))
        ways += np.bincount(graph[pieces[-1].row], minlength=batch.count)
    steps = _Ways.joined(pieces)
    if ways.max() > most_ways:
        for position in np.flatnonzero(ways > most_ways).tolist():
            batch.truncated[int(batch.indices[position])] = larger.size
        steps = steps.of(np.flatnonzero(ways[graph[steps.row]] <= most_ways))
    sets = np.concatenate([rows[steps.row], steps.node[:, None]], axis=1)
    astray = np.flatnonzero(steps.astray)
    sets[astray] = batch.families.representatives(sets[astray])
    first, which = _distinct(batch, sets)
    owners = graph[steps.row[first]]
    sizes = np.bincount(owners, minlength=batch.count)
    alive = np.arange(len(steps.row))
    if sizes.max(initial=0) > budget:
        for position in np.flatnonzero(sizes > budget).tolist():
            batch.truncated[int(batch.indices[position])] = larger.size
        fits = sizes[owners] <= budget
        alive = np.flatnonzero(fits[which])
        place = np.cumsum(fits) - 1
        which, first = place[which[alive]], first[fits]
    numbers, orders = _recognised(batch, level.pattern[low:high].astype(np.int64), steps, first, patterns, larger)
    nodes = np.take_along_axis(sets[first], orders, axis=1)
    forward = steps.forward[steps.starts[alive]]
    found = Steps(steps.row[alive] + low, which, steps.node[alive], steps.several[alive], forward)
    return _level(batch, nodes, numbers), found


def _ways(batch: Batch, rows: Integers, graph: Integers) -> _Ways:
    """All ways to add a node to occurrences."""
    bits = batch.bits(rows)
    branches = batch.families.open_branches(rows)
    ahead, behind = (_one_way(batch, side, rows, graph, bits, branches) for side in batch.sides)
    return _Ways.joined([ahead, behind])


def _one_way(batch: Batch, side: Side, rows: Integers, graph: Integers, bits: Hashes, branches: OpenBranches) -> _Ways:
    count, size = rows.shape
    flat = rows.ravel()
    lows = side.starts[flat]
    degrees = side.starts[flat + 1] - lows
    edge = spread_out(lows, degrees)
    other = side.other[edge]
    at = np.repeat(np.arange(count * size), degrees)
    row = at // size
    word, bit = batch.word[other], batch.bit[other]
    outside = (bits.ravel()[row * batch.words + word] & bit) == 0
    at, row, edge, other = at[outside], row[outside], edge[outside], other[outside]
    word, bit = word[outside], bit[outside]
    # What a path leads to from any neighbour outside: a path from the occurrence to a node there leaves it.
    beyond = np.zeros((batch.words, count), dtype=np.uint64)
    if len(row):
        start = np.ones(len(row), dtype=np.bool_)
        start[1:] = row[1:] != row[:-1]
        starts = np.flatnonzero(start)
        for number in range(batch.words):
            beyond[number, row[starts]] = np.bitwise_or.reduceat(side.reach[other, number], starts)
    fits = batch.eligible[other] & ((beyond.ravel()[word * count + row] & bit) == 0)
    at, row, edge, other = at[fits], row[fits], edge[fits], other[fits]
    # Edges of one step next to each other: one sort of packed numbers.
    local_bits = (batch.words * 64 - 1).bit_length()
    place_bits = size.bit_length()
    kind_bits = len(batch.vocabulary.kinds).bit_length()
    if count.bit_length() + local_bits + place_bits + kind_bits + 1 > BITS:
        raise RuntimeError("too many kinds of edges to be packed")
    packed = row << local_bits | batch.local[other]
    packed = packed << place_bits | (at - row * size)
    packed = packed << kind_bits | side.kind[edge]
    packed = packed << 1 | side.apart[edge]
    packed.sort()
    apart = (packed & 1).astype(np.bool_)
    kind = packed >> 1 & ((1 << kind_bits) - 1)
    place = packed >> (1 + kind_bits) & ((1 << place_bits) - 1)
    pair = packed >> (1 + kind_bits + place_bits)
    start = np.ones(len(pair), dtype=np.bool_)
    start[1:] = pair[1:] != pair[:-1]
    starts = np.flatnonzero(start)
    lengths = np.diff(starts, append=len(pair))
    row = pair[starts] >> local_bits
    node = (pair[starts] & ((1 << local_bits) - 1)) + batch.offsets[graph[row]]
    if apart.any():
        allowed = ~np.logical_or.reduceat(apart, starts)
        row, node, starts, lengths = row[allowed], node[allowed], starts[allowed], lengths[allowed]
    first, several, astray = branches.first_of_equals(row, node)
    row, node, starts, lengths = row[first], node[first], starts[first], lengths[first]
    return _Ways(row, node, starts, lengths, place, kind, np.full(len(place), side.forward), several, astray)


def _distinct(batch: Batch, sets: Integers) -> tuple[Integers, Integers]:
    """Sets of nodes without repetition, graph by graph.

    Returns:
        the row of one of each; for each row, the position of its set among those.
    """
    if not len(sets):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    hashes = batch.random[sets].sum(axis=1, dtype=np.uint64)
    graph = batch.graph_of[sets[:, 0]]
    _, first, which = np.unique(hashes ^ mixed(graph.astype(np.uint64)), return_index=True, return_inverse=True)
    bits = batch.bits(sets)
    if not (np.array_equal(bits[first][which], bits) and np.array_equal(graph[first][which], graph)):
        exact = np.concatenate([graph[:, None].astype(np.uint64), bits], axis=1)
        _, first, which = np.unique(exact, axis=0, return_index=True, return_inverse=True)
    order = np.lexsort((hashes[first], graph[first]))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return first[order], place[which.ravel()]


def _recognised(
    batch: Batch, pattern: Integers, steps: _Ways, chosen: Integers, patterns: Patterns, larger: Patterns
) -> tuple[Integers, Integers]:
    """Patterns that steps lead to, and what puts (old nodes, new node) in their canonical order."""
    vocabulary = batch.vocabulary
    kinds = max(len(vocabulary.kinds), 1)
    lows, lengths = steps.starts[chosen], steps.lengths[chosen]
    label = batch.label[steps.node[chosen]]
    own = pattern[steps.row[chosen]]
    # Equal numbers for equal (pattern, label, edges): one edge more is looked at in each round.
    alike = _numbered(own * len(vocabulary.labels) + label)
    ways = (steps.place * 2 + steps.forward) * kinds + steps.kind
    for turn in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > turn)
        seen = alike[longer] * (2 * larger.size * kinds) + ways[lows[longer] + turn]
        alike[longer] = len(chosen) * (turn + 1) + _numbered(seen)
    _, first, which = np.unique(alike, return_index=True, return_inverse=True)
    lows, lengths = lows[first], lengths[first]
    rows = spread_out(lows, lengths)
    place, forward = steps.place[rows], steps.forward[rows]
    new = np.full(len(place), patterns.size)
    labels = np.concatenate([patterns.labels[own[first]], label[first][:, None]], axis=1)
    added = Edges(
        np.repeat(np.arange(len(first)), lengths),
        np.where(forward, place, new),
        np.where(forward, new, place),
        steps.kind[rows],
    )
    forms = canonical_forms(labels, patterns.extended(own[first], added, vocabulary), vocabulary)
    numbers = larger.numbered(forms, vocabulary)
    return numbers[which], forms.order[which]


def _chunks(graph: Integers) -> Iterator[tuple[int, int]]:
    """Ranges of rows of whole graphs, of about CHUNK_ROWS rows each."""
    ends = np.flatnonzero(np.diff(graph, append=-1)) + 1
    low = 0
    for position, end in enumerate(ends.tolist()):
        following = ends[position + 1] if position + 1 < len(ends) else None
        if following is None or following - low > CHUNK_ROWS:
            yield low, end
            low = end


def _numbered(values: Integers) -> Integers:
    """Numbers from 0, equal for equal values."""
    _, found = np.unique(values, return_inverse=True)
    return found.ravel().astype(np.int64)
