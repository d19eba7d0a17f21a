"""The exact canonical form of a small labelled DAG: equal for two patterns if and only if they are isomorphic.

A graph is given by a rank for each node's label and by edges (producer, output, consumer, slot); parallel edges count.
Refinement alone (Weisfeiler-Leman) takes some regular graphs for each other, so what it leaves undecided is decided by
trying: one node of an undecided cell is told apart from the others, and the least of the resulting forms is taken.

Three observations keep that cheap on the graphs that occur. Cells are *equitable* after refinement, so nodes that stand
alone in their cell can be taken out, and the connected parts that remain are put in order independently of each other:
twenty-six equal branches are twenty-six small problems. Nodes of a cell with the very same neighbours can change
places, so one of them is tried for all. And operator graphs carry many different labels: most patterns are decided at
once.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence

Edge = tuple[int, int, int, int]
"""(producer, output index, consumer, slot)"""

Form = tuple[tuple[int, ...], tuple[Edge, ...]]
"""Colours and edges of a graph in canonical node order: comparable between parts of one graph."""

SHORT_DIGEST = 12
"""Characters of a digest that people see."""


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


def reorder(order: Sequence[int], edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Edges between the nodes' new places, sorted."""
    place = {node: position for position, node in enumerate(order)}
    return tuple(sorted((place[p], output, place[c], slot) for p, output, c, slot in edges))


def digest(labels: Sequence[str], edges: Sequence[Edge]) -> str:
    """SHA-256 of a pattern in canonical order, as 64 hexadecimal digits.

    Args:
        labels: the nodes' labels in canonical order.
        edges: sorted edges between places in that order.
    """
    text = json.dumps([list(labels), [list(edge) for edge in edges]], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(labels: Sequence[str], edges: Sequence[Edge]) -> tuple[str, tuple[int, ...], tuple[Edge, ...]]:
    """Digest, canonical node order and canonical edges of any small labelled graph.

    Args:
        labels: label of each node.
        edges: (producer, output index, consumer, slot) by position in ``labels``.

    Returns:
        the digest; the nodes in canonical order; the edges between places in that order.
    """
    ranks = {label: rank for rank, label in enumerate(sorted(set(labels)))}
    order = canonical_order([ranks[label] for label in labels], edges)
    placed = reorder(order, edges)
    return digest([labels[node] for node in order], placed), order, placed
