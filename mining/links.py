"""Steps of growth, sorted by the pair of patterns between which they lead, for pairs that agree throughout a batch."""

from typing import NamedTuple

import numpy as np

from graphopt.mining.batch import Batch
from graphopt.mining.compiled import compiled
from graphopt.mining.levels import Level, Numbers, Steps
from graphopt.mining.refinement import Flags, Integers
from graphopt.mining.tallies import Counts


class Links(NamedTuple):
    """Pairs of patterns of which each occurrence of either in a batch lies in, or holds, one of the other.

    The steps of growth between them are one for each occurrence.

    Attributes:
        small: for each pair the number of the smaller pattern.
        large: for each pair the number of the larger one.
        starts: for each pair where its steps begin, and where the last one's end.
        parents: for each step the row that it starts from, rising within a pair.
        children: the row that it leads to.
        node: the node that is added, as a number in the batch.
        forward: whether the node is a consumer.
    """

    small: Integers
    large: Integers
    starts: Integers
    parents: Numbers
    children: Numbers
    node: Numbers
    forward: Flags


def links_of(batch: Batch, rows: Integers, larger: int) -> Links:
    """The links between the last two levels of a batch.

    Args:
        batch: the graphs, just grown.
        rows: number of rows of each smaller pattern, without those of graphs that went over the work budget.
        larger: number of larger patterns.
    """
    below, above = batch.levels[-2], batch.levels[-1]
    assert batch.steps is not None
    many = np.unique(np.concatenate([below.counts, above.counts]))
    return Links._make(
        _agreeing(
            batch.steps,
            below.pattern.astype(np.int32),
            above.pattern.astype(np.int32),
            _multiple(below, many),
            _multiple(above, many),
            rows,
            np.bincount(above.pattern, minlength=larger),
        )
    )


def _multiple(level: Level, many: Counts) -> Numbers:
    """For each row 0 where it stands for one occurrence, and else a number for how many it stands for."""
    found: Numbers = np.zeros(len(level), dtype=np.int32)
    found[level.multiples] = 1 + np.searchsorted(many, level.counts)
    return found


@compiled
def _agreeing(
    steps: Steps,
    small_of: Numbers,
    large_of: Numbers,
    below_many: Numbers,
    above_many: Numbers,
    rows_of_small: Integers,
    rows_of_large: Integers,
) -> tuple[Integers, Integers, Integers, Numbers, Numbers, Numbers, Flags]:
    """Pairs of which each row of the smaller pattern has one step, to another row of the larger, which has no more.

    Args:
        steps: all steps between two levels of a batch.
        small_of: pattern of each row of the smaller level.
        large_of: pattern of each row of the larger level.
        below_many: for each row of the smaller level a number for how many occurrences it stands for.
        above_many: the same for the larger level.
        rows_of_small: number of rows of each smaller pattern, without those of graphs that have no steps.
        rows_of_large: number of rows of each larger pattern.

    Returns:
        the columns of Links.
    """
    parents, children = steps.parents, steps.children
    # The steps from each smaller pattern together, but for those that cannot matter. Patterns come in order of their
    # first rows: what is near each other in the graphs is then near each other in memory.
    counts = np.zeros(len(rows_of_small), np.int64)
    turns = np.empty(len(rows_of_small), np.int64)
    present = most = total = 0
    for step in range(len(parents)):
        small = small_of[parents[step]]
        if rows_of_small[small] == rows_of_large[large_of[children[step]]]:
            if not counts[small]:
                turns[present] = small
                present += 1
            counts[small] += 1
    ends = np.zeros(len(rows_of_small), np.int64)
    for small in turns[:present]:
        ends[small] = total
        total += counts[small]
        most = max(most, counts[small])
    order = np.empty(total, np.int32)
    for step in range(len(parents)):
        small = small_of[parents[step]]
        if rows_of_small[small] == rows_of_large[large_of[children[step]]]:
            order[ends[small]] = step
            ends[small] += 1
    owner, number = np.full(len(rows_of_large), -1, np.int32), np.empty(len(rows_of_large), np.int32)
    reached = np.full(len(large_of), -1, np.int32)
    large, ways = np.empty(most, np.int64), np.empty(most, np.int64)
    last, place = np.empty(most, np.int64), np.empty(most, np.int64)
    smaller, larger = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    starts = np.zeros(len(order) + 1, np.int64)
    rows, to, added = np.empty(len(order), np.int32), np.empty(len(order), np.int32), np.empty(len(order), np.int32)
    forward = np.empty(len(order), np.bool_)
    pairs = 0
    for small in turns[:present]:
        found = 0
        for at in range(ends[small] - counts[small], ends[small]):
            step = order[at]
            row, child = parents[step], children[step]
            pattern = large_of[child]
            if owner[pattern] != small:
                owner[pattern], number[pattern] = small, found
                large[found], ways[found], last[found] = pattern, 0, -1
                found += 1
            own = number[pattern]
            even = below_many[row] == above_many[child] and not steps.several[step]
            if not even or last[own] == row or reached[child] == small:
                ways[own] = len(order) + 1  # more than there can be
            ways[own] += 1
            last[own], reached[child] = row, small
        for own in range(found):
            place[own] = -1
            if ways[own] == rows_of_small[small]:
                smaller[pairs], larger[pairs] = small, large[own]
                place[own] = starts[pairs]
                pairs += 1
                starts[pairs] = starts[pairs - 1] + ways[own]
        for at in range(ends[small] - counts[small], ends[small]):
            step = order[at]
            own = number[large_of[children[step]]]
            if place[own] >= 0:
                rows[place[own]], to[place[own]] = parents[step], children[step]
                added[place[own]], forward[place[own]] = steps.node[step], steps.forward[step]
                place[own] += 1
    total = starts[pairs]
    return (
        smaller[:pairs].copy(),
        larger[:pairs].copy(),
        starts[: pairs + 1].copy(),
        rows[:total].copy(),
        to[:total].copy(),
        added[:total].copy(),
        forward[:total].copy(),
    )
