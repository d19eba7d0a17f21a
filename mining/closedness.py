"""Which patterns are closed.

A pattern P gives way to a pattern Q with one node more when (1) each occurrence of P lies in exactly one occurrence of
Q, each of which holds exactly one of P, and (2) occurrences of P that are disjoint lie in occurrences of Q that are
disjoint. P is closed when it gives way to none. That is found for all patterns of a level at once, by counting the
steps of growth that lead to the next one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from graphopt.mining.batch import Batch
from graphopt.mining.compiled import compiled
from graphopt.mining.forced import not_always
from graphopt.mining.graphs import bits, members
from graphopt.mining.levels import Level, Numbers, Steps
from graphopt.mining.patterns import Patterns
from graphopt.mining.refinement import Flags, Hashes, Integers
from graphopt.mining.symmetry import Nested, Occurrence, Symmetry, may_clash


class Pairs(NamedTuple):
    """Pairs of patterns: the smaller gives way to the larger, which has one node more, in some shard's graphs.

    Attributes:
        small: ids of the smaller ones.
        large: keys of the larger ones.
        always: whether whatever holds the smaller one without the added node gives way as well; see forced.py.
    """

    small: Integers
    large: Hashes
    always: Flags

    def forced(self) -> tuple[Integers, Hashes]:
        """Of each pattern that always gives way, its id, rising, and the first larger one to which it does."""
        always = np.flatnonzero(self.always)
        small, first = np.unique(self.small[always], return_index=True)
        return small, self.large[always[first]]


class Judged(NamedTuple):
    """What is known of the patterns of one size.

    Attributes:
        pairs: which give way to which, by the graphs that have been grown.
        cut: rising ids of patterns that also occur in graphs which went over the work budget: of those that give way,
            nobody knows whether they would there.
        only: of these, those that occur in no other graph.
    """

    pairs: Pairs
    cut: Integers
    only: Integers


def agreed(shards: Sequence[Judged], holding: Integers, low: int) -> Judged:
    """What all shards together know: pairs, in order, on which all agree that hold the smaller pattern.

    Args:
        shards: what each shard says.
        holding: for each smaller pattern, from the id ``low``, how many shards hold it.
        low: the first id.
    """
    cut = np.unique(np.concatenate([judged.cut for judged in shards]))
    asked = holding - np.bincount(np.concatenate([judged.only for judged in shards]) - low, minlength=len(holding))
    only = cut[asked[cut - low] == 0]
    small, large, always = (
        np.concatenate(columns) for columns in zip(*(judged.pairs for judged in shards), strict=True)
    )
    order = np.lexsort((large[:, 1], large[:, 0], small))
    small, large, always = small[order], large[order], always[order]
    start = np.ones(len(small), dtype=np.bool_)
    start[1:] = (small[1:] != small[:-1]) | (large[1:] != large[:-1]).any(axis=1)
    starts = np.flatnonzero(start)
    if not len(starts):
        return Judged(Pairs(small, large, always), cut, only)
    fits = np.diff(starts, append=len(small)) == asked[small[starts] - low]
    small, large, always = small[starts][fits], large[starts][fits], np.logical_and.reduceat(always, starts)[fits]
    return Judged(Pairs(small, large, always & ~np.isin(small, cut)), cut, only)


def judged(batches: Sequence[Batch], inner: Patterns, outer: Patterns, reach: int) -> Judged:
    """All pairs of patterns of the last two levels of which the smaller gives way to the larger in these graphs.

    Args:
        batches: all graphs of a shard, just grown.
        inner: the patterns of the level before the last one.
        outer: those of the last level.
        reach: for ``always``, the most nodes of what is considered; 0 where it is not asked.
    """
    rows_of_inner = row_counts([batch.levels[-2] for batch in batches], len(inner))
    rows_of_cut = np.zeros(len(inner), dtype=np.int64)
    for batch in batches:
        cut = np.isin(batch.indices, [graph for graph, size in batch.truncated.items() if size == outer.size])
        if cut.any():
            level = batch.levels[-2]
            rows_of_cut += np.bincount(level.pattern[cut[level.graph]], minlength=len(inner))
    held = np.flatnonzero(rows_of_cut)
    only = held[rows_of_cut[held] == rows_of_inner[held]]
    pairs = _pairs(batches, inner, outer, rows_of_inner - rows_of_cut, reach)
    return Judged(pairs, inner.ids[held], inner.ids[only])


def _pairs(batches: Sequence[Batch], inner: Patterns, outer: Patterns, rows_of_inner: Integers, reach: int) -> Pairs:
    """As judged, from the number of rows of each smaller pattern in the graphs that have been grown."""
    rows_of_outer = row_counts([batch.levels[-1] for batch in batches], len(outer))
    linked = []
    for batch in batches:
        below, above = batch.levels[-2], batch.levels[-1]
        assert batch.steps is not None
        p = below.pattern[batch.steps.parents].astype(np.int64)
        q = above.pattern[batch.steps.children].astype(np.int64)
        alike = np.flatnonzero(rows_of_inner[p] == rows_of_outer[q])
        linked.append(_Links.of(below, above, p[alike] * len(outer) + q[alike], batch.steps.of(alike)))
    values, which = np.unique(np.concatenate([links.pairs for links in linked]), return_inverse=True)
    counted = zip(*((links.ways, links.parents, links.children, links.uneven) for links in linked), strict=True)
    ways, parents, children, uneven = (
        np.bincount(which.ravel(), weights=np.concatenate(column), minlength=len(values)) for column in counted
    )
    agree = (ways == parents) & (ways == children) & (ways == rows_of_inner[values // len(outer)]) & (uneven == 0)
    always = np.full(len(values), bool(reach))
    for batch, links in zip(batches, linked, strict=True):
        at = np.searchsorted(values, links.pairs)
        own = np.flatnonzero(agree[at][links.pair])
        steps, pair = links.steps.of(own), at[links.pair[own]]
        clashing = _clashing(batch, steps.parents, steps.children, pair)
        agree[clashing] = False
        if reach:
            still = np.flatnonzero(agree[pair])
            always[not_always(batch, inner, steps.of(still), pair[still], reach)] = False
    found = np.flatnonzero(agree)
    return Pairs(inner.ids[values[found] // len(outer)], outer.keys[values[found] % len(outer)], always[found])


class _Links(NamedTuple):
    """Steps of growth in one batch between patterns that may agree.

    Attributes:
        pairs: sorted numbers of pairs of patterns.
        ways: for each, how many steps lead from the smaller to the larger.
        parents: for each, from how many rows.
        children: for each, to how many rows.
        uneven: for each, how many steps do not lead from one occurrence to one.
        pair: for each step the position of its pair.
        steps: the steps.
    """

    pairs: Integers
    ways: Integers
    parents: Integers
    children: Integers
    uneven: Integers
    pair: Integers
    steps: Steps

    @classmethod
    def of(cls, below: Level, above: Level, pair: Integers, steps: Steps) -> "_Links":
        """All that is said of some steps, from the numbers of their pairs."""
        uneven = below.multiplicities(steps.parents) != above.multiplicities(steps.children)
        uneven = uneven.astype(np.bool_) | steps.several
        pairs, which, counts = np.unique(pair, return_inverse=True, return_counts=True)
        which = which.ravel()
        return cls(
            pairs,
            counts,
            _distinct(which, steps.parents, len(pairs)),
            _distinct(which, steps.children, len(pairs)),
            np.bincount(which[uneven], minlength=len(pairs)),
            which,
            steps,
        )


def row_counts(levels: Sequence[Level], patterns: int) -> Integers:
    """Number of rows of each pattern in some levels."""
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


def _clashing(batch: Batch, parents: Integers, children: Integers, pair: Integers) -> Integers:
    """Pairs (of those given for each step) with larger occurrences that overlap where the smaller ones do not.

    Args:
        batch: the graphs.
        parents: for each step of growth, of those that lead from all occurrences of a pattern to all of a larger one,
            the row that it starts from.
        children: for each, the row that it leads to.
        pair: for each, the number of the pair of patterns.
    """
    below, above = batch.levels[-2], batch.levels[-1]
    group = pair * batch.count + above.graphs(children)
    order = np.argsort(group, kind="stable")
    group, pair, parents, children = group[order], pair[order], parents[order], children[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    several = above.multiplicities(children) != 1
    inner, outer = below.nodes[parents].astype(np.int64), above.nodes[children].astype(np.int64)
    moved = batch.families.moved
    bounds = np.append(starts, len(group))
    clashing, symmetric = _clashing_groups(
        bounds, pair, several.astype(np.bool_), inner, outer, moved, batch.word, batch.bit
    )
    found = np.zeros(int(pair.max(initial=-1)) + 1, dtype=np.bool_)
    found[pair[starts[clashing]]] = True
    for number in symmetric.tolist():
        low, high = int(bounds[number]), int(bounds[number + 1])
        if found[pair[low]]:
            continue
        position = int(batch.graph_of[inner[low, 0]])
        offset = int(batch.offsets[position])
        wholes = [tuple(row) for row in (outer[low:high] - offset).tolist()]
        symmetry = batch.symmetries[position]
        smaller = map(tuple, (inner[low:high] - offset).tolist())
        parts = [_part(symmetry, small, whole) for small, whole in zip(smaller, wholes, strict=True)]
        found[pair[low]] = not _overlap_alike(symmetry, parts, wholes)
    return np.flatnonzero(found)


@compiled
def _clashing_groups(
    bounds: Integers,
    pair: Integers,
    several: Flags,
    inner: Integers,
    outer: Integers,
    moved: Flags,
    word: Numbers,
    bit: Hashes,
) -> tuple[Integers, Integers]:
    """Groups in which larger occurrences overlap where the smaller ones do not, and groups where symmetry decides.

    Args:
        bounds: where each group of rows begins, and where the last one ends: occurrences of one pattern in one graph.
        pair: for each row the number of its pair of patterns; of a pair that clashes, one group is enough.
        several: whether the row stands for several occurrences.
        inner: the smaller occurrences.
        outer: the larger ones.
        moved: which nodes have a family.
        word: for each node the word of its bit.
        bit: the bit in that.
    """
    held = np.zeros(len(moved), dtype=np.int64)
    last = np.full(len(moved), -1, dtype=np.int64)
    before = np.empty(outer.shape, dtype=np.int64)
    sets = np.zeros((len(outer), int(word.max()) + 1 if len(word) else 0), dtype=np.uint64)
    clashing = np.zeros(len(bounds) - 1, dtype=np.bool_)
    symmetric = np.zeros(len(bounds) - 1, dtype=np.bool_)
    known = -1
    for group in range(len(bounds) - 1):
        low, high = bounds[group], bounds[group + 1]
        if known == pair[low] or (high - low == 1 and not several[low]):
            continue
        # Where all smaller occurrences share a node that stays in place, none are disjoint.
        common, symmetries = False, False
        for row in range(low, high):
            for node in inner[row]:
                held[node] += not moved[node]
                common |= held[node] == high - low
            for node in outer[row]:
                symmetries |= moved[node]
        for row in range(low, high):
            for node in inner[row]:
                held[node] = 0
        if common:
            continue
        if symmetries:
            symmetric[group] = True
            continue
        # For each node the last row that holds it, for each row and place the one before that.
        for row in range(low, high):
            for at, node in enumerate(outer[row]):
                before[row, at] = last[node]
                last[node] = row
            for node in inner[row]:
                sets[row, word[node]] |= bit[node]
        for row in range(low, high):
            added = 0
            for node in outer[row]:
                if not sets[row, word[node]] & bit[node]:
                    added = node
            other = last[added]
            while other >= 0 and not clashing[group]:
                clashing[group] = not (sets[row] & sets[other]).any()
                at = 0
                while outer[other, at] != added:
                    at += 1
                other = before[other, at]
            if clashing[group]:
                known = pair[low]
                break
        for row in range(low, high):
            for node in outer[row]:
                last[node] = -1
    return np.flatnonzero(clashing), np.flatnonzero(symmetric)


def _part(symmetry: Symmetry, small: Occurrence, whole: Occurrence) -> Occurrence:
    """Those nodes of an occurrence, all but one, that are an image of a smaller one."""
    if set(small) < set(whole):
        return small
    wanted = bits(small)
    mask = bits(whole)
    for node in whole:
        if symmetry.representative(mask ^ 1 << node, ())[0] == wanted:
            return tuple(other for other in whole if other != node)
    raise AssertionError("a step of growth leads to an occurrence that does not hold the one it started from")


def _overlap_alike(symmetry: Symmetry, parts: list[Occurrence], wholes: list[Occurrence]) -> bool:
    """Whether wholes overlap only where their parts overlap, over all images of the given representatives."""
    pairs = [Nested.of(symmetry, bits(part), bits(whole)) for part, whole in zip(parts, wholes, strict=True)]
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
