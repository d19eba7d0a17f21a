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

from collections.abc import Hashable, Iterator, Sequence
from math import factorial

from graphopt.mining.canonical import Adjacency, Form
from graphopt.mining.graphs import MiningGraph, bits, members

Occurrence = tuple[int, ...]
"""Nodes of an occurrence in the canonical order of its pattern."""


class Symmetry:
    """Families of branches.

    Attributes:
        families: for each family its branches; nodes at equal places of two branches correspond.
        moved: bits of all nodes of all families.
    """

    def __init__(self, families: Sequence[tuple[tuple[int, ...], ...]]) -> None:
        self.families = tuple(families)
        self.moved = 0
        self._place: dict[int, tuple[int, int, int]] = {}
        for family, branches in enumerate(self.families):
            for branch, nodes in enumerate(branches):
                for place, node in enumerate(nodes):
                    self._place[node] = (family, branch, place)
                    self.moved |= 1 << node

    @classmethod
    def of(cls, graph: MiningGraph) -> "Symmetry":
        """All families of a graph."""
        return cls(_families(graph))

    def within(self, mask: int) -> "Symmetry":
        """The families of a set's own: its equal states, which can change places without changing the set."""
        families = []
        for family, states in self._states(mask).items():
            alike: dict[int, list[int]] = {}
            for branch, state in states.items():
                alike.setdefault(state, []).append(branch)
            for state, branches in alike.items():
                if len(branches) > 1:
                    places = list(members(state))
                    families.append(tuple(tuple(self.families[family][b][p] for p in places) for b in sorted(branches)))
        return Symmetry(families)

    def _states(self, mask: int) -> dict[int, dict[int, int]]:
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
        for family, states in self._states(mask).items():
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

    def multiplicity(self, mask: int) -> int:
        """Number of sets in the orbit."""
        count = 1
        if mask & self.moved:
            for family, states in self._states(mask).items():
                total = len(self.families[family])
                count *= factorial(total) // factorial(total - len(states))
                values = list(states.values())
                for value in set(values):
                    count //= factorial(values.count(value))
        return count

    def reach(self, mask: int) -> int:
        """Bits of all nodes that some member of the set's orbit may hold, and perhaps of some more."""
        for family in self._states(mask):
            for nodes in self.families[family]:
                mask |= bits(nodes)
        return mask

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
        yield from self._images(list(self._states(mask).items()), {}, nodes, blocked)

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

        def place(position: int, used: frozenset[int], chosen: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
            if position == len(sources):
                yield chosen
                return
            state = states[sources[position]]
            start = 0
            if position and states[sources[position - 1]] == state:
                start = chosen[-1] + 1
            for target in range(start, len(branches)):
                if target in used or any(blocked >> branches[target][p] & 1 for p in members(state)):
                    continue
                yield from place(position + 1, used | {target}, (*chosen, target))

        for targets in place(0, frozenset(), ()):
            moved = dict(moves)
            for source, target in zip(sources, targets, strict=True):
                moved.update(zip(branches[source], branches[target], strict=True))
            yield from self._images(left[1:], moved, nodes, blocked)


def _families(graph: MiningGraph) -> list[tuple[tuple[int, ...], ...]]:
    """Families of equal branches, each with at least two branches."""
    colour = _rough_colours(graph)
    if len(set(colour)) == len(colour):
        return []
    apart = set(graph.apart)
    incoming = [
        [(p, o, 2 * s + ((p, node) in apart)) for p, o, s in edges] for node, edges in enumerate(graph.incoming)
    ]
    outgoing = [
        [(c, o, 2 * s + ((node, c) in apart)) for c, o, s in edges] for node, edges in enumerate(graph.outgoing)
    ]
    helper = Adjacency(incoming, outgoing)
    nodes = list(range(len(colour)))
    colour = helper.refine(nodes, colour)
    sizes: dict[int, int] = {}
    for value in colour:
        sizes[value] = sizes.get(value, 0) + 1
    groups: dict[Form, list[tuple[int, ...]]] = {}
    for part in helper.parts([node for node in nodes if sizes[colour[node]] > 1]):
        order = helper.order(part, colour)
        groups.setdefault(helper.form(order, colour), []).append(tuple(order))
    return [tuple(sorted(branches)) for branches in groups.values() if len(branches) > 1]


def _rough_colours(graph: MiningGraph) -> list[int]:
    """Colours from all that leads to a node and all that follows from it: close to equitable, in two passes."""
    numbers: dict[Hashable, int] = {}

    def number(key: Hashable) -> int:
        return numbers.setdefault(key, len(numbers))

    down = [0] * len(graph.labels)
    up = [0] * len(graph.labels)
    for node in graph.topological:
        flags = (graph.eligible_nodes >> node & 1, *(group >> node & 1 for group in graph.single))
        down[node] = number(
            (graph.labels[node], flags, tuple(sorted((down[p], o, s) for p, o, s in graph.incoming[node])))
        )
    for node in reversed(graph.topological):
        up[node] = number((down[node], tuple(sorted((up[c], o, s) for c, o, s in graph.outgoing[node]))))
    ranks = {value: rank for rank, value in enumerate(sorted(set(up)))}
    return [ranks[value] for value in up]
