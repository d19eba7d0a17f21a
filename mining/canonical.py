"""The exact canonical form of small labelled DAGs: equal for two patterns if and only if they are isomorphic.

A graph is given by its nodes' labels and by edges (producer, output, consumer, slot); parallel edges count. Refinement
alone (Weisfeiler-Leman) takes some regular graphs for each other, so what it leaves undecided is decided by trying: one
node of an undecided cell is told apart from the others, and the least of the resulting forms is taken.

Most patterns have few such orders or only one, and many of them are put in order at once, as arrays (refinement.py).
What remains is highly symmetric and goes through the search in this file one by one. Two observations keep that cheap:
cells are *equitable* after refinement, so nodes that stand alone in their cell can be taken out, and the connected
parts that remain are put in order independently of each other: twenty-six equal branches are twenty-six small problems.
And nodes of a cell with the very same neighbours can change places, so one of them is tried for all.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import networkx as nx
import numpy as np

from graphopt.mining.compiled import compiled
from graphopt.mining.refinement import Edges, Flags, Hashes, Integers, hashed, mixed, orders

Edge = tuple[int, int, int, int]
"""(producer, output index, consumer, slot)"""

Form = tuple[tuple[int, ...], tuple[Edge, ...]]
"""Colours and edges of a graph in canonical node order: comparable between parts of one graph."""

SHORT_DIGEST = 12
"""Characters of a digest that people see."""


@dataclass(frozen=True, slots=True)
class CanonicalForm:
    """What identifies a pattern.

    Attributes:
        digest: SHA-256 of its canonical form, 64 hexadecimal digits; see digest.
        labels: its nodes' labels, in canonical order.
        edges: (producer, output, consumer, slot) between places in that order.
    """

    digest: str
    labels: tuple[str, ...]
    edges: tuple[Edge, ...]

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.labels)

    @property
    def short(self) -> str:
        """The first digits of the digest, for people."""
        return self.digest[:SHORT_DIGEST]


def topological_order(size: int, edges: Iterable[Edge]) -> list[int]:
    """Nodes of a pattern, producers first; the lowest first where there is a choice."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(size))
    graph.add_edges_from((edge[0], edge[2]) for edge in edges)
    return list(nx.lexicographical_topological_sort(graph))


def canonical_order(colours: Sequence[int], edges: Sequence[Edge]) -> tuple[int, ...]:
    """Nodes in canonical order: isomorphic graphs, put in this order, become equal.

    Args:
        colours: a number for each node; equal numbers for equal labels, and smaller numbers for smaller labels.
        edges: (producer, output index, consumer, slot) with nodes as positions in ``colours``.

    Returns:
        positions in ``colours``; which of several automorphic nodes comes first is arbitrary.
    """
    incoming: list[list[tuple[int, int, int]]] = [[] for _ in colours]
    outgoing: list[list[tuple[int, int, int]]] = [[] for _ in colours]
    for producer, output, consumer, slot in edges:
        incoming[consumer].append((producer, output, slot))
        outgoing[producer].append((consumer, output, slot))
    return tuple(Adjacency(incoming, outgoing).order(list(range(len(colours))), list(colours)))


