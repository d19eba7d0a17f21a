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
from graphopt.mining.levels import Numbers, Stretch, narrow
from graphopt.mining.refinement import Flags, Hashes, Integers
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
    occurrences = Occurrences(batches, patterns)
    counts = np.zeros(len(alike), dtype=np.int64)
    for size, known in enumerate(patterns):
        counts[known.ids] = row_counts([batch.levels[size] for batch in batches], len(known))
    found: list[Claim] = []
    for number, batch in enumerate(batches):
        bounds = [level.firsts(batch.count + 1) for level in batch.levels]
        steps = [np.concatenate([[0], np.cumsum(level.ways, dtype=np.int64)]) for level in batch.levels]
        asked = [_firsts_of(batch, known, size, wanted, first) for size, known in enumerate(patterns)]
        for graph in np.unique(np.concatenate([graphs for _, graphs in asked])).tolist():
            stretches = [
                Stretch.of(level, int(bound[graph]), int(bound[graph + 1]), step)
                for level, bound, step in zip(batch.levels, bounds, steps, strict=True)
            ]
            climb = _Climb(occurrences, number, alike, counts, stretches)
            climb.start([rows[graphs == graph] for rows, graphs in asked])
            found.extend(climb.claims(shards))
    return found


def _firsts_of(batch: Batch, patterns: Patterns, size: int, wanted: Flags, first: Integers) -> tuple[Integers, Numbers]:
    """A first occurrence of each wanted pattern of a size, if its first graph is in a batch: rows, and their graphs."""
    level = batch.levels[size]
    ids = patterns.ids[level.pattern]
    rows = np.flatnonzero(wanted[ids] & (first[ids] == batch.indices[level.graph]))
    _, place = np.unique(ids[rows], return_index=True)
    return rows[place], level.graphs(rows[place])


class _Climb:
    """The way up, in one graph, from occurrences to those that hold them and may hide their patterns.

    Args:
        occurrences: all rows of a shard.
        number: the graph's batch.
        alike: see claims.
        counts: for each id, the number of rows of the pattern in the shard.
        stretches: the graph's rows of each size.
    """

    def __init__(
        self,
        occurrences: Occurrences,
        number: int,
        alike: Integers,
        counts: Integers,
        stretches: Sequence[Stretch],
    ) -> None:
        self._occurrences = occurrences
        self._number = number
        self._batch = occurrences.batches[number]
        self._patterns = occurrences.patterns
        self._alike = alike
        self._counts = counts
        self._stretches = stretches
        self._numbers = np.zeros(0, dtype=np.int64)  # what is alike in patterns that are looked into, sorted
        self._marks: list[Hashes] = []  # by size: for each row the bits of those numbers that are in it or above it
        self._starts: list[Integers] = []  # by size: rows
        self._inside = np.zeros(len(self._batch.graph_of), dtype=np.bool_)

    def _ids(self, size: int) -> Integers:
        """The id of each row's pattern."""
        stretch = self._stretches[size]
        level = self._batch.levels[size]
        return self._patterns[size].ids[level.pattern[stretch.low : stretch.low + stretch.count]]

    def start(self, asked: Sequence[Integers]) -> None:
        """Find those of some rows that lie below a row, two or more nodes larger, that is alike.

        From the largest rows down, each is marked with the numbers of what is alike in all rows above it.

        Args:
            asked: for each size rows of the level.
        """
        rows = [own - stretch.low for own, stretch in zip(asked, self._stretches, strict=True)]
        numbers = [self._alike[self._ids(size)[own]] for size, own in enumerate(rows)]
        self._numbers = np.unique(np.concatenate(numbers))
        least = np.full(len(self._numbers), len(rows))
        for size, own in enumerate(numbers):
            np.minimum.at(least, np.searchsorted(self._numbers, own), size)
        words = -(-len(self._numbers) // 64)
        beyond = np.zeros((0, words), dtype=np.uint64)
        self._marks = [beyond] * len(rows)
        self._starts = [np.zeros(0, dtype=np.int64)] * len(rows)
        for size in range(len(rows) - 1, -1, -1):
            count = self._stretches[size].count
            far = above = np.zeros((count, words), dtype=np.uint64)
            if size + 1 < len(rows):
                far = self._stretches[size + 1].down(beyond, count)
                above = self._stretches[size + 1].down(self._marks[size + 1], count)
            marks = above.copy()
            at, place = self._placed(self._alike[self._ids(size)])
            useful = least[place] < size - 1
            at, place = at[useful], place[useful]
            marks[at, place >> 6] |= np.uint64(1) << (place & 63).astype(np.uint64)
            self._marks[size] = marks
            self._starts[size] = rows[size][_marked(far, rows[size], np.searchsorted(self._numbers, numbers[size]))]
            beyond = above

    def _placed(self, numbers: Integers) -> tuple[Integers, Integers]:
        """Which of some numbers are looked into: their positions, and their places among those."""
        place = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        at = np.flatnonzero(self._numbers[place] == numbers)
        return at, place[at]

    def claims(self, shards: Integers) -> Iterator[Claim]:
        """Claims that hold in these graphs."""
        batch, alike = self._batch, self._alike
        who = rows = small = base = place = np.zeros(0, dtype=np.int64)
        copies = batch.levels[0].multiplicities(rows)
        settled = np.zeros(0, dtype=np.bool_)
        for size, stretch in enumerate(self._stretches):
            level, ids = batch.levels[size], self._ids(size)
            if len(rows):
                at, rows = stretch.up(rows)
                who, rows = np.divmod(np.unique(who[at] * max(stretch.count, 1) + rows), max(stretch.count, 1))
                going = ~settled[who] & _marked(self._marks[size], rows, place[who])
                who, rows = who[going], rows[going]
                possible = np.flatnonzero(
                    (alike[ids[rows]] == alike[small[who]])
                    & (level.multiplicities(rows + stretch.low) == copies[who])
                    & (self._counts[ids[rows]] == self._counts[small[who]])
                )
                kept = np.ones(len(rows), dtype=np.bool_)
                for step in possible.tolist():
                    start = int(who[step])
                    if settled[start]:
                        continue
                    large, row = int(ids[rows[step]]), int(rows[step]) + stretch.low
                    claim = self._claim(int(small[start]), int(base[start]), large, size + 1, row)
                    if claim is None:
                        kept[step] = False  # whatever is larger holds the pattern several times as well
                    elif self._occurrences.correspond(claim):
                        kept[step] = self._occurrences.overlap_alike(claim)  # if not, nor does whatever is larger
                        if kept[step]:
                            yield claim
                            settled[start] = shards[claim.small] == 1
                who, rows = who[kept], rows[kept]
            new = self._starts[size]
            if len(new):
                who = np.concatenate([who, np.arange(len(small), len(small) + len(new))])
                rows = np.concatenate([rows, new])
                small = np.concatenate([small, ids[new]])
                base = np.concatenate([base, np.full(len(new), size + 1)])
                place = np.concatenate([place, np.searchsorted(self._numbers, alike[ids[new]])])
                copies = np.concatenate([copies, level.multiplicities(new + stretch.low)])
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


def _marked(marks: Hashes, rows: Integers, places: Integers) -> Flags:
    """Whether some rows of a table of bits have some bits."""
    found: Flags = (marks[rows, places >> 6] >> (places & 63).astype(np.uint64) & np.uint64(1)).astype(np.bool_)
    return found
