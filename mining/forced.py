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

from typing import NamedTuple

import numpy as np

from graphopt.mining.batch import Batch, Side
from graphopt.mining.compiled import compiled
from graphopt.mining.levels import Numbers, at_least_two_bytes
from graphopt.mining.links import Links
from graphopt.mining.patterns import Patterns
from graphopt.mining.refinement import Flags, Hashes

MOST_ROWS = 16
"""Rows of a pattern in one graph, with different nodes that come along, that are compared."""


def not_always(batch: Batch, patterns: Patterns, links: Links, chosen: Flags, reach: int) -> Flags:
    """For each pair of patterns of which the smaller gives way to the larger whether it does not always.

    Args:
        batch: the graphs.
        patterns: the smaller patterns.
        links: the pairs.
        chosen: which of them are asked for; False for all others.
        reach: the most nodes of what is considered.
    """
    below = batch.levels[-2]
    several = np.zeros(len(below), dtype=np.bool_)
    several[below.multiples] = True
    ahead, behind = batch.sides
    return _not_always(
        links,
        chosen,
        at_least_two_bytes(below.nodes),
        several,
        patterns.rigid,
        _Nodes(
            batch.graph_of,
            batch.local,
            batch.families.moved,
            batch.counts_beyond(ahead),
            batch.counts_beyond(behind),
        ),
        ahead,
        behind,
        batch.eligible_bits,
        reach,
    )


class _Nodes(NamedTuple):
    """What is asked of nodes, for each node of a batch.

    Attributes:
        graph: the position of its graph.
        local: its number in its graph.
        moved: whether it has a family.
        counts_ahead: whether patterns may hold it, or a node that it leads to.
        counts_behind: whether patterns may hold it, or a node that leads to it.
    """

    graph: Numbers
    local: Numbers
    moved: Flags
    counts_ahead: Flags
    counts_behind: Flags


@compiled
def _not_always(
    links: Links,
    chosen: Flags,
    rows: Numbers,
    several: Flags,
    rigid: Flags,
    nodes: _Nodes,
    ahead: Side,
    behind: Side,
    eligible: Hashes,
    reach: int,
) -> Flags:
    """See not_always.

    Args:
        links: see there.
        chosen: see there.
        rows: nodes of the smaller occurrences.
        several: which of these stand for several occurrences.
        rigid: for each smaller pattern and place whether every automorphism leaves it where it is.
        nodes: all nodes.
        ahead: the edges to consumers.
        behind: the edges to producers.
        eligible: for each graph the bits of the nodes that patterns may hold.
        reach: see there.
    """
    found = np.zeros(len(chosen), np.bool_)
    sets = np.empty((MOST_ROWS, 3, eligible.shape[1]), np.uint64)
    for pair in range(len(chosen)):
        low, end = links.starts[pair], links.starts[pair + 1]
        if not chosen[pair]:
            continue
        own = rigid[links.small[pair]]
        for at in range(low, end):
            row, node = rows[links.parents[at]], links.node[at]
            if links.forward[at]:
                enclosed = _enclosed(row, own, node, behind, nodes.counts_behind)
            else:
                enclosed = _enclosed(row, own, node, ahead, nodes.counts_ahead)
            if nodes.moved[node] or not enclosed:
                found[pair] = True
                break
        while low < end and not found[pair]:
            # All rows in one graph.
            graph = nodes.graph[links.node[low]]
            high, differing, many = low, False, False
            while high < end and nodes.graph[links.node[high]] == graph:
                differing = differing or links.node[high] != links.node[low]
                many = many or several[links.parents[high]]
                high += 1
            if differing:
                parents, added = links.parents[low:high], links.node[low:high]
                found[pair] = many or high - low > MOST_ROWS
                if not found[pair]:
                    found[pair] = _near(rows, parents, added, nodes.local, ahead, behind, eligible[graph], reach, sets)
            low = high
    return found


@compiled
def _enclosed(row: Numbers, rigid: Flags, added: int, side: Side, counts: Flags) -> bool:
    """Whether all neighbours of an added node on one side that count are rigid nodes of the occurrence.

    Args:
        row: nodes of the occurrence.
        rigid: for each of them whether every automorphism leaves it where it is.
        added: the node that is added.
        side: its neighbours.
        counts: for each node whether it must be in the occurrence.
    """
    for edge in range(side.starts[added], side.starts[added + 1]):
        other = side.other[edge]
        fits = not counts[other]
        for place in range(len(row)):
            if row[place] == other:
                fits = rigid[place]
                break
        if not fits:
            return False
    return True


@compiled
def _near(
    rows: Numbers,
    parents: Numbers,
    added: Numbers,
    local: Numbers,
    ahead: Side,
    behind: Side,
    eligible: Hashes,
    most: int,
    sets: Hashes,
) -> bool:
    """Whether a set of so many nodes may hold a row without its added node, and another's, or all of that.

    Judged by the least convex set that holds them, which is part of any.

    Args:
        rows: rows of nodes.
        parents: which of them are asked for, of one graph and pattern.
        added: a node for each of these.
        local: number of each node in its graph.
        ahead: bits of what each node leads to.
        behind: bits of what leads to each node.
        eligible: bits of the nodes that patterns may hold.
        most: the most nodes.
        sets: room for three sets for each row: its nodes, what they lead to, and what leads to them.
    """
    one = np.uint64(1)
    words = len(eligible)
    for at in range(len(parents)):
        sets[at] = 0
        for node in rows[parents[at]]:
            sets[at, 0, local[node] >> 6] |= one << np.uint64(local[node] & 63)
            for word in range(words):
                sets[at, 1, word] |= ahead.reach[node, word]
                sets[at, 2, word] |= behind.reach[node, word]
    for first in range(len(parents)):
        own = added[first]
        for second in range(len(parents)):
            other = added[second]
            for whole in range(2 if other != own else 0):
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
                        below = sets[first, 1, word] | ahead.reach[other, word]
                        above = sets[first, 2, word] | behind.reach[other, word]
                    held |= below & above
                    never = ~eligible[word]
                    if local[own] >> 6 == word:
                        never |= one << np.uint64(local[own] & 63)
                    count += np.int64(most + 1) if held & never else _ones(held)
                    if count > most:
                        break
                if count <= most:
                    return True
    return False


@compiled
def _ones(word: np.uint64) -> np.int64:
    """Number of bits that are set."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))