class Adjacency:
    """Adjacency of the graph that is being put in order."""

    def __init__(self, incoming: list[list[tuple[int, int, int]]], outgoing: list[list[tuple[int, int, int]]]) -> None:
        self.incoming = incoming
        self.outgoing = outgoing

    def order(self, nodes: list[int], initial: list[int]) -> list[int]:
        """Canonical order of the subgraph that the nodes induce.

        Args:
            nodes: some nodes.
            initial: colour of every node of the graph; read only at ``nodes``.
        """
        colour = self.refine(nodes, initial)
        cells: dict[int, list[int]] = {}
        for node in nodes:
            cells.setdefault(colour[node], []).append(node)
        if len(cells) == len(nodes):
            return [cells[key][0] for key in sorted(cells)]
        alone = [cells[key][0] for key in sorted(cells) if len(cells[key]) == 1]
        parts = self.parts([node for node in nodes if len(cells[colour[node]]) > 1])
        if alone or len(parts) > 1:
            formed = []
            for part in parts:
                order = self.order(part, colour)
                formed.append((self.form(order, colour), order))
            formed.sort(key=lambda pair: pair[0])
            return alone + [node for _, order in formed for node in order]
        return self._individualised(nodes, colour, cells)

    def _individualised(self, nodes: list[int], colour: list[int], cells: dict[int, list[int]]) -> list[int]:
        """Order of a connected subgraph without single cells: the least form over the nodes of its first cell."""
        cell = cells[min(cells)]
        members = set(nodes)
        best: tuple[Form, list[int]] | None = None
        tried = set()
        doubled = list(colour)
        for node in nodes:
            doubled[node] = 2 * colour[node] + 1
        for node in cell:
            neighbours = (
                tuple(sorted(edge for edge in self.incoming[node] if edge[0] in members)),
                tuple(sorted(edge for edge in self.outgoing[node] if edge[0] in members)),
            )
            if neighbours in tried:
                continue
            tried.add(neighbours)
            doubled[node] -= 1
            order = self.order(nodes, doubled)
            doubled[node] += 1
            form = self.form(order, colour)
            if best is None or form < best[0]:
                best = (form, order)
        return best[1] if best else []

    def refine(self, nodes: list[int], initial: list[int]) -> list[int]:
        """The coarsest equitable refinement of the colours; cells keep the order of the colours they come from."""
        colour = [-1] * len(self.incoming)
        ranks = {value: rank for rank, value in enumerate(sorted({initial[node] for node in nodes}))}
        for node in nodes:
            colour[node] = ranks[initial[node]]
        cells = len(ranks)
        while cells < len(nodes):
            signatures = {
                node: (
                    colour[node],
                    sorted([(colour[p], o, s) for p, o, s in self.incoming[node] if colour[p] >= 0]),
                    sorted([(colour[c], o, s) for c, o, s in self.outgoing[node] if colour[c] >= 0]),
                )
                for node in nodes
            }
            ordered = sorted(nodes, key=signatures.__getitem__)
            refined = [-1] * len(colour)
            rank = -1
            last = None
            for node in ordered:
                if signatures[node] != last:
                    last = signatures[node]
                    rank += 1
                refined[node] = rank
            colour = refined
            if rank + 1 == cells:
                break
            cells = rank + 1
        return colour

    def parts(self, nodes: Sequence[int]) -> list[list[int]]:
        """Connected parts of the subgraph that the nodes induce."""
        unseen = set(nodes)
        parts = []
        for start in nodes:
            if start not in unseen:
                continue
            unseen.discard(start)
            part = [start]
            for node in part:
                for other, _, _ in (*self.incoming[node], *self.outgoing[node]):
                    if other in unseen:
                        unseen.discard(other)
                        part.append(other)
            parts.append(part)
        return parts

    def form(self, order: Sequence[int], colour: Sequence[int]) -> Form:
        """Colours and edges of the nodes in this order."""
        place = {node: position for position, node in enumerate(order)}
        edges = sorted(
            (place[producer], output, place[node], slot)
            for node in order
            for producer, output, slot in self.incoming[node]
            if producer in place
        )
        return tuple(colour[node] for node in order), tuple(edges)


PADDING = int(np.iinfo(np.int64).max)
"""What fills the rows of patterns with fewer edges than others."""


class Vocabulary:
    """The labels and kinds of edges of some graphs, numbered in order.

    Args:
        labels: all labels.
        kinds: all (output, slot) of edges.
    """

    def __init__(self, labels: set[str], kinds: set[tuple[int, int]]) -> None:
        self.labels = sorted(labels)
        self.kinds = sorted(kinds)
        self.label_numbers = {label: number for number, label in enumerate(self.labels)}
        self.kind_numbers = {kind: number for number, kind in enumerate(self.kinds)}
        self.label_digests = [hashlib.sha256(label.encode()).digest() for label in self.labels]
        self.label_hashes = _hashes(self.label_digests, 0)
        kind_digests = [hashlib.sha256(f"{output} {slot}".encode()).digest() for output, slot in self.kinds]
        self.into, self.out = _hashes(kind_digests, 0), _hashes(kind_digests, 8)

    def unpacked(self, size: int, packed: Integers) -> tuple[Integers, Integers, Integers]:
        """Producer, consumer and kind of packed edges: ``(producer * size + consumer) * kinds + kind`` each."""
        pair, kind = np.divmod(packed, max(len(self.kinds), 1))
        source, target = np.divmod(pair, size)
        return source, target, kind

    def edges(self, size: int, packed: Integers, owner: Integers) -> Integers:
        """Packed edges as columns producer, output, consumer, slot, sorted.

        Args:
            size: nodes of each pattern.
            packed: edges of some patterns.
            owner: for each the pattern, rising.
        """
        source, target, kind = self.unpacked(size, packed)
        kinds: Integers = np.array(self.kinds, dtype=np.int64).reshape(-1, 2)
        output, slot = kinds[kind].T
        columns = np.stack([source, output, target, slot], axis=1)
        return columns[np.lexsort((slot, target, output, source, owner))]

    @cached_property
    def _kind_hashes(self) -> Hashes:
        return mixed(self.into + self.out)

    def keys(self, labels: Integers, packed: Integers) -> Hashes:
        """A 128-bit hash of each form, the same in every vocabulary: two numbers per pattern.

        Args:
            labels: a row of labels per pattern, in canonical order.
            packed: a row of packed edges per pattern, sorted, PADDING at the end.
        """
        return _keys(labels, packed, max(len(self.kinds), 1), self.label_hashes, self._kind_hashes)


