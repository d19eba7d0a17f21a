"""Which patterns have the same occurrences as one that is two or more nodes larger; see closedness.py.

"Has the same occurrences" does not chain, so each pattern that no pattern of one node more hides is looked into. Only
where a larger occurrence with the same counts in every graph lies above the pattern's first occurrence at all, the
steps of growth are followed upwards from there, for all such patterns of a batch at once, and what is found with the
same counts is compared occurrence by occurrence.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from graphopt.mining.closedness import clashing_rows, overlap_alike, row_counts
from graphopt.mining.graphs import bits
from graphopt.mining.growth import Batch, Patterns
from graphopt.mining.levels import Numbers, Ways, narrow
from graphopt.mining.refinement import Flags, Integers, spread_out
from graphopt.mining.symmetry import Occurrence, images_within


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


class Occurrences:
    """The rows of every pattern in some batches, found by the pattern.

    Args:
        batches: all graphs of a shard.
        patterns: the patterns of each size.
    """

    def __init__(self, batches: Sequence[Batch], patterns: Sequence[Patterns]) -> None:
        self.batches = batches
        self.patterns = patterns
        self._known: dict[tuple[int, int], tuple[Numbers, Numbers]] = {}

    def rows(self, number: int, size: int, pattern: int) -> Numbers:
        """Rows, rising, of a pattern (by its number among those of its size) in one batch."""
        if (number, size) not in self._known:
            held = self.batches[number].levels[size - 1].pattern
            order = np.argsort(held, kind="stable")
            starts = np.searchsorted(held[order], np.arange(len(self.patterns[size - 1]) + 1))
            self._known[number, size] = narrow(order), narrow(starts)
        order, starts = self._known[number, size]
        return order[starts[pattern] : starts[pattern + 1]]

    def holds(self, claim: Claim) -> bool:
        """Whether a claim holds in these graphs."""
        return self.correspond(claim) and self.overlap_alike(claim)

    def correspond(self, claim: Claim) -> bool:
        """Whether the occurrences of two patterns correspond one to one, if larger ones hold one smaller each."""
        for number, batch in enumerate(self.batches):
            below, above = batch.levels[len(claim.places) - 1], batch.levels[claim.size - 1]
            inner = self._rows_of(number, len(claim.places), claim.small)
            outer = self._rows_of(number, claim.size, claim.large)
            if len(inner) != len(outer):
                return False
            if not len(inner):
                continue
            owners = above.graphs(outer)
            if not np.array_equal(below.graphs(inner), owners):
                return False
            nodes = above.nodes[outer].astype(np.int64)
            parts = nodes[:, list(claim.places)]
            moved = batch.families.moved[nodes].any(axis=1)
            still = np.sort(parts[~moved], axis=1)
            if len({row.tobytes() for row in still}) < len(still):
                return False
            seen = set()
            for at in np.flatnonzero(moved).tolist():
                position = int(owners[at])
                symmetry, offset = batch.symmetries[position], int(batch.offsets[position])
                mask = bits((parts[at] - offset).tolist())
                seen.add((position, symmetry.representative(mask, ())[0]))
                if symmetry.multiplicity(mask) != symmetry.multiplicity(bits((nodes[at] - offset).tolist())):
                    return False
            if len(seen) < np.count_nonzero(moved):
                return False
        return True

    def overlap_alike(self, claim: Claim) -> bool:
        """Whether larger occurrences overlap only where the smaller ones in them do."""
        inside = np.zeros(claim.size, dtype=np.bool_)
        inside[list(claim.places)] = True
        for number, batch in enumerate(self.batches):
            level = batch.levels[claim.size - 1]
            rows = self._rows_of(number, claim.size, claim.large)
            if not len(rows):
                continue
            nodes = level.nodes[rows].astype(np.int64)
            _, owner, counts = np.unique(level.graphs(rows), return_inverse=True, return_counts=True)
            owner = owner.ravel()
            moved = np.zeros(len(counts), dtype=np.bool_)
            moved[owner[batch.families.moved[nodes].any(axis=1)]] = True
            plain = (~moved & (counts > 1))[owner]
            outer, group = nodes[plain], owner[plain]
            if len(clashing_rows(batch, outer[:, inside], outer, group, group, outer[:, ~inside])):
                return False
            for graph in np.flatnonzero(moved).tolist():
                own = nodes[owner == graph]
                position = int(batch.graph_of[own[0, 0]])
                wholes = (own - batch.offsets[position]).tolist()
                parts = [tuple(row[at] for at in claim.places) for row in wholes]
                if not overlap_alike(batch.symmetries[position], parts, list(map(tuple, wholes))):
                    return False
        return True

    def _rows_of(self, number: int, size: int, pattern: int) -> Numbers:
        """Rows of a pattern by its id."""
        own = self.patterns[size - 1].number(pattern) if size <= len(self.patterns) else None
        return np.zeros(0, dtype=np.uint8) if own is None else self.rows(number, size, own)


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
        alike: for each id a number, equal for patterns of which one may hide the other.
        wanted: whether a pattern is looked into, by id.
        first: by id, the index of the first graph that contains it; patterns with others are looked into elsewhere.
        shards: by id, the number of shards whose graphs contain it: where it is one, one claim is enough.
    """
    open_sizes = np.full(int(alike.max(initial=0)) + 1, len(patterns) + 1)
    for size, known in enumerate(patterns, start=1):
        np.minimum.at(open_sizes, alike[known.ids[wanted[known.ids]]], size)
    occurrences = Occurrences(batches, patterns)
    counts = np.zeros(len(alike), dtype=np.int64)
    for size, known in enumerate(patterns):
        counts[known.ids] = row_counts([batch.levels[size] for batch in batches], len(known))
    found: list[Claim] = []
    for number in range(len(batches)):
        climb = _Climb(occurrences, number, alike, open_sizes, counts)
        climb.start(wanted, first)
        found.extend(climb.claims(shards))
    return found


