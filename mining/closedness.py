"""Which patterns have the same occurrences as a larger one, so that they are not closed.

A pattern P gives way to a larger pattern Q when (1) each occurrence of P lies in exactly one occurrence of Q, each of
which holds exactly one of P, and (2) occurrences of P that are disjoint lie in occurrences of Q that are disjoint.

Nearly always, when there is such a Q, there is one with a single node more. Those are found for all patterns at once
from the steps of growth (``pairs_that_agree``). For what is left, and only where a larger occurrence with the same
counts in every graph lies above the pattern's first occurrence at all, the steps are followed upwards (``claims``).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from graphopt.mining.graphs import bits, members
from graphopt.mining.growth import Batch, Level, Patterns
from graphopt.mining.refinement import Flags, Integers, spread_out
from graphopt.mining.symmetry import Nested, Occurrence, Symmetry, may_clash

BLOCK = 1 << 21
"""Pairs of occurrences that are compared at once."""


class Pairs(NamedTuple):
    """Pairs of patterns: the smaller gives way to the larger in some shard's graphs.

    Attributes:
        small: ids of the smaller ones.
        large: ids of the larger ones.
    """

    small: Integers
    large: Integers


class Claim(NamedTuple):
    """A claim to be checked by every shard: a pattern has the same occurrences as a larger one.

    Attributes:
        small: id of the smaller pattern.
        large: id of the larger pattern.
        size: nodes of the larger pattern.
        places: which places of the larger pattern, in its canonical order, are the smaller one.
    """

    small: int
    large: int
    size: int
    places: tuple[int, ...]


# One node more


def pairs_that_agree(batches: Sequence[Batch], patterns: Sequence[Patterns], alike: Integers) -> Pairs:
    """All pairs of patterns, one a node larger than the other, that fulfil both conditions in these graphs.

    Args:
        batches: all graphs of a shard.
        patterns: the patterns of each size.
        alike: for each id a number, equal for patterns of which one may hide the other.
    """
    small: list[Integers] = [np.zeros(0, dtype=np.int64)]
    large: list[Integers] = [np.zeros(0, dtype=np.int64)]
    for size in range(1, len(patterns)):
        inner, outer = patterns[size - 1], patterns[size]
        rows_of_inner = _row_counts([batch.levels[size - 1] for batch in batches], len(inner))
        rows_of_outer = _row_counts([batch.levels[size] for batch in batches], len(outer))
        inner_alike, outer_alike = alike[inner.ids], alike[outer.ids]
        columns: list[tuple[Integers, ...]] = []
        base_inner = base_outer = 0
        for number, batch in enumerate(batches):
            below, above = batch.levels[size - 1], batch.levels[size]
            p, q = below.pattern[above.parents], above.pattern[above.children]
            steps = np.flatnonzero((inner_alike[p] == outer_alike[q]) & (rows_of_inner[p] == rows_of_outer[q]))
            parents, children = above.parents[steps].astype(np.int64), above.children[steps].astype(np.int64)
            uneven = above.several[steps] | (below.multiplicities(parents) != above.multiplicities(children))
            pair = p[steps].astype(np.int64) * len(outer) + q[steps]
            columns.append(
                (pair, parents + base_inner, children + base_outer, uneven, steps, np.full(len(steps), number))
            )
            base_inner += len(below)
            base_outer += len(above)
        if not columns:
            continue
        pair, parents, children, uneven, steps, batch_of = (np.concatenate(c) for c in zip(*columns, strict=True))
        values, which = np.unique(pair, return_inverse=True)
        which = which.ravel()
        count = len(values)
        links = np.bincount(which, minlength=count)
        agree = (links == _distinct(which, parents, count)) & (links == _distinct(which, children, count))
        agree &= links == rows_of_inner[values // len(outer)] if count else agree
        agree[which[uneven.astype(np.bool_)]] = False
        for number, batch in enumerate(batches):
            own = np.flatnonzero((batch_of == number) & agree[which])
            clashing = _clashing(batch, size, steps[own], which[own])
            agree[clashing] = False
        found = values[agree]
        small.append(inner.ids[found // len(outer)] if len(found) else found)
        large.append(outer.ids[found % len(outer)] if len(found) else found)
    return Pairs(np.concatenate(small), np.concatenate(large))


def _row_counts(levels: Sequence[Level], patterns: int) -> Integers:
    """Number of rows of each pattern."""
    counts: Integers = np.zeros(patterns, dtype=np.int64)
    for level in levels:
        counts += np.bincount(level.pattern, minlength=patterns)
    return counts


def _distinct(groups: Integers, values: Integers, count: int) -> Integers:
    """Number of different values in each group."""
    order = np.lexsort((values, groups))
    groups, values = groups[order], values[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (groups[1:] != groups[:-1]) | (values[1:] != values[:-1])
    return np.bincount(groups[new], minlength=count)


def _clashing(batch: Batch, size: int, steps: Integers, pair: Integers) -> Integers:
    """Pairs (of those given for each step) with larger occurrences that overlap where the smaller ones do not.

    Args:
        batch: the graphs.
        size: nodes of the smaller patterns.
        steps: numbers of steps of growth that lead from all occurrences of a pattern to all of a larger one.
        pair: for each, the number of the pair of patterns.
    """
    below, above = batch.levels[size - 1], batch.levels[size]
    parents, children = above.parents[steps].astype(np.int64), above.children[steps].astype(np.int64)
    graph = above.graph[children]
    _, group = np.unique(pair * len(batch.graphs) + graph, return_inverse=True)
    group = group.ravel()
    several = (np.bincount(group) > 1)[group] | (above.multiplicities(children) != 1).astype(np.bool_)
    several = np.isin(group, group[several])
    if not several.any():
        return np.zeros(0, dtype=np.int64)
    order = np.flatnonzero(several)
    order = order[np.argsort(group[order], kind="stable")]
    parents, children, group, pair = parents[order], children[order], group[order], pair[order]
    inner, outer = below.nodes[parents].astype(np.int64), above.nodes[children].astype(np.int64)
    # Where all smaller occurrences share a node that stays in place, none are disjoint.
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    moved = batch.families.moved
    common = np.bitwise_and.reduceat(batch.bits(inner, ~moved[inner]), starts, axis=0).any(axis=1)
    lengths = np.diff(starts, append=len(group))
    doubtful = np.repeat(~common, lengths)
    group_moved = np.logical_or.reduceat(moved[outer].any(axis=1), starts)
    by_one = doubtful & np.repeat(group_moved, lengths)
    clashing = [_clashing_rows(batch, *(column[doubtful & ~by_one] for column in (inner, outer, group, pair)))]
    for start, length in zip(
        starts[~common & group_moved].tolist(), lengths[~common & group_moved].tolist(), strict=True
    ):
        position = int(batch.graph_of[inner[start, 0]])
        offset = int(batch.offsets[position])
        rows = slice(start, start + length)
        wholes = [tuple(row) for row in (outer[rows] - offset).tolist()]
        symmetry = batch.symmetries[position]
        parts = [
            _part(symmetry, tuple(row), whole)
            for row, whole in zip((inner[rows] - offset).tolist(), wholes, strict=True)
        ]
        if not _overlap_alike(symmetry, parts, wholes):
            clashing.append(pair[start : start + 1])
    return np.unique(np.concatenate(clashing))


def _clashing_rows(batch: Batch, inner: Integers, outer: Integers, group: Integers, pair: Integers) -> Integers:
    """As _clashing, for occurrences that stand for themselves only, with one node between inner and outer."""
    if not len(inner):
        return np.zeros(0, dtype=np.int64)
    added = outer.sum(axis=1) - inner.sum(axis=1)
    total = len(batch.graph_of)
    holds_node = (group[:, None] * total + outer).ravel()
    order = np.argsort(holds_node, kind="stable")
    holds_node = holds_node[order]
    holder = order // outer.shape[1]
    lows = np.searchsorted(holds_node, group * total + added)
    highs = np.searchsorted(holds_node, group * total + added, side="right")
    sets = batch.bits(inner)
    found = []
    ends = np.cumsum(highs - lows)
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
        lengths = (highs - lows)[start:stop]
        one = np.repeat(np.arange(start, stop), lengths)
        other = holder[spread_out(lows[start:stop], lengths)]
        apart = ~(sets[one] & sets[other]).any(axis=1)
        found.append(pair[one[apart]])
        start = stop
    return np.unique(np.concatenate(found))


def _part(symmetry: Symmetry, small: Occurrence, whole: Occurrence) -> Occurrence:
    """Those nodes of an occurrence, all but one, that are an image of a smaller one."""
    wanted = bits(small)
    mask = bits(whole)
    for node in whole:
        if symmetry.representative(mask ^ 1 << node, ())[0] == wanted:
            return tuple(other for other in whole if other != node)
    raise AssertionError("a step of growth leads to an occurrence that does not hold the one it started from")


def _overlap_alike(symmetry: Symmetry, parts: list[Occurrence], wholes: list[Occurrence]) -> bool:
    """Whether wholes overlap only where their parts overlap, over all images of the given representatives."""
    pairs = [Nested(bits(part), bits(whole)) for part, whole in zip(parts, wholes, strict=True)]
    # Outside of the families all images of a representative are the same.
    common = ~symmetry.moved
    for pair in pairs:
        common &= pair.part
    if common:
        return True  # all parts share a node
    still = [pair for pair in pairs if not pair.whole & symmetry.moved]
    moved = [pair for pair in pairs if pair.whole & symmetry.moved]
    if any(may_clash(symmetry, one, other) for at, one in enumerate(moved) for other in (*moved[at:], *still)):
        return False
    holders: dict[int, list[int]] = {}
    for index, pair in enumerate(still):
        for node in members(pair.whole):
            holders.setdefault(node, []).append(index)
    return all(
        still[other].part & pair.part
        for pair in still
        for node in members(pair.whole & ~pair.part)
        for other in holders[node]
    )


# More than one node more


def claims(
    batches: Sequence[Batch],
    patterns: Sequence[Patterns],
    alike: Integers,
    wanted: Flags,
    first: Integers,
    shards: Integers,
) -> list[Claim]:
    """What hides patterns that no pattern with one node more hides, as far as these graphs can tell.

    Args:
        batches: all graphs of a shard.
        patterns: the patterns of each size.
        alike: see pairs_that_agree.
        wanted: whether a pattern is looked into, by id.
        first: by id, the index of the first graph that contains it; patterns with others are looked into elsewhere.
        shards: by id, the number of shards whose graphs contain it.
    """
    open_sizes = np.full(int(alike.max(initial=0)) + 1, len(patterns) + 1)
    for size, known in enumerate(patterns, start=1):
        np.minimum.at(open_sizes, alike[known.ids[wanted[known.ids]]], size)
    found = []
    for batch in batches:
        climb = _Climb(batches, batch, patterns, alike, open_sizes)
        for size, row, small in climb.starts(wanted, first):
            for claim in climb.claims(size, row, small):
                found.append(claim)
                if shards[small] == 1:
                    break
    return found


class _Climb:
    """The way up from occurrences to those that hold them and may hide their patterns.

    Args:
        batches: all graphs of a shard.
        batch: the graphs that are climbed in.
        patterns: the patterns of each size.
        alike: see pairs_that_agree.
        open_sizes: for each number in ``alike``, the least size of a pattern that is looked into.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        batch: Batch,
        patterns: Sequence[Patterns],
        alike: Integers,
        open_sizes: Integers,
    ) -> None:
        self._batches = batches
        self._batch = batch
        self._patterns = patterns
        self._alike = alike
        self._open_sizes = open_sizes
        self._reach: dict[int, Integers] = {}  # by size, see _numbered

    def _numbered(self, rows: Integers, alike: Integers) -> Integers:
        """One number for a row of a level and what is alike in it or above it."""
        return rows * len(self._open_sizes) + alike

    def starts(self, wanted: Flags, first: Integers) -> Iterator[tuple[int, int, int]]:
        """First occurrences of wanted patterns below an occurrence, two or more nodes larger, that is alike.

        From the largest occurrences down, each row carries the numbers of what is alike in all rows above it.

        Yields:
            size, row and id of the pattern.
        """
        batch, patterns, alike = self._batch, self._patterns, self._alike
        pairs = np.zeros(0, dtype=np.int64)
        for size in range(len(patterns) - 1, 0, -1):
            above, level = batch.levels[size], batch.levels[size - 1]
            own = alike[patterns[size].ids[above.pattern]]
            useful = np.flatnonzero(self._open_sizes[own] < size)
            self._reach[size + 1] = np.union1d(pairs, self._numbered(useful, own[useful]))
            far = self._below(pairs, above)
            pairs = self._below(self._reach[size + 1], above)
            pairs = pairs[self._open_sizes[pairs % len(self._open_sizes)] < size]
            ids = patterns[size - 1].ids[level.pattern]
            candidates = np.flatnonzero(wanted[ids] & (first[ids] == batch.indices[level.graph]))
            _, place = np.unique(ids[candidates], return_index=True)
            candidates = candidates[place]
            candidates = candidates[np.isin(self._numbered(candidates, alike[ids[candidates]]), far)]
            for row in candidates.tolist():
                yield size, row, int(ids[row])

    def _below(self, pairs: Integers, above: Level) -> Integers:
        """What is numbered in a level, numbered in the level before."""
        rows, numbers = np.divmod(pairs, len(self._open_sizes))
        lows = np.searchsorted(rows, above.children)
        lengths = np.searchsorted(rows, above.children, side="right") - lows
        at = spread_out(lows, lengths)
        return np.unique(self._numbered(np.repeat(above.parents.astype(np.int64), lengths), numbers[at]))

    def claims(self, start: int, row: int, small: int) -> Iterator[Claim]:
        """Claims that hold in these graphs.

        Args:
            start: size of a pattern.
            row: its first occurrence.
            small: its id.
        """
        batch = self._batch
        level = batch.levels[start - 1]
        alike = int(self._alike[small])
        position = int(level.graph[row])
        offset = int(batch.offsets[position])
        multiplicity = level.multiplicities(np.array([row]))[0]
        rows = level.rows_of(int(level.pattern[row]))
        count = len(rows)
        rows = rows[level.graph[rows] == position]
        smaller = [(bits(nodes), tuple(nodes)) for nodes in (level.nodes[rows] - offset).tolist()]
        current = np.array([row])
        for size in range(start + 1, len(self._patterns) + 1):
            level = batch.levels[size - 1]
            current = level.children_of(current)
            reach = self._reach[size]
            numbers = self._numbered(current, np.full(len(current), alike))
            current = current[_among(numbers, reach)]
            if not len(current):
                return
            ids = self._patterns[size - 1].ids[level.pattern[current]]
            possible = (self._alike[ids] == alike) & (level.multiplicities(current) == multiplicity)
            kept = np.ones(len(current), dtype=np.bool_)
            for at in np.flatnonzero(possible).tolist():
                if len(level.rows_of(int(level.pattern[current[at]]))) != count:
                    continue
                places = self._places(tuple((level.nodes[current[at]] - offset).tolist()), smaller, position)
                if places is None:
                    continue
                claim = Claim(small, int(ids[at]), size, places)
                if corresponds(self._batches, self._patterns, claim):
                    if overlaps_alike(self._batches, self._patterns, claim):
                        yield claim
                    else:
                        kept[at] = False  # whatever is larger overlaps as well
            current = current[kept]

    def _places(
        self, whole: Occurrence, smaller: Sequence[tuple[int, Occurrence]], position: int
    ) -> tuple[int, ...] | None:
        """Where the smaller pattern is in an occurrence that holds it exactly once."""
        mask = bits(whole)
        symmetry = self._batch.symmetries[position]
        found: int | None = None
        for small, nodes in smaller:
            if small & ~mask & ~symmetry.moved:
                continue
            for image in symmetry.images(small, nodes, ~mask):
                if found is not None:
                    return None
                found = bits(image)
        return None if found is None else tuple(at for at, node in enumerate(whole) if found >> node & 1)