@compiled
def _keys(labels: Integers, packed: Integers, kinds: int, label_hashes: Hashes, kind_hashes: Hashes) -> Hashes:
    """See Vocabulary.keys.

    Args:
        labels: see there.
        packed: see there.
        kinds: number of kinds of edges, at least 1.
        label_hashes: a hash of each label.
        kind_hashes: a hash of each kind.
    """
    count, size = labels.shape
    width = size + packed.shape[1]
    seeds = (np.uint64(0x632BE59BD9B4E019), np.uint64(0xD1B54A32D192ED03))
    of_place = np.empty((2, width), dtype=np.uint64)
    for half in range(2):
        for at in range(width):
            # An edge is no label.
            of_place[half, at] = hashed(np.uint64(at + 1 + (0 if at < size else 1 << 32)) * seeds[half])
    found = np.empty((count, 2), dtype=np.uint64)
    for row in range(count):
        first, second = np.uint64(0), np.uint64(0)
        for at in range(width):
            if at < size:
                part = label_hashes[labels[row, at]]
            else:
                edge = packed[row, at - size]
                if edge == PADDING:
                    break
                pair = edge // kinds
                places = np.uint64(pair // size * 65_536 + pair % size)
                part = hashed(places) ^ kind_hashes[edge % kinds]
            first += hashed(part + of_place[0, at])
            second += hashed(part + of_place[1, at])
        found[row, 0], found[row, 1] = hashed(first + seeds[0]), hashed(second + seeds[1])
    return found


def _hashes(digests: Sequence[bytes], start: int) -> Hashes:
    numbers = [int.from_bytes(digest[start : start + 8], "little") for digest in digests]
    return np.array(numbers, dtype=np.uint64)


class Forms(NamedTuple):
    """Canonical forms of patterns of equal size.

    Attributes:
        labels: labels in canonical order, a row per pattern.
        edges: packed edges between places in that order, sorted, PADDING at the end.
        order: for each place the node that stands there.
        rigid: for each place whether every automorphism leaves it where it is, as far as refinement can tell.
    """

    labels: Integers
    edges: Integers
    order: Integers
    rigid: Flags


def canonical_forms(labels: Integers, edges: Edges, vocabulary: Vocabulary) -> Forms:
    """Canonical forms of many graphs of equal size.

    Args:
        labels: a row of label numbers per graph.
        edges: the graphs' edges.
        vocabulary: what the numbers mean.
    """
    count = len(labels)
    found = orders(vocabulary.label_hashes[labels], edges, vocabulary.into, vocabulary.out)
    graph, order = found.graph, found.order
    if len(found.undecided):
        searched = [_searched(labels, edges, int(number), vocabulary) for number in found.undecided]
        graph = np.concatenate([graph, found.undecided])
        order = np.concatenate([order, np.array(searched, dtype=np.int64)])
        sorting = np.argsort(graph, kind="stable")
        graph, order = graph[sorting], order[sorting]
    kinds = max(len(vocabulary.kinds), 1)
    written, rows = _written(labels, graph, order, *edges, kinds)
    if len(graph) > count:
        # Of several orders of one graph, take the one that gives the least form.
        several = np.bincount(graph, minlength=count)[graph] > 1
        chosen = np.flatnonzero(~several)
        rest = np.flatnonzero(several)
        columns = [*rows[rest].T[::-1], *written[rest].T[::-1], graph[rest]]
        rest = rest[np.lexsort(columns)]
        first = np.ones(len(rest), dtype=np.bool_)
        first[1:] = graph[rest[1:]] != graph[rest[:-1]]
        chosen = np.concatenate([chosen, rest[first]])
        chosen = chosen[np.argsort(graph[chosen])]
        written, rows, order = written[chosen], rows[chosen], order[chosen]
    return Forms(written, rows, order, np.take_along_axis(found.rigid, order, axis=1))


@compiled
def _written(
    labels: Integers,
    graph: Integers,
    order: Integers,
    starts: Integers,
    source: Integers,
    target: Integers,
    kind: Integers,
    kinds: int,
) -> tuple[Integers, Integers]:
    """Graphs written down in given orders, once these are sorted by label, in place.

    Args:
        labels: a row of labels per graph.
        graph: the graph of each order.
        order: a row of nodes each.
        starts: for each graph where its edges begin, and where the last one's end.
        source: each edge's producer.
        target: its consumer.
        kind: number of its (output, slot).
        kinds: number of all of those, at least 1.

    Returns:
        a row of labels and a row of packed edges for each order; see Forms.
    """
    count, size = order.shape
    most = 0
    for row in range(count):
        most = max(most, starts[graph[row] + 1] - starts[graph[row]])
    written = np.empty((count, size), dtype=np.int64)
    packed = np.full((count, most), PADDING, dtype=np.int64)
    places = np.empty(size, dtype=np.int64)
    for row in range(count):
        own = labels[graph[row]]
        for at in range(size):
            node = order[row, at]
            place = at
            while place > 0 and own[order[row, place - 1]] > own[node]:
                order[row, place] = order[row, place - 1]
                place -= 1
            order[row, place] = node
        for place in range(size):
            places[order[row, place]] = place
            written[row, place] = own[order[row, place]]
        low = starts[graph[row]]
        for edge in range(low, starts[graph[row] + 1]):
            value = (places[source[edge]] * size + places[target[edge]]) * kinds + kind[edge]
            at = edge - low
            while at > 0 and packed[row, at - 1] > value:
                packed[row, at] = packed[row, at - 1]
                at -= 1
            packed[row, at] = value
    return written, packed


def _searched(labels: Integers, edges: Edges, graph: int, vocabulary: Vocabulary) -> tuple[int, ...]:
    low, high = edges.starts[graph : graph + 2].tolist()
    rows = zip(
        edges.source[low:high].tolist(), edges.kind[low:high].tolist(), edges.target[low:high].tolist(), strict=True
    )
    own = [(p, vocabulary.kinds[k][0], c, vocabulary.kinds[k][1]) for p, k, c in rows]
    return canonical_order(labels[graph].tolist(), own)


def digest(label_digests: Sequence[bytes], edges: bytes) -> str:
    """SHA-256 of a pattern in canonical order, as 64 hexadecimal digits.

    Hashed are the number of nodes, the SHA-256 of each label in canonical order, and the sorted edges; numbers as
    little-endian 64-bit integers.

    Args:
        label_digests: SHA-256 of the nodes' labels in canonical order.
        edges: (producer, output, consumer, slot) between places in that order, sorted, as the bytes of 64-bit integers.
    """
    return hashlib.sha256(b"".join([len(label_digests).to_bytes(8, "little"), *label_digests, edges])).hexdigest()


def canonical(labels: Sequence[str], edges: Sequence[Edge]) -> tuple[str, tuple[int, ...], tuple[Edge, ...]]:
    """Digest, canonical node order and canonical edges of any small labelled graph.

    Args:
        labels: label of each node.
        edges: (producer, output index, consumer, slot) by position in ``labels``.

    Returns:
        the digest; the nodes in canonical order; the edges between places in that order.
    """
    vocabulary = Vocabulary(set(labels), {(output, slot) for _, output, _, slot in edges})
    columns = np.array(
        [(p, c, vocabulary.kind_numbers[output, slot]) for p, output, c, slot in edges], dtype=np.int64
    ).reshape(-1, 3)
    numbers = np.array([[vocabulary.label_numbers[label] for label in labels]], dtype=np.int64)
    forms = canonical_forms(numbers, Edges(np.array([0, len(edges)]), *columns.T.copy()), vocabulary)
    placed = vocabulary.edges(len(labels), forms.edges[0], np.zeros(len(edges), dtype=np.int64))
    return (
        digest(
            [vocabulary.label_digests[number] for number in forms.labels[0].tolist()], placed.astype("<i8").tobytes()
        ),
        tuple(forms.order[0].tolist()),
        tuple(map(tuple, placed.tolist())),
    )
