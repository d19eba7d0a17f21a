"""Which patterns have the same occurrences as a larger one, so that they are not closed: with one node more.

A pattern P gives way to a larger pattern Q when (1) each occurrence of P lies in exactly one occurrence of Q, each of
which holds exactly one of P, and (2) occurrences of P that are disjoint lie in occurrences of Q that are disjoint.

Nearly always, when there is such a Q, there is one with a single node more. Those are found for all patterns at once
from the steps of growth. For what is left see claims.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from graphopt.mining.graphs import bits, members
from graphopt.mining.growth import Batch, Patterns
from graphopt.mining.levels import Level, Numbers, narrow
from graphopt.mining.refinement import Integers, spread_out
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
        rows_of_inner = row_counts([batch.levels[size - 1] for batch in batches], len(inner))
        rows_of_outer = row_counts([batch.levels[size] for batch in batches], len(outer))
        inner_alike, outer_alike = alike[inner.ids], alike[outer.ids]
        linked = []
        for batch in batches:
            below, above = batch.levels[size - 1], batch.levels[size]
            parents, children = above.steps()
            p, q = below.pattern[parents].astype(np.int64), above.pattern[children].astype(np.int64)
            rows = np.flatnonzero((inner_alike[p] == outer_alike[q]) & (rows_of_inner[p] == rows_of_outer[q]))
            pair = p[rows] * len(outer) + q[rows]
            linked.append(_Links.of(below, above, pair, parents[rows], children[rows], rows))
        values, which = np.unique(np.concatenate([links.pairs for links in linked]), return_inverse=True)
        if not len(values):
            continue
        steps, parents, children, uneven = (
            np.bincount(which.ravel(), weights=np.concatenate(column), minlength=len(values))
            for column in zip(*((link.steps, link.parents, link.children, link.uneven) for link in linked), strict=True)
        )
        agree = (
            (steps == parents) & (steps == children) & (steps == rows_of_inner[values // len(outer)]) & (uneven == 0)
        )
        for batch, links in zip(batches, linked, strict=True):
            at = np.searchsorted(values, links.pairs)
            own = np.flatnonzero(agree[at][links.pair])
            agree[_clashing(batch, size, links.parent[own], links.child[own], at[links.pair[own]])] = False
        found = values[agree]
        small.append(inner.ids[found // len(outer)])
        large.append(outer.ids[found % len(outer)])
    return Pairs(np.concatenate(small), np.concatenate(large))


class _Links(NamedTuple):
    """Steps of growth in one batch between patterns that may agree.

    Attributes:
        pairs: sorted numbers of pairs of patterns.
        steps: for each, how many steps lead from the smaller to the larger.
        parents: for each, from how many rows.
        children: for each, to how many rows.
        uneven: for each, how many steps do not lead from one occurrence to one.
        pair: for each step the position of its pair.
        parent: for each step the row that it starts from.
        child: for each step the row that it leads to.
    """

    pairs: Integers
    steps: Integers
    parents: Integers
    children: Integers
    uneven: Integers
    pair: Numbers
    parent: Numbers
    child: Numbers

    @classmethod
    def of(
        cls, below: Level, above: Level, pair: Integers, parents: Integers, children: Integers, steps: Integers
    ) -> "_Links":
        """All that is said of some steps, from their numbers, their ends and the numbers of their pairs."""
        uneven = below.multiplicities(parents) != above.multiplicities(children)
        uneven = uneven.astype(np.bool_) | np.isin(steps, above.several)
        pairs, which, counts = np.unique(pair, return_inverse=True, return_counts=True)
        which = which.ravel()
        return cls(
            pairs,
            counts,
            _distinct(which, parents, len(pairs)),
            _distinct(which, children, len(pairs)),
            np.bincount(which[uneven], minlength=len(pairs)),
            narrow(which),
            narrow(parents),
            narrow(children),
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


def _clashing(batch: Batch, size: int, parents: Numbers, children: Numbers, pair: Integers) -> Integers:
    """Pairs (of those given for each step) with larger occurrences that overlap where the smaller ones do not.

    Args:
        batch: the graphs.
        size: nodes of the smaller patterns.
        parents: for each step of growth, of those that lead from all occurrences of a pattern to all of a larger one,
            the row that it starts from.
        children: for each, the row that it leads to.
        pair: for each, the number of the pair of patterns.
    """
    below, above = batch.levels[size - 1], batch.levels[size]
    _, group = np.unique(pair * batch.count + above.graphs(children), return_inverse=True)
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
    clashing = [clashing_rows(batch, *(column[doubtful & ~by_one] for column in (inner, outer, group, pair)))]
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
        if not overlap_alike(symmetry, parts, wholes):
            clashing.append(pair[start : start + 1])
    return np.unique(np.concatenate(clashing))


def clashing_rows(
    batch: Batch, inner: Integers, outer: Integers, group: Integers, pair: Integers, added: Integers | None = None
) -> Integers:
    """As _clashing, for occurrences that stand for themselves only.

    Args:
        batch: the graphs.
        inner: the smaller occurrences.
        outer: the larger ones.
        group: equal for occurrences of one pattern in one graph.
        pair: what is returned where they clash.
        added: the nodes between inner and outer, a row each; the one node when None.
    """
    if not len(inner):
        return np.zeros(0, dtype=np.int64)
    total = len(batch.graph_of)
    added = (outer.sum(axis=1) - inner.sum(axis=1))[:, None] if added is None else added
    holds_node = (group[:, None] * total + outer).ravel()
    order = np.argsort(holds_node, kind="stable")
    holds_node = holds_node[order]
    holder = order // outer.shape[1]
    lows = np.searchsorted(holds_node, (group[:, None] * total + added).ravel())
    highs = np.searchsorted(holds_node, (group[:, None] * total + added).ravel(), side="right")
    sets = batch.bits(inner)
    found = []
    ends = np.cumsum(highs - lows)
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
        lengths = (highs - lows)[start:stop]
        one = np.repeat(np.arange(start, stop) // added.shape[1], lengths)
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


def overlap_alike(symmetry: Symmetry, parts: list[Occurrence], wholes: list[Occurrence]) -> bool:
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