def _among(numbers: Integers, known: Integers) -> Flags:
    """Which numbers are among sorted ones."""
    if not len(known):
        return np.zeros(len(numbers), dtype=np.bool_)
    found: Flags = known[np.minimum(np.searchsorted(known, numbers), len(known) - 1)] == numbers
    return found


def holds(batches: Sequence[Batch], patterns: Sequence[Patterns], claim: Claim) -> bool:
    """Whether a claim holds in these graphs."""
    return corresponds(batches, patterns, claim) and overlaps_alike(batches, patterns, claim)


def corresponds(batches: Sequence[Batch], patterns: Sequence[Patterns], claim: Claim) -> bool:
    """Whether the occurrences of two patterns correspond one to one, if larger ones hold one smaller each."""
    for batch in batches:
        inner = _rows(batch, patterns, len(claim.places), claim.small)
        outer = _rows(batch, patterns, claim.size, claim.large)
        if inner.keys() != outer.keys():
            return False
        for position, larger in outer.items():
            if len(inner[position]) != len(larger):
                return False
            symmetry = batch.symmetries[position]
            seen = set()
            for nodes in larger:
                mask = bits(nodes[at] for at in claim.places)
                seen.add(symmetry.representative(mask, ())[0])
                if symmetry.multiplicity(mask) != symmetry.multiplicity(bits(nodes)):
                    return False
            if len(seen) < len(larger):
                return False
    return True


def overlaps_alike(batches: Sequence[Batch], patterns: Sequence[Patterns], claim: Claim) -> bool:
    """Whether larger occurrences overlap only where the smaller ones in them do."""
    return all(
        _overlap_alike(batch.symmetries[position], [tuple(row[at] for at in claim.places) for row in rows], rows)
        for batch in batches
        for position, rows in _rows(batch, patterns, claim.size, claim.large).items()
    )


def _rows(batch: Batch, patterns: Sequence[Patterns], size: int, pattern: int) -> dict[int, list[Occurrence]]:
    """Representatives of a pattern by the position of their graph, nodes numbered within the graph."""
    found: dict[int, list[Occurrence]] = {}
    number = patterns[size - 1].number(pattern) if size <= len(patterns) else None
    if number is not None:
        level = batch.levels[size - 1]
        rows = level.rows_of(number)
        graphs = level.graph[rows]
        nodes = level.nodes[rows] - batch.offsets[graphs][:, None]
        for position, row in zip(graphs.tolist(), nodes.tolist(), strict=True):
            found.setdefault(position, []).append(tuple(row))
    return found
