"""Colour refinement of many small graphs at once, as arrays.

A colour is a 64-bit hash of all that refinement has seen of a node. Colours only decide in which order the nodes of a
pattern are written down; whether two patterns are equal is decided by comparing what is written. So a collision of
hashes can cost time (two nodes look alike that are not), never correctness: colours of isomorphic graphs are equal.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

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
    """Edges of many graphs of equal size.

    Attributes:
        graph: the graph of each edge, rising.
        source: its producer's place in that graph.
        target: its consumer's place.
        kind: number of its (output, slot).
    """

    graph: Integers
    source: Integers
    target: Integers
    kind: Integers

    def of(self, graphs: Integers) -> "Edges":
        """The edges of some graphs, which are renumbered in the order given; a graph may be given several times."""
        count = int(self.graph[-1]) + 1 if len(self.graph) else 0
        starts = np.searchsorted(self.graph, np.arange(max(count, int(graphs.max(initial=-1)) + 1) + 1))
        lengths = starts[graphs + 1] - starts[graphs]
        rows = spread_out(starts[graphs], lengths)
        return Edges(np.repeat(np.arange(len(graphs)), lengths), self.source[rows], self.target[rows], self.kind[rows])


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
    done_graphs: list[Integers] = []
    done_orders: list[Integers] = []
    undecided: list[Integers] = []
    cells = _cells(np.sort(colours, axis=1))
    colours, cells = _refined(colours, cells, edges, into, out)
    rigid = np.ones(colours.shape, dtype=np.bool_)
    rigid[cells < size] = _alone(colours[cells < size])

    def left_over() -> Integers:
        """Write down the orders of graphs that are decided; the positions of the others."""
        whole = cells == size
        done_graphs.append(owner[whole])
        done_orders.append(np.argsort(colours[whole], axis=1))
        return np.flatnonzero(~whole)

    while len(owner):
        left = left_over()
        if not len(left):
            break
        # Equal branches can be put in any order.
        owner, edges = owner[left], edges.of(left)
        colours = _with_equal_parts_apart(colours[left], edges)
        cells = _cells(np.sort(colours, axis=1))
        left = left_over()
        if not len(left):
            break
        # Of what is stable and not decided, take the smallest cell.
        sorting = np.argsort(colours[left], axis=1, kind="stable")
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
        leaves = np.zeros(owner.max() + 1, dtype=np.int64)
        for found in done_graphs:
            leaves += np.bincount(found, minlength=len(leaves))[: len(leaves)]
        np.add.at(leaves, owner[left], width)
        hopeless = leaves[owner[left]] > MOST_LEAVES
        undecided.append(np.unique(owner[left[hopeless]]))
        left, sorting, width = left[~hopeless], sorting[~hopeless], width[~hopeless]
        first = np.argmax(cell_of[~hopeless] == cell[~hopeless, None], axis=1)
        copies = np.repeat(np.arange(len(left)), width)
        node = sorting[copies, spread_out(first, width)]
        cells = cells[left[copies]]
        edges = edges.of(left[copies])
        owner = owner[left[copies]]
        colours = colours[left[copies]]
        colours[np.arange(len(node)), node] = mixed(colours[np.arange(len(node)), node] + _TOLD_APART)
        colours, cells = _refined(colours, cells, edges, into, out)
    graphs = np.concatenate([*done_graphs, np.zeros(0, dtype=np.int64)])
    rows = np.concatenate([*done_orders, np.zeros((0, size), dtype=np.int64)])
    rejected = np.unique(np.concatenate([*undecided, np.zeros(0, dtype=np.int64)]))
    kept = ~np.isin(graphs, rejected)
    sorting = np.argsort(graphs[kept], kind="stable")
    return Orders(graphs[kept][sorting], rows[kept][sorting], rejected, rigid)


def _alone(colours: Hashes) -> Flags:
    """For each node of each graph whether no other one has its colour."""
    order = np.argsort(colours, axis=1)
    ranked = np.take_along_axis(colours, order, axis=1)
    change = np.ones((len(colours), colours.shape[1] + 1), dtype=np.bool_)
    change[:, 1:-1] = ranked[:, 1:] != ranked[:, :-1]
    found = np.empty(colours.shape, dtype=np.bool_)
    np.put_along_axis(found, order, change[:, 1:] & change[:, :-1], axis=1)
    return found


def _with_equal_parts_apart(colours: Hashes, edges: Edges) -> Hashes:
    """Colours that tell equal branches apart, in any order of the branches.

    Colours are stable. Take out the nodes that are alone with their colour, and look at the connected parts of the
    rest. Where no two nodes of a part are alike, parts with a colour in common are isomorphic, by their colours, and
    exchanging them leaves the graph as it is: a node's colour says which edges it has to each colour, so to the only
    node of that colour in its part. So any order of such parts leads to the same form. A part takes no part in this
    if a node elsewhere that looks like one of its own is in a part with nodes that are alike.
    """
    count, size = colours.shape
    order = np.argsort(colours, axis=1, kind="stable")
    ranked = np.take_along_axis(colours, order, axis=1)
    start = np.ones(ranked.shape, dtype=np.bool_)
    start[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    cells = np.empty((count, size), dtype=np.int64)
    np.put_along_axis(cells, order, np.cumsum(start, axis=1) - 1 + np.arange(count)[:, None] * size, axis=1)
    cell: Integers = cells.ravel()
    alone = np.bincount(cell, minlength=count * size)[cell] == 1
    source, target = edges.graph * size + edges.source, edges.graph * size + edges.target
    inner = ~(alone[source] | alone[target])
    part = _connected_parts(count * size, source[inner], target[inner])
    # Parts with two nodes of one colour, and the parts that share a colour with those.
    by_cell = np.lexsort((part, cell))
    again = np.zeros(count * size, dtype=np.bool_)
    again[1:] = (part[by_cell[1:]] == part[by_cell[:-1]]) & (cell[by_cell[1:]] == cell[by_cell[:-1]])
    doubtful = np.zeros(count * size, dtype=np.bool_)
    doubtful[part[by_cell[again]]] = True
    doubtful_cell = np.zeros(count * size, dtype=np.bool_)
    doubtful_cell[cell[doubtful[part]]] = True
    doubtful[part[doubtful_cell[cell]]] = True
    firsts = np.flatnonzero(np.diff(cell[by_cell], prepend=-1))
    rank = np.empty(count * size, dtype=np.int64)
    rank[by_cell] = np.arange(count * size) - np.repeat(firsts, np.diff(firsts, append=count * size))
    rank[doubtful[part]] = 0
    flat = colours.ravel() + rank.astype(np.uint64) * _TOLD_APART
    return np.where(rank > 0, mixed(flat), colours.ravel()).reshape(count, size)


def _connected_parts(nodes: int, source: Integers, target: Integers) -> Integers:
    """For each node the lowest node of its connected part."""
    lowest: Integers = np.arange(nodes)
    while True:
        before = lowest.copy()
        np.minimum.at(lowest, source, before[target])
        np.minimum.at(lowest, target, before[source])
        lowest = lowest[lowest]
        if np.array_equal(lowest, before):
            return lowest


def _cells(ranked: Hashes) -> Integers:
    """Number of different colours in each row of sorted colours."""
    found: Integers = 1 + np.count_nonzero(ranked[:, 1:] != ranked[:, :-1], axis=1)
    return found


def _refined(colours: Hashes, cells: Integers, edges: Edges, into: Hashes, out: Hashes) -> tuple[Hashes, Integers]:
    """Colours of each row after as many rounds as still tell nodes apart, and how many there are."""
    size = colours.shape[1]
    result, counts = colours.copy(), cells.copy()
    active = np.flatnonzero(cells < size)
    current = colours[active]
    known = cells[active]
    if len(active) < len(colours):
        edges = edges.of(active)
    while len(active):
        current = refined_once(current, edges, into, out)
        now = _cells(np.sort(current, axis=1))
        result[active] = current
        counts[active] = now
        going = np.flatnonzero((now < size) & (now > known))
        if len(going) < len(active):
            edges = edges.of(going)
            current, now, active = current[going], now[going], active[going]
        known = now
    return result, counts


def refined_once(colours: Hashes, edges: Edges, into: Hashes, out: Hashes) -> Hashes:
    """Colours after one round: hashes of each node's colour and of the colours along its edges; see orders."""
    flat = colours.ravel()
    base = edges.graph * colours.shape[1]
    source, target = base + edges.source, base + edges.target
    seen = mixed(flat)
    np.add.at(seen, target, mixed(flat[source] ^ into[edges.kind]))
    np.add.at(seen, source, mixed(flat[target] ^ out[edges.kind]))
    return mixed(seen).reshape(colours.shape)
