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
from graphopt.mining.forced import not_always
from graphopt.mining.links import links_of
from graphopt.mining.overlaps import clashing
from graphopt.mining.patterns import Patterns
from graphopt.mining.refinement import Flags, Hashes, Integers


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
        shards: what each shard says; its pairs in order of small ids and large keys.
        holding: for each smaller pattern, from the id ``low``, how many shards hold it.
        low: the first id.
    """
    cut = np.unique(np.concatenate([judged.cut for judged in shards]))
    asked = holding - np.bincount(np.concatenate([judged.only for judged in shards]) - low, minlength=len(holding))
    only = cut[asked[cut - low] == 0]
    if len(shards) == 1:
        small, large, always = shards[0].pairs
        return Judged(Pairs(small, large, always & ~np.isin(small, cut)), cut, only)
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

    Returns:
        the pairs in order of small ids and large keys.
    """
    rows_of_cut: Integers = np.zeros(len(inner), dtype=np.int64)
    rows: Integers = np.zeros((len(batches), len(inner)), dtype=np.int64)
    for batch, counts in zip(batches, rows, strict=True):
        level = batch.levels[-2]
        counts += np.bincount(level.pattern, minlength=len(inner))
        cut = np.isin(batch.indices, [graph for graph, size in batch.truncated.items() if size == outer.size])
        if cut.any():
            of_cut = np.bincount(level.pattern[cut[level.graph]], minlength=len(inner))
            rows_of_cut += of_cut
            counts -= of_cut
    held = np.flatnonzero(rows_of_cut)
    only = held[rows[:, held].sum(axis=0) == 0]
    return Judged(_pairs(batches, inner, outer, rows, reach), inner.ids[held], inner.ids[only])


def _pairs(batches: Sequence[Batch], inner: Patterns, outer: Patterns, rows: Integers, reach: int) -> Pairs:
    """As judged, from each batch's rows of each smaller pattern in the graphs that have been grown."""
    count = max(len(outer), 1)
    rank = np.empty(len(outer), dtype=np.int64)
    rank[outer.by_key] = np.arange(len(outer))
    linked = [links_of(batch, own, len(outer)) for batch, own in zip(batches, rows, strict=True)]
    # What gives way does so in every batch that holds it.
    numbers = [rank[:0], *(links.small * count + rank[links.large] for links in linked)]
    pairs, places, said = np.unique(np.concatenate(numbers), return_inverse=True, return_counts=True)
    small = pairs // count
    agree = said == np.count_nonzero(rows, axis=0)[small]
    always = np.full(len(pairs), bool(reach))
    places = places.ravel()
    for batch, links in zip(batches, linked, strict=True):
        own, places = places[: len(links.small)], places[len(links.small) :]
        agree[own[clashing(batch, links, agree[own])]] = False
        if reach:
            always[own[not_always(batch, inner, links, agree[own], reach)]] = False
    return Pairs(inner.ids[small[agree]], outer.keys[outer.by_key[pairs[agree] % count]], always[agree])
