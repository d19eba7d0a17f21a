"""Colour refinement of many small graphs at once, as arrays.

A colour is a 64-bit hash of all that refinement has seen of a node. Colours only decide in which order the nodes of a
pattern are written down; whether two patterns are equal is decided by comparing what is written. So a collision of
hashes can cost time (two nodes look alike that are not), never correctness: colours of isomorphic graphs are equal.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.mining.compiled import compiled

Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

MOST_LEAVES = 24
"""Orders of one graph that are tried here before it is left to the exact search."""

_FIRST, _SECOND = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_TOLD_APART = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: Hashes) -> Hashes:
    """Well mixed hashes (the 64-bit finaliser of MurmurHash3)."""
    values = values ^ (values >> np.uint64(33))
    values *= _FIRST
    values ^= values >> np.uint64(33)
    values *= _SECOND
    values ^= values >> np.uint64(33)
    return values


class Edges(NamedTuple):
    """Edges of many graphs of equal size, one graph after the other.

    Attributes:
        starts: for each graph where its edges begin, and where the last one's end.
        source: each edge's producer, by its place in its graph.
        target: its consumer's place.
        kind: number of its (output, slot).
    """

    starts: Integers
    source: Integers
    target: Integers
    kind: Integers

    def of(self, graphs: Integers) -> "Edges":
        """The edges of some graphs, in the order given; a graph may be given several times."""
        lengths = self.starts[graphs + 1] - self.starts[graphs]
        rows = spread_out(self.starts[graphs], lengths)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return Edges(starts, self.source[rows], self.target[rows], self.kind[rows])


def spread_out(starts: Integers, lengths: Integers) -> Integers:
    """The numbers of all ranges ``start … start + length - 1``, one range after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    found: Integers = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return found


class Orders(NamedTuple):
    """Orders in which graphs could be written down.

    Attributes:
        graph: the graph of each order, rising; a graph may have several orders.
        order: for each, the graph's nodes.
        undecided: graphs that have no order because they would have too many.
        rigid: for each graph and node whether refinement alone tells it from all others.
    """

    graph: Integers
    order: Integers
    undecided: Integers
    rigid: Flags