class _Climb:
    """The way up, in one batch, from occurrences to those that hold them and may hide their patterns.

    Args:
        occurrences: all rows of a shard.
        number: the batch.
        alike: see claims.
        open_sizes: for each number in ``alike``, the least size of a pattern that is looked into.
        counts: for each id, the number of rows of the pattern in the shard.
    """

    def __init__(
        self,
        occurrences: Occurrences,
        number: int,
        alike: Integers,
        open_sizes: Integers,
        counts: Integers,
    ) -> None:
        self._occurrences = occurrences
        self._number = number
        self._batch = occurrences.batches[number]
        self._patterns = occurrences.patterns
        self._alike = alike
        self._open_sizes = open_sizes
        self._counts = counts
        self._reach: dict[int, Integers] = {}  # by size, see _numbered
        self._starts: dict[int, Integers] = {}  # by size: rows
        self._inside = np.zeros(len(self._batch.graph_of), dtype=np.bool_)

    def _numbered(self, rows: Integers, alike: Integers) -> Integers:
        """One number for a row of a level and what is alike in it or above it."""
        return rows * len(self._open_sizes) + alike

    def start(self, wanted: Flags, first: Integers) -> None:
        """Find first occurrences of wanted patterns below an occurrence, two or more nodes larger, that is alike.

        From the largest occurrences down, each row carries the numbers of what is alike in all rows above it.
        """
        batch, patterns, alike = self._batch, self._patterns, self._alike
        pairs = np.zeros(0, dtype=np.int64)
        for size in range(len(patterns) - 1, 0, -1):
            above, level = batch.levels[size], batch.levels[size - 1]
            own = alike[patterns[size].ids[above.pattern]]
            useful = np.flatnonzero(self._open_sizes[own] < size)
            here = self._numbered(useful, own[useful])
            self._reach[size + 1] = np.union1d(pairs, here)
            steps = above.steps()
            far = self._below(pairs, *steps)
            pairs = np.union1d(far, self._below(here, *steps))
            pairs = pairs[self._open_sizes[pairs % len(self._open_sizes)] < size]
            ids = patterns[size - 1].ids[level.pattern]
            candidates = np.flatnonzero(wanted[ids] & (first[ids] == batch.indices[level.graph]))
            _, place = np.unique(ids[candidates], return_index=True)
            candidates = candidates[place]
            self._starts[size] = candidates[_among(self._numbered(candidates, alike[ids[candidates]]), far)]

    def _below(self, pairs: Integers, parents: Integers, children: Integers) -> Integers:
        """What is numbered in a level, numbered in the level before."""
        rows, numbers = np.divmod(pairs, len(self._open_sizes))
        count = int(children[-1]) + 2 if len(children) else 1
        starts = np.searchsorted(rows, np.arange(count))
        lows = starts[children]
        lengths = starts[children + 1] - lows
        at = spread_out(lows, lengths)
        return np.unique(self._numbered(np.repeat(parents, lengths), numbers[at]))

    def claims(self, shards: Integers) -> Iterator[Claim]:
        """Claims that hold in these graphs."""
        batch, alike = self._batch, self._alike
        who = rows = small = base = np.zeros(0, dtype=np.int64)
        copies = batch.levels[0].multiplicities(rows)
        settled = np.zeros(0, dtype=np.bool_)
        for size, patterns in enumerate(self._patterns, start=1):
            level = batch.levels[size - 1]
            ids = patterns.ids[level.pattern]
            if len(rows):
                at, rows = Ways(level).up(rows)
                who, rows = np.divmod(np.unique(who[at] * len(level) + rows), len(level))
                going = ~settled[who] & _among(self._numbered(rows, alike[small[who]]), self._reach[size])
                who, rows = who[going], rows[going]
                possible = np.flatnonzero(
                    (alike[ids[rows]] == alike[small[who]])
                    & (level.multiplicities(rows) == copies[who])
                    & (self._counts[ids[rows]] == self._counts[small[who]])
                )
                kept = np.ones(len(rows), dtype=np.bool_)
                for step in possible.tolist():
                    start = int(who[step])
                    if settled[start]:
                        continue
                    claim = self._claim(int(small[start]), int(base[start]), int(ids[rows[step]]), size, rows[step])
                    if claim is None:
                        kept[step] = False  # whatever is larger holds the pattern several times as well
                    elif self._occurrences.correspond(claim):
                        kept[step] = self._occurrences.overlap_alike(
                            claim
                        )  # if not, whatever is larger does not either
                        if kept[step]:
                            yield claim
                            settled[start] = shards[claim.small] == 1
                who, rows = who[kept], rows[kept]
            new = self._starts.get(size)
            if new is not None and len(new):
                who = np.concatenate([who, np.arange(len(small), len(small) + len(new))])
                rows = np.concatenate([rows, new])
                small = np.concatenate([small, ids[new]])
                base = np.concatenate([base, np.full(len(new), size)])
                copies = np.concatenate([copies, level.multiplicities(new)])
                settled = np.concatenate([settled, np.zeros(len(new), dtype=np.bool_)])

    def _claim(self, small: int, base: int, large: int, size: int, row: int) -> Claim | None:
        """That a pattern hides a smaller one, if an occurrence of it holds the smaller one exactly once."""
        level = self._batch.levels[size - 1]
        position = int(level.graphs(np.array([row]))[0])
        offset = int(self._batch.offsets[position])
        whole = level.nodes[row].astype(np.int64)
        number = self._patterns[base - 1].number(small)
        assert number is not None
        below = self._batch.levels[base - 1]
        rows = self._occurrences.rows(self._number, base, number)
        nodes = below.nodes[rows]
        moved = self._batch.families.moved
        if not moved[whole].any():
            self._inside[whole] = True
            held = np.flatnonzero(self._inside[nodes].all(axis=1))
            self._inside[whole] = False
            if len(held) != 1:
                return None
            part = set(nodes[held[0]].tolist())
            return Claim(small, large, size, tuple(at for at, node in enumerate(whole.tolist()) if node in part))
        own = nodes[below.graphs(rows) == position].astype(np.int64) - offset
        places = self._places(tuple((whole - offset).tolist()), own.tolist(), position)
        return None if places is None else Claim(small, large, size, places)

    def _places(self, whole: Occurrence, smaller: Sequence[list[int]], position: int) -> tuple[int, ...] | None:
        """Where the smaller pattern is in an occurrence that holds it exactly once."""
        mask = bits(whole)
        symmetry = self._batch.symmetries[position]
        shape = symmetry.shape(mask)
        found: list[int] | None = None
        for nodes in smaller:
            count = images_within(symmetry.shape(bits(nodes)), shape)
            if count > 1 or (count and found is not None):
                return None
            if count:
                found = nodes
        if found is None:
            return None
        part = bits(next(symmetry.images(bits(found), tuple(found), ~mask)))
        return tuple(at for at, node in enumerate(whole) if part >> node & 1)


def _among(numbers: Integers, known: Integers) -> Flags:
    """Which numbers are among sorted ones."""
    if not len(known):
        return np.zeros(len(numbers), dtype=np.bool_)
    found: Flags = known[np.minimum(np.searchsorted(known, numbers), len(known) - 1)] == numbers
    return found
