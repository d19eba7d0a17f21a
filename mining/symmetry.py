"""Equal branches of a graph: what can change places without changing the graph.

Twenty-six equal embedding lookups that end in one Concat have 2^26 subsets, and all subsets of one size look the same.
The miner keeps one of them, the *representative*, and counts how many there are. A *family* is a list of disjoint
branches, each a list of nodes in matching order, such that exchanging any two branches is an automorphism of the graph.
Families are found by refining the graph's nodes into equitable cells: nodes that are alone in their cell stay where
they are under every automorphism; what remains falls into connected parts; parts of equal canonical form, attached
alike to the fixed nodes, are the branches of a family.

An occurrence is described on a family by its *states*: for each branch, the bits of the places it holds there. The
representative has its states in falling order; its orbit has as many members as there are distinct orders of the
states. Branches within branches, and symmetries of other kinds, are not collapsed: they cost time, never correctness.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple

from graphopt.mining.canonical import Adjacency, Form
from graphopt.mining.graphs import MiningGraph, bits, members

Occurrence = tuple[int, ...]
"""Nodes of an occurrence in the canonical order of its pattern."""

LONGEST_BRANCH = 63
"""Most nodes of a branch: what an occurrence holds of it is the bits of one number."""


class Symmetry:
    """Families of branches.

    Attributes:
        families: for each family its branches; nodes at equal places of two branches correspond.
        moved: bits of all nodes of all families.
    """

    def __init__(self, families: Sequence[tuple[tuple[int, ...], ...]]) -> None:
        self.families = tuple(families)
        self.moved = 0
        self._held: dict[tuple[int, int], list[int]] = {}
        for branches in self.families:
            for nodes in branches:
                self.moved |= bits(nodes)

    @cached_property
    def _place(self) -> dict[int, tuple[int, int, int]]:
        """Family, branch and place in the branch of each node."""
        return {
            node: (family, branch, place)
            for family, branches in enumerate(self.families)
            for branch, nodes in enumerate(branches)
            for place, node in enumerate(nodes)
        }

    @classmethod
    def of(cls, graph: MiningGraph) -> "Symmetry":
        """All families of a graph."""
        return cls(_arranged(graph)[1])

    def states(self, mask: int) -> dict[int, dict[int, int]]:
        """For each family that the set touches, the states of the branches it touches."""
        states: dict[int, dict[int, int]] = {}
        for node in members(mask & self.moved):
            family, branch, place = self._place[node]
            branches = states.setdefault(family, {})
            branches[branch] = branches.get(branch, 0) | 1 << place
        return states

    def representative(self, mask: int, nodes: Occurrence) -> tuple[int, Occurrence]:
        """The representative of a set's orbit, and the given nodes moved along with it."""
        if not mask & self.moved:
            return mask, nodes
        moves: dict[int, int] = {}
        for family, states in self.states(mask).items():
            branches = self.families[family]
            for target, source in enumerate(sorted(states, key=lambda branch: (-states[branch], branch))):
                if source != target:
                    moves.update(zip(branches[source], branches[target], strict=True))
        if not moves:
            return mask, nodes
        image = mask
        for node in members(mask & self.moved):
            if node in moves:
                image ^= 1 << node
        for node in members(mask & self.moved):
            if node in moves:
                image |= 1 << moves[node]
        return image, tuple(moves.get(node, node) for node in nodes)

    def _masks(self, family: int, state: int) -> list[int]:
        """For each branch of a family, bits of the nodes at the places of a state."""
        if (family, state) not in self._held:
            places = list(members(state))
            branches = self.families[family]
            self._held[family, state] = [sum(1 << branch[place] for place in places) for branch in branches]
        return self._held[family, state]

    def images(self, mask: int, nodes: Occurrence, blocked: int = 0) -> Iterator[Occurrence]:
        """Every set of the orbit once, the nodes in the order given.

        Args:
            mask: bits of the nodes.
            nodes: the nodes.
            blocked: bits of nodes that the images must not hold; they may change what is skipped, not what is repeated.
        """
        if not mask & self.moved:
            if not mask & blocked:
                yield nodes
            return
        if mask & ~self.moved & blocked:
            return
        yield from self._images(list(self.states(mask).items()), {}, nodes, blocked)

    def _images(
        self, left: list[tuple[int, dict[int, int]]], moves: dict[int, int], nodes: Occurrence, blocked: int
    ) -> Iterator[Occurrence]:
        if not left:
            yield tuple(moves.get(node, node) for node in nodes)
            return
        family, states = left[0]
        branches = self.families[family]
        by_state: dict[int, list[int]] = {}
        for branch in sorted(states):
            by_state.setdefault(states[branch], []).append(branch)
        sources = [branch for state in sorted(by_state, reverse=True) for branch in by_state[state]]
        free = {
            state: [target for target, held in enumerate(self._masks(family, state)) if not held & blocked]
            for state in by_state
        }

        def place(position: int, used: frozenset[int], chosen: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
            if position == len(sources):
                yield chosen
                return
            state = states[sources[position]]
            start = 0
            if position and states[sources[position - 1]] == state:
                start = chosen[-1] + 1
            for target in free[state]:
                if target < start or target in used:
                    continue
                yield from place(position + 1, used | {target}, (*chosen, target))

        for targets in place(0, frozenset(), ()):
            moved = dict(moves)
            for source, target in zip(sources, targets, strict=True):
                moved.update(zip(branches[source], branches[target], strict=True))
            yield from self._images(left[1:], moved, nodes, blocked)


class Arrangement(NamedTuple):
    """A graph's nodes in canonical order: isomorphic graphs, put in this order, become equal, and so do their families.

    Attributes:
        order: the node at each place.
        place: the place of each node.
        symmetry: the families, of places.
    """

    order: tuple[int, ...]
    place: tuple[int, ...]
    symmetry: Symmetry

    @classmethod
    def of(cls, graph: MiningGraph) -> "Arrangement":
        """The arrangement of a graph. Which of several automorphic nodes comes first is arbitrary."""
        order, families = _arranged(graph)
        place = [0] * len(order)
        for at, node in enumerate(order):
            place[node] = at
        moved = (tuple(tuple([place[node] for node in branch]) for branch in branches) for branches in families)
        return cls(tuple(order), tuple(place), Symmetry(sorted(tuple(sorted(branches)) for branches in moved)))

    def images(self, nodes: Occurrence, blocked: int = 0) -> Iterator[Occurrence]:
        """Every set of the orbit of some nodes once, in an order that does not depend on how nodes are numbered.

        Args:
            nodes: the set.
            blocked: bits of nodes that images must not hold.
        """
        placed = tuple([self.place[node] for node in nodes])
        barred = bits(self.place[node] for node in members(blocked))
        for image in self.symmetry.images(bits(placed), placed, barred):
            yield tuple([self.order[at] for at in image])

    def key(self, nodes: Occurrence) -> list[int]:
        """Equal for two sets of nodes exactly if they are in one orbit; sorts orbits however nodes are numbered."""
        return list(members(self.symmetry.representative(bits(self.place[node] for node in nodes), ())[0]))


def _arranged(graph: MiningGraph) -> tuple[list[int], list[tuple[tuple[int, ...], ...]]]:
    """A canonical order of the nodes; families of equal branches, each with at least two branches."""
    colour = _rough_colours(graph)
    nodes = list(range(len(colour)))
    if len(set(colour)) == len(colour):
        return sorted(nodes, key=colour.__getitem__), []
    apart = set(graph.apart)
    incoming = [
        [(p, o, 2 * s + ((p, node) in apart)) for p, o, s in edges] for node, edges in enumerate(graph.incoming)
    ]
    outgoing = [
        [(c, o, 2 * s + ((node, c) in apart)) for c, o, s in edges] for node, edges in enumerate(graph.outgoing)
    ]
    helper = Adjacency(incoming, outgoing)
    colour = helper.refine(nodes, colour)
    sizes: dict[int, int] = {}
    for value in colour:
        sizes[value] = sizes.get(value, 0) + 1
    alone = sorted((node for node in nodes if sizes[colour[node]] == 1), key=colour.__getitem__)
    groups: dict[Form, list[tuple[int, ...]]] = {}
    for part in helper.parts([node for node in nodes if sizes[colour[node]] > 1]):
        order = helper.order(part, colour)
        groups.setdefault(helper.form(order, colour), []).append(tuple(order))
    families = [
        tuple(sorted(branches))
        for branches in groups.values()
        if len(branches) > 1 and len(branches[0]) <= LONGEST_BRANCH
    ]
    return alone + [node for form in sorted(groups) for branch in groups[form] for node in branch], families


def _rough_colours(graph: MiningGraph) -> list[int]:
    """Colours from all that leads to a node and all that follows from it: close to equitable, in two passes.

    They hold hashes, so they may be too coarse; refinement tells apart what they do not. Labels are compared in full.
    """
    labels = {label: int.from_bytes(sha256(label.encode()).digest()[:7]) for label in set(graph.labels)}
    down = [0] * len(graph.labels)
    up = [0] * len(graph.labels)
    for node in graph.topological:
        held = graph.eligible_nodes >> node & 1
        operands = tuple(sorted([(down[p], o, s) for p, o, s in graph.incoming[node]]))
        down[node] = hash((labels[graph.labels[node]], held, operands))
    for node in reversed(graph.topological):
        up[node] = hash((down[node], tuple(sorted([(up[c], o, s) for c, o, s in graph.outgoing[node]]))))
    keys = list(zip(graph.labels, up, strict=True))
    ranks = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    return [ranks[key] for key in keys]