def orders(colours: Hashes, edges: Edges, into: Hashes, out: Hashes) -> Orders:
    """The orders of nodes that refinement, and telling single nodes apart where it is blind, lead to.

    Every graph is refined until all its colours differ or nothing changes. In the latter case equal branches are told
    apart; if that does not do, each node of its smallest cell (the first of those in order of colours) is told apart in
    turn, and so on. Nothing depends on the order in which the nodes are given: isomorphic graphs have orders that make
    them equal.

    Args:
        colours: a row per graph, a hash of its label per node.
        edges: the graphs' edges.
        into: a hash per kind of edge, for what a consumer sees.
        out: the same for what a producer sees.
    """
    size = colours.shape[1]
    owner = np.arange(len(colours))
    colours, cells = colours.copy(), np.zeros(len(colours), dtype=np.int64)
    done: list[tuple[Integers, Integers]] = [(owner[:0], np.zeros((0, size), dtype=np.int64))]
    undecided = [owner[:0]]
    rigid: Flags | None = None
    while len(owner):
        order, alone = _settled(colours, cells, *edges, into, out)
        if rigid is None:
            rigid = alone
        whole = cells == size
        done.append((owner[whole], order[whole]))
        left = np.flatnonzero(~whole)
        if not len(left):
            break
        # Of what is stable and not decided, take the smallest cell.
        sorting = order[left]
        ranked = np.take_along_axis(colours[left], sorting, axis=1)
        start = np.ones(ranked.shape, dtype=np.bool_)
        start[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
        cell_of = np.cumsum(start, axis=1) - 1
        flat = cell_of + np.arange(len(left))[:, None] * size
        sizes = np.bincount(flat.ravel(), minlength=len(left) * size).reshape(len(left), size)
        sizes[sizes < 2] = size + 1
        cell = np.argmin(sizes, axis=1)
        width = sizes[np.arange(len(left)), cell]
        # How many orders the graph will have at least; too many are left to the caller.
        leaves = np.bincount(np.concatenate([graphs for graphs, _ in done]), minlength=int(owner.max()) + 1)
        np.add.at(leaves, owner[left], width)
        hopeless = leaves[owner[left]] > MOST_LEAVES
        undecided.append(owner[left[hopeless]])
        left, sorting, width = left[~hopeless], sorting[~hopeless], width[~hopeless]
        first = np.argmax(cell_of[~hopeless] == cell[~hopeless, None], axis=1)
        copies = np.repeat(np.arange(len(left)), width)
        node = sorting[copies, spread_out(first, width)]
        edges = edges.of(left[copies])
        owner, cells, colours = owner[left[copies]], cells[left[copies]], colours[left[copies]]
        colours[np.arange(len(node)), node] = mixed(colours[np.arange(len(node)), node] + _TOLD_APART)
    graphs, rows = (np.concatenate(columns) for columns in zip(*done, strict=True))
    rejected = np.unique(np.concatenate(undecided))
    kept = np.flatnonzero(~np.isin(graphs, rejected))
    kept = kept[np.argsort(graphs[kept], kind="stable")]
    return Orders(graphs[kept], rows[kept], rejected, np.ones(colours.shape, np.bool_) if rigid is None else rigid)


@compiled
def hashed(value: np.uint64) -> np.uint64:
    """One number, as ``mixed`` mixes many."""
    value ^= value >> np.uint64(33)
    value *= _FIRST
    value ^= value >> np.uint64(33)
    value *= _SECOND
    return value ^ value >> np.uint64(33)


@compiled
def in_order(keys: Hashes, order: Integers) -> int:
    """Sort the positions of keys by key, equal ones by position, and return how many keys differ."""
    for at in range(len(keys)):
        key = keys[at]
        place = at
        while place > 0 and keys[order[place - 1]] > key:
            order[place] = order[place - 1]
            place -= 1
        order[place] = at
    differing = min(len(keys), 1)
    for at in range(1, len(keys)):
        differing += keys[order[at]] != keys[order[at - 1]]
    return differing


@compiled
def _settled(
    colours: Hashes,
    cells: Integers,
    starts: Integers,
    source: Integers,
    target: Integers,
    kind: Integers,
    into: Hashes,
    out: Hashes,
) -> tuple[Integers, Flags]:
    """Refine each row of colours, in place, while a round tells more nodes apart, and then tell equal branches apart.

    In a round, a node's colour becomes a hash of itself and of the colours along the node's edges.

    Args:
        colours: a row per graph.
        cells: how many of each row's colours are known to differ, 0 where that is not known; takes how many do.
        starts: for each graph where its edges begin, and where the last one's end.
        source: each edge's producer.
        target: its consumer.
        kind: number of its (output, slot).
        into: see orders.
        out: see orders.

    Returns:
        for each row the nodes in order of their colours; for each node whether refinement tells it from all others.
    """
    count, size = colours.shape
    orders = np.empty((count, size), dtype=np.int64)
    alone = np.ones((count, size), dtype=np.bool_)
    seen = np.empty(size, dtype=np.uint64)
    for graph in range(count):
        own, order = colours[graph], orders[graph]
        low, high = starts[graph], starts[graph + 1]
        if cells[graph] == 0:
            cells[graph] = in_order(own, order)
        while cells[graph] < size:
            for node in range(size):
                seen[node] = hashed(own[node])
            for edge in range(low, high):
                seen[target[edge]] += hashed(own[source[edge]] ^ into[kind[edge]])
                seen[source[edge]] += hashed(own[target[edge]] ^ out[kind[edge]])
            for node in range(size):
                own[node] = hashed(seen[node])
            before, cells[graph] = cells[graph], in_order(own, order)
            if cells[graph] <= before:
                break
        if cells[graph] < size:
            for at in range(1, size):
                if own[order[at]] == own[order[at - 1]]:
                    alone[graph, order[at]] = alone[graph, order[at - 1]] = False
            _tell_equal_parts_apart(own, order, alone[graph], source[low:high], target[low:high])
            cells[graph] = in_order(own, order)
    return orders, alone


@compiled
def _tell_equal_parts_apart(colour: Hashes, order: Integers, alone: Flags, source: Integers, target: Integers) -> None:
    """Change the colours of a graph so that they tell equal branches apart, in any order of the branches.

    Colours are stable. Take out the nodes that are alone with their colour, and look at the connected parts of the
    rest. Where no two nodes of a part are alike, parts with a colour in common are isomorphic, by their colours, and
    exchanging them leaves the graph as it is: a node's colour says which edges it has to each colour, so to the only
    node of that colour in its part. So any order of such parts leads to the same form. A part takes no part in this
    if a node elsewhere that looks like one of its own is in a part with nodes that are alike.

    Args:
        colour: of each node.
        order: the nodes in order of their colours.
        alone: for each node whether no other one has its colour.
        source: each edge's producer.
        target: its consumer.
    """
    size = len(colour)
    # The lowest node of each connected part.
    part = np.arange(size)
    changed = True
    while changed:
        changed = False
        for edge in range(len(source)):
            one, other = source[edge], target[edge]
            if not (alone[one] or alone[other]) and part[one] != part[other]:
                part[one] = part[other] = min(part[one], part[other])
                changed = True
    cell = np.zeros(size, dtype=np.int64)
    for at in range(1, size):
        cell[order[at]] = cell[order[at - 1]] + (colour[order[at]] != colour[order[at - 1]])
    # Parts with two nodes of one colour, and the parts that share a colour with those.
    doubtful = np.zeros(size, dtype=np.bool_)
    doubtful_cell = np.zeros(size, dtype=np.bool_)
    for at in range(size):
        other = at - 1
        while other >= 0 and cell[order[other]] == cell[order[at]]:
            if part[order[other]] == part[order[at]]:
                doubtful[part[order[at]]] = True
            other -= 1
    for node in range(size):
        if doubtful[part[node]]:
            doubtful_cell[cell[node]] = True
    for node in range(size):
        if doubtful_cell[cell[node]]:
            doubtful[part[node]] = True
    rank = np.zeros(size, dtype=np.uint64)
    for at in range(size):
        other = at - 1
        while other >= 0 and cell[order[other]] == cell[order[at]]:
            later = order[at] if part[order[at]] > part[order[other]] else order[other]
            rank[later] += np.uint64(1)
            other -= 1
    for node in range(size):
        if rank[node] and not doubtful[part[node]]:
            colour[node] = hashed(colour[node] + rank[node] * _TOLD_APART)
