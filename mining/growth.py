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

import numpy as np

from graphopt.mining.batch import Batch
from graphopt.mining.canonical import Forms, canonical_forms
from graphopt.mining.compiled import compiled
from graphopt.mining.expansion import Larger, Nodes, expanded
from graphopt.mining.hashing import empty_slots, home, slot_of
from graphopt.mining.levels import Level, Numbers, Steps, narrow
from graphopt.mining.patterns import Patterns
from graphopt.mining.refinement import Edges, Integers

CHUNK_ROWS = 100_000
"""Occurrences that are grown at once, unless one graph has more."""

CHUNK_FORMS = 10_000
"""Patterns that are put into canonical form at once."""


def start(batch: Batch, patterns: Patterns) -> None:
    """The level of single nodes."""
    nodes = np.unique(batch.families.first_of_equal(np.flatnonzero(batch.eligible)))[:, None].astype(np.int32)
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
    nodes = Nodes(batch.local, batch.label, batch.random, batch.eligible)
    steps, found, cut = expanded(rows, graph, nodes, *batch.sides, batch.families.branches, kinds, budget)
    for position in graph[cut].tolist():
        batch.truncated[int(batch.indices[position])] = larger.size
    own = level.pattern[low:high].astype(np.int64)[found.row]
    which, first = _alike(own, found.label, found.starts, found.edges)
    numbers, orders = _recognised(batch, own, found, first, patterns, larger)
    steps = Steps(*steps)._replace(parents=steps[0] + np.int32(low))
    return _level(batch, _in_order(found.nodes, orders, which), numbers[which]), steps


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
        label: see Larger.
        starts: see Larger.
        edges: see Larger.

    Returns:
        for each a number; the first with each number.
    """
    count = len(pattern)
    slots, hashes = empty_slots(count), np.empty(count, np.uint64)
    which, first = np.empty(count, np.int32), np.empty(count, np.int32)
    numbers = 0
    for row in range(count):
        value = _stirred(np.uint64(pattern[row]), np.uint64(label[row]))
        for edge in range(starts[row], starts[row + 1]):
            value = _stirred(value, np.uint64(edges[edge]))
        slot = slot_of(slots, hashes, value, home(slots, value))
        while slots[slot] >= 0 and not _same(pattern, label, starts, edges, first[slots[slot]], row):
            slot = slot_of(slots, hashes, value, slot + 1)
        if slots[slot] < 0:
            slots[slot] = numbers
            first[numbers], hashes[numbers] = row, value
            numbers += 1
        which[row] = slots[slot]
    return which, first[:numbers].copy()


@compiled
def _same(pattern: Integers, label: Numbers, starts: Numbers, edges: Integers, one: int, other: int) -> bool:
    """Whether two larger occurrences have equal patterns, labels and edges; see _alike."""
    first, second = starts[one], starts[other]
    same = bool(pattern[one] == pattern[other] and label[one] == label[other])
    same = same and starts[one + 1] - first == starts[other + 1] - second
    for edge in range(starts[other + 1] - second):
        same = same and edges[first + edge] == edges[second + edge]
    return same


def _recognised(
    batch: Batch, own: Integers, found: Larger, first: Numbers, patterns: Patterns, larger: Patterns
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
        labels = np.concatenate([patterns.labels[own[some]], found.label[some][:, None]], axis=1)
        edges = _extended(own, found.starts, found.edges, some, patterns.starts, patterns.edges, patterns.size, kinds)
        forms = canonical_forms(labels, edges, vocabulary)
        numbers.append(larger.numbered(forms, vocabulary))
        orders.append(forms.order)
    return np.concatenate(numbers), np.concatenate(orders)


@compiled
def _extended(
    own: Integers,
    starts: Numbers,
    added: Integers,
    rows: Numbers,
    pattern_starts: Integers,
    packed: Integers,
    size: int,
    kinds: int,
) -> Edges:
    """Edges of what some larger occurrences hold: those of the pattern that was grown, and the new node's.

    Args:
        own: for each larger occurrence the pattern that was grown.
        starts: see Larger.
        added: the edges of the new nodes, see Larger.
        rows: the larger occurrences that are asked for.
        pattern_starts: see Patterns.
        packed: the edges of the patterns, see Patterns.
        size: nodes of each of those.
        kinds: number of kinds of edges.
    """
    bounds = np.zeros(len(rows) + 1, np.int64)
    for at, row in enumerate(rows):
        known = pattern_starts[own[row] + 1] - pattern_starts[own[row]]
        bounds[at + 1] = bounds[at] + known + starts[row + 1] - starts[row]
    source, target, kind = np.empty((3, bounds[-1]), np.int64)
    to = 0
    for row in rows:
        for edge in range(pattern_starts[own[row]], pattern_starts[own[row] + 1]):
            pair, kind[to] = packed[edge] // kinds, packed[edge] % kinds
            source[to], target[to] = pair // size, pair % size
            to += 1
        for edge in range(starts[row], starts[row + 1]):
            way, kind[to] = added[edge] // kinds, added[edge] % kinds
            place = way >> 1
            source[to], target[to] = (place, size) if way & 1 else (size, place)
            to += 1
    return Edges(bounds, source, target, kind)


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
