"""Nodes that always come along: where growth may go from S to S + v at once and forget all that holds S without v.

Let a pattern P give way to Q of one node more (see closedness.py), so that each occurrence S of P has one node v(S)
with which it is an occurrence of Q. P *always* gives way when no set of at most m nodes that holds any S without v(S)
can be an occurrence of a closed pattern. That is so when for all S, and sets R of at most ``reach`` = m + 1 nodes,

1. v(S) is *enclosed*: where it is a consumer, all its producers are in S, but for those that patterns may not hold and
   that no node which they may hold leads to. Then R + v(S) is connected and convex for all R that hold S, and the edges
   of v(S) in it are those to S. For a producer the same, the other way round.
2. Its edges are to nodes of S that every automorphism of P leaves where they are. So however R corresponds to another
   occurrence of its pattern, v(S) is attached to both alike.
3. No R that holds S without v(S) holds another S' with another v(S'), or such a v(S') alone.

Let R, of at most m nodes, hold S without v(S). By 3 all S' in R have the same v, and R holds no v(S'). The same is true
for every other occurrence R' of its pattern, as Q is no part of it. By 1 and 2 all R' + v(R') are occurrences of one
pattern. One of these that holds R' but not v(R') would hold, like R + v(R), an S' with v(S'), against 3; and one that
holds another occurrence of R's pattern than R' has a v(S') in that, against 3. If R and R' are disjoint, neither is
v(R) in R', by 3, nor is v(R) = v(R'), because Q's occurrences are disjoint where those of P are. So the pattern of R
gives way to that of R + v(R), which has one node more.
"""

import numpy as np

from graphopt.mining.batch import Batch
from graphopt.mining.levels import Steps
from graphopt.mining.patterns import Patterns
from graphopt.mining.refinement import Flags, Hashes, Integers, spread_out

MOST_ROWS = 16
"""Rows of a pattern in one graph, with different nodes that come along, that are compared."""

BLOCK = 1 << 17
"""Pairs of rows that are compared at once."""


def not_always(batch: Batch, patterns: Patterns, steps: Steps, pair: Integers, reach: int) -> Integers:
    """Pairs of patterns of which the smaller one does not always give way to the larger one.

    Args:
        batch: the graphs.
        patterns: the smaller patterns.
        steps: all steps between patterns of which the smaller gives way to the larger.
        pair: for each step the number of its pair.
        reach: the most nodes of what is considered.
    """
    if not len(pair):
        return pair
    below = batch.levels[-2]
    rows = below.nodes[steps.parents].astype(np.int64)
    refused = batch.families.moved[steps.node] | ~_enclosed(batch, patterns, rows, steps)
    wrong = np.zeros(int(pair.max()) + 1, dtype=np.bool_)
    wrong[pair[refused]] = True
    left = np.flatnonzero(~wrong[pair])
    left = left[np.lexsort((batch.graph_of[steps.node[left]], pair[left]))]
    graph = batch.graph_of[steps.node[left]]
    start = np.ones(len(left), dtype=np.bool_)
    start[1:] = (pair[left[1:]] != pair[left[:-1]]) | (graph[1:] != graph[:-1])
    starts = np.flatnonzero(start)
    lengths = np.diff(starts, append=len(left))
    node = steps.node[left]
    differing = np.maximum.reduceat(node, starts) > np.minimum.reduceat(node, starts) if len(starts) else start
    several = below.multiplicities(steps.parents[left]) != 1
    beyond = lengths > MOST_ROWS
    if len(starts):
        beyond |= np.logical_or.reduceat(several.astype(np.bool_), starts)
    wrong[pair[left[starts[differing & beyond]]]] = True
    compared = np.flatnonzero(np.repeat(differing & ~beyond, lengths))
    first, count = np.repeat(starts, lengths)[compared], np.repeat(lengths, lengths)[compared]
    # Each row with the next one of its graph, then with the next two, four, …: mostly a few find one near.
    low = 1
    while len(compared):
        reached = np.minimum(2 * low, count) - low
        one = np.repeat(np.arange(len(compared)), reached)
        offset = spread_out(np.full(len(compared), low), reached)
        other = first[one] + (compared[one] - first[one] + offset) % count[one]
        apart = np.flatnonzero(node[compared[one]] != node[other])
        for begin in range(0, len(apart), BLOCK):
            some = apart[begin : begin + BLOCK]
            these, those = left[compared[one[some]]], left[other[some]]
            wrong[pair[these[_near(batch, rows, steps.node, these, those, reach)]]] = True
        low *= 2
        still = np.flatnonzero((count > low) & ~wrong[pair[left[compared]]])
        compared, first, count = compared[still], first[still], count[still]
    return np.flatnonzero(wrong)


def _enclosed(batch: Batch, patterns: Patterns, rows: Integers, steps: Steps) -> Flags:
    """Whether the first two conditions hold for each step.

    Args:
        batch: the graphs.
        patterns: the smaller patterns.
        rows: for each step the nodes of the smaller occurrence.
        steps: the steps.
    """
    found = np.ones(len(rows), dtype=np.bool_)
    numbers = batch.levels[-2].pattern[steps.parents]
    ahead, behind = batch.sides
    for side, chosen in ((behind, steps.forward), (ahead, ~steps.forward)):
        own = np.flatnonzero(chosen)
        lows = side.starts[steps.node[own]]
        lengths = side.starts[steps.node[own] + 1] - lows
        step = np.repeat(own, lengths)
        other = side.other[spread_out(lows, lengths)]
        place = rows[step] == other[:, None]
        inside = place.any(axis=1)
        rigid = patterns.rigid[numbers[step], place.argmax(axis=1)]
        fits = np.where(inside, rigid, ~batch.counts_beyond(side)[other])
        found[step[~fits]] = False
    return found


def _near(batch: Batch, rows: Integers, added: Integers, one: Integers, other: Integers, reach: int) -> Flags:
    """Whether a set of so many nodes may hold a row without its added node, and another's added node or all of it.

    Judged by the least convex set that holds them, which is part of any.

    Args:
        batch: the graphs.
        rows: rows of nodes.
        added: a node for each of them.
        one: rows.
        other: for each of those another row of the same graph.
        reach: the most nodes.
    """
    own, inverse = np.unique(np.concatenate([one, other]), return_inverse=True)
    first, second = np.split(inverse.ravel(), 2)
    sets = batch.bits(rows[own])
    below, above = (
        np.stack([np.bitwise_or.reduce(words[rows[own]], axis=1) for words in side.reach], axis=1)
        for side in batch.sides
    )
    node = added[other]
    never = ~batch.eligible_bits[batch.graph_of[node]] | batch.bits(added[one][:, None])
    down, up = (side.reach[:, node].T for side in batch.sides)
    found = np.zeros(len(one), dtype=np.bool_)
    left = np.arange(len(one))
    for more, onward, back in ((batch.bits(node[:, None]), down, up), (sets[second], below[second], above[second])):
        ends = first[left]
        held = sets[ends] | more[left]
        hull = held | ((below[ends] | onward[left]) & (above[ends] | back[left]))
        possible = np.flatnonzero(~(hull & never[left]).any(axis=1))
        found[left[possible[_ones(hull[possible]) <= reach]]] = True
        left = np.flatnonzero(~found)
    return found


def _ones(words: Hashes) -> Integers:
    """Number of bits that are set in each row of words."""
    x = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    found: Integers = ((x * np.uint64(0x0101010101010101)) >> np.uint64(56)).sum(axis=1).astype(np.int64)
    return found
