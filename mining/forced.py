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
from graphopt.mining.compiled import compiled
from graphopt.mining.levels import Numbers, Steps
from graphopt.mining.patterns import Patterns
from graphopt.mining.refinement import Flags, Hashes, Integers

MOST_ROWS = 16
"""Rows of a pattern in one graph, with different nodes that come along, that are compared."""


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
    if not len(starts):
        return np.flatnonzero(wrong)
    lengths = np.diff(starts, append=len(left))
    node = steps.node[left]
    differing = np.maximum.reduceat(node, starts) > np.minimum.reduceat(node, starts)
    several = below.multiplicities(steps.parents[left]) != 1
    beyond = (lengths > MOST_ROWS) | np.logical_or.reduceat(several.astype(np.bool_), starts)
    wrong[pair[left[starts[differing & beyond]]]] = True
    compared = np.flatnonzero(np.repeat(differing & ~beyond, lengths))
    compared = left[compared[~wrong[pair[left[compared]]]]]
    ahead, behind = batch.sides
    _find_near(
        wrong,
        pair[compared],
        batch.graph_of[steps.node[compared]],
        rows[compared],
        steps.node[compared],
        batch.words,
        batch.local,
        ahead.reach,
        behind.reach,
        batch.eligible_bits,
        reach,
    )
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
    rigid = patterns.rigid[batch.levels[-2].pattern[steps.parents]]
    for side, chosen in zip(batch.sides, (~steps.forward, steps.forward), strict=True):
        _refuse_open(found, rows, rigid, steps.node, chosen, side.starts, side.other, batch.counts_beyond(side))
    return found


@compiled
def _refuse_open(
    found: Flags,
    rows: Integers,
    rigid: Flags,
    added: Numbers,
    chosen: Flags,
    starts: Numbers,
    others: Numbers,
    counts: Flags,
) -> None:
    """Take back what was found of steps whose node is not enclosed by rigid nodes on one side.

    Args:
        found: takes False.
        rows: for each step the nodes of the smaller occurrence.
        rigid: for each of them whether every automorphism leaves it where it is.
        added: for each step the node that is added.
        chosen: the steps to look at.
        starts: for each node where its edges on this side begin.
        others: for each edge the node at its other end.
        counts: for each node whether it must be enclosed.
    """
    for step in np.flatnonzero(chosen):
        for edge in range(starts[added[step]], starts[added[step] + 1]):
            fits = not counts[others[edge]]
            for place in range(rows.shape[1]):
                if rows[step, place] == others[edge]:
                    fits = rigid[step, place]
                    break
            if not fits:
                found[step] = False
                break


@compiled
def _find_near(
    wrong: Flags,
    pair: Integers,
    graph: Numbers,
    rows: Integers,
    added: Integers,
    words: int,
    local: Numbers,
    down: Hashes,
    up: Hashes,
    eligible: Hashes,
    most: int,
) -> None:
    """Mark pairs where a set of so many nodes may hold a row without its added node, and another's, or all of that.

    Judged by the least convex set that holds them, which is part of any.

    Args:
        wrong: what is marked.
        pair: for each row the number of its pair, rising.
        graph: for each row its graph, rising within a pair; only rows of the same pair and graph are compared.
        rows: rows of nodes.
        added: a node for each of them.
        words: words of 64 nodes in a set.
        local: number of each node in its graph.
        down: for each node the bits of those that it leads to.
        up: for each node the bits of those that lead to it.
        eligible: for each graph the bits of the nodes that patterns may hold.
        most: the most nodes.
    """
    # Three sets for each row: its nodes, what they lead to, and what leads to them.
    sets = np.zeros((len(rows), 3, words), dtype=np.uint64)
    one = np.uint64(1)
    start = 0
    while start < len(rows):
        end = start
        while end < len(rows) and pair[end] == pair[start] and graph[end] == graph[start]:
            if not wrong[pair[start]]:
                for node in rows[end]:
                    sets[end, 0, local[node] >> 6] |= one << np.uint64(local[node] & 63)
                    for word in range(words):
                        sets[end, 1, word] |= down[node, word]
                        sets[end, 2, word] |= up[node, word]
            end += 1
        found = wrong[pair[start]]
        first = start
        while first < end and not found:
            own = added[first]
            second = start
            while second < end and not found:
                other = added[second]
                if other != own:
                    for whole in (False, True):
                        count = np.int64(0)
                        for word in range(words):
                            held = sets[first, 0, word]
                            if whole:
                                held |= sets[second, 0, word]
                                below = sets[first, 1, word] | sets[second, 1, word]
                                above = sets[first, 2, word] | sets[second, 2, word]
                            else:
                                if local[other] >> 6 == word:
                                    held |= one << np.uint64(local[other] & 63)
                                below = sets[first, 1, word] | down[other, word]
                                above = sets[first, 2, word] | up[other, word]
                            held |= below & above
                            never = ~eligible[graph[start], word]
                            if local[own] >> 6 == word:
                                never |= one << np.uint64(local[own] & 63)
                            count += np.int64(most + 1) if held & never else _ones(held)
                            if count > most:
                                break
                        found = found or count <= most
                second += 1
            first += 1
        if found:
            wrong[pair[start]] = True
        start = end


@compiled
def _ones(word: np.uint64) -> np.int64:
    """Number of bits that are set."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))
