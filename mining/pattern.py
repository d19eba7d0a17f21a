"""A pattern that was found, and where it occurs."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from graphopt.mining.canonical import CanonicalForm
from graphopt.mining.found import Found, Places
from graphopt.mining.graphs import MiningGraph, bits
from graphopt.mining.symmetry import Arrangement, Occurrence


@dataclass(frozen=True)
class Corpus:
    """The graphs that were mined: distinct ones, and which of them each given graph is."""

    given: tuple[MiningGraph, ...]
    distinct: tuple[MiningGraph, ...]
    index: tuple[int, ...]
    _arrangements: dict[int, Arrangement] = field(default_factory=dict, compare=False, repr=False)

    def arrangement(self, graph: int) -> Arrangement:
        """The canonical order of a distinct graph's nodes, found when first asked for."""
        if graph not in self._arrangements:
            self._arrangements[graph] = Arrangement.of(self.distinct[graph])
            self.distinct[graph].forget_tables()
        return self._arrangements[graph]


@dataclass(frozen=True)
class Pattern(CanonicalForm):
    """A connected labelled DAG that occurs.

    Attributes:
        support: sum of the weights of the graphs that contain it.
        occurrences: number of occurrences, each counted with the weight of its graph.
        closed: True where no larger pattern has the same occurrences; None where that is not known: it was not asked,
            or nothing larger was looked at (see ``clipped`` of mine).
    """

    support: int
    occurrences: int
    closed: bool | None = None
    _corpus: Corpus | None = field(default=None, repr=False, compare=False)
    _found: tuple[Found, ...] = field(default=(), repr=False, compare=False)
    _id: int = field(default=-1, repr=False, compare=False)

    @property
    def places(self) -> tuple[Places, ...]:
        """Representative occurrences in the distinct graphs, in order."""
        places = [own for found in self._found for own in found.of_pattern(self._id)]
        return tuple(sorted(places, key=lambda own: own.graph))

    def occurrences_in(self, places: Places) -> Iterator[Occurrence]:
        """Every occurrence in one distinct graph, nodes in canonical order."""
        for nodes, multiplicity in zip(places.nodes.tolist(), places.multiplicities, strict=True):
            yield from self.images(places.graph, tuple(nodes), multiplicity)

    def images(self, graph: int, nodes: Occurrence, multiplicity: int, apart_from: int = 0) -> Iterator[Occurrence]:
        """All occurrences that a representative in a distinct graph stands for, see Places.

        They come in an order that does not depend on how the graph's nodes are numbered.

        Args:
            graph: index of the distinct graph.
            nodes: the representative.
            multiplicity: how many occurrences it stands for.
            apart_from: bits of nodes that occurrences must not hold.
        """
        if multiplicity > 1:
            yield from self.arrangement(graph).images(nodes, apart_from)
        elif not bits(nodes) & apart_from:
            yield nodes

    def arrangement(self, graph: int) -> Arrangement:
        """The canonical order of a distinct graph's nodes."""
        assert self._corpus is not None
        return self._corpus.arrangement(graph)

    def found(self) -> Iterator[tuple[int, tuple[Hashable, ...]]]:
        """Every occurrence in every graph that was given, on demand.

        Yields:
            the position of the graph among those given, and its own names of the nodes, in canonical order.
        """
        if self._corpus is None:
            return
        by_graph = {places.graph: places for places in self.places}
        for position, graph in enumerate(self._corpus.given):
            if self._corpus.index[position] in by_graph:
                for nodes in self.occurrences_in(by_graph[self._corpus.index[position]]):
                    yield position, tuple(graph.identities[node] for node in nodes)

    @cached_property
    def disjoint_occurrences(self) -> int:
        """Size of a maximal set of disjoint occurrences, each counted with the weight of its graph.

        Found by going through the occurrences in the order of disjoint_in; a set with more may exist. The number does
        not depend on the order of graphs or nodes.
        """
        if self._corpus is None:
            return 0
        return sum(
            self._corpus.distinct[places.graph].weight * len(list(self.disjoint_in(places))) for places in self.places
        )

    def disjoint_in(self, places: Places, covered: int = 0) -> Iterator[Occurrence]:
        """Disjoint occurrences in one distinct graph, chosen in an order that is the same in isomorphic graphs.

        The order is that of the nodes' places in the canonical order of the whole graph.

        Args:
            places: the occurrences there.
            covered: bits of nodes that are taken already.
        """
        arrangement = self.arrangement(places.graph)
        rows = [(tuple(nodes), many) for nodes, many in zip(places.nodes.tolist(), places.multiplicities, strict=True)]
        for nodes, multiplicity in sorted(rows, key=lambda row: arrangement.key(row[0])):
            while (image := next(self.images(places.graph, nodes, multiplicity, covered), None)) is not None:
                covered |= bits(image)
                yield image
