"""Mining: every frequent, connected, convex pattern of a set of weighted graphs, or only the closed ones."""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.mining.canonical import SHORT_DIGEST, Edge
from graphopt.mining.engine import Engine
from graphopt.mining.engines import open_engine
from graphopt.mining.found import Found, Places
from graphopt.mining.graphs import MiningGraph, Weighted, bits, from_any, merged
from graphopt.mining.refinement import Flags
from graphopt.mining.shard import Code
from graphopt.mining.symmetry import Arrangement, Occurrence
from graphopt.mining.tallies import Tallies, combined, joined_up

if TYPE_CHECKING:
    from distributed import Client

Progress = Callable[[int, int, int], None]
"""Called after each level with its size, its number of frequent patterns, and their occurrences."""

DEFAULT_BUDGET = 20_000
"""Representative occurrences that one graph may have on one level before the miner gives up on it."""


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
class Pattern:
    """A connected labelled DAG that occurs.

    Attributes:
        digest: SHA-256 of its canonical form, 64 hexadecimal digits.
        labels: its nodes' labels, in canonical order.
        edges: (producer, output, consumer, slot) between places in that order.
        support: sum of the weights of the graphs that contain it.
        occurrences: number of occurrences, each counted with the weight of its graph.
        closed: whether no larger pattern has the same occurrences; None when that was not asked.
    """

    digest: str
    labels: tuple[str, ...]
    edges: tuple[Edge, ...]
    support: int
    occurrences: int
    closed: bool | None = None
    _corpus: Corpus | None = field(default=None, repr=False, compare=False)
    _found: Found | None = field(default=None, repr=False, compare=False)
    _id: int = field(default=-1, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.labels)

    @property
    def short(self) -> str:
        """The first digits of the digest, for people."""
        return self.digest[:SHORT_DIGEST]

    @property
    def places(self) -> tuple[Places, ...]:
        """Representative occurrences in the distinct graphs, in order."""
        return () if self._found is None else tuple(self._found.of_pattern(self._id))

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


@dataclass(frozen=True)
class MiningResult:
    """Patterns in order of size and digest.

    Attributes:
        patterns: what was found.
        graphs: number of graphs given; ``distinct`` of them differ.
        distinct: number of distinct graphs.
        weight: sum of all weights.
        min_support: the threshold that was applied, as a weight.
        index: for each graph given, the index of its distinct graph, as places of patterns name it.
        visited: number of frequent patterns that were grown or could have been, closed or not.
        truncated: graphs (by position among those given) that exceeded the work budget, with the size from which on
            patterns or occurrences of theirs are missing.
    """

    patterns: tuple[Pattern, ...]
    graphs: int
    distinct: int
    weight: int
    min_support: int
    index: tuple[int, ...] = ()
    visited: int = 0
    truncated: tuple[tuple[int, int], ...] = ()

    @property
    def incomplete(self) -> bool:
        """Whether the work budget cut something off: supports and counts are then lower bounds."""
        return bool(self.truncated)

    def __iter__(self) -> Iterator[Pattern]:
        return iter(self.patterns)

    def __len__(self) -> int:
        return len(self.patterns)

    def __getitem__(self, digest: str) -> Pattern:
        """The pattern with this digest, or with the only digest that starts so."""
        matches = [pattern for pattern in self.patterns if pattern.digest.startswith(digest)]
        if len(matches) != 1:
            raise KeyError(digest)
        return matches[0]


def mine(
    graphs: Iterable[Weighted | MiningGraph],
    *,
    min_support: int | float | Fraction = 1,
    max_size: int = 8,
    min_size: int = 1,
    closed: bool = True,
    k: int | None = None,
    engine: str = "processes",
    jobs: int | None = None,
    scheduler: "str | Client | None" = None,
    budget: int = DEFAULT_BUDGET,
    group: Callable[[Sequence[Code]], Mapping[str, Hashable]] | None = None,
    least_saving: float = 0.0,
    progress: Progress | None = None,
) -> MiningResult:
    """Find every frequent pattern.

    A *pattern* is a connected labelled DAG up to isomorphism: node labels, and for each edge the index of the result
    and the slot of the operand, with parallel edges. An *occurrence* is a set of nodes of a graph that induces the
    pattern and is convex: no path leaves it and comes back. The *support* of a pattern is the sum of the weights of
    the graphs with at least one occurrence.

    A pattern is *closed* when no larger pattern (of at most ``max_size`` nodes) has the same occurrences: when there is
    none such that each occurrence of either lies in, or holds, exactly one of the other, and such that occurrences
    which are disjoint stay disjoint. Whoever can fuse a set of disjoint occurrences of a pattern that is not closed
    can fuse as many of the larger one instead.

    Graphs written alike count as one with the sum of their weights: weight *w* equals *w* copies. The result is the
    same for any order of graphs or nodes, any engine and any number of jobs.

    Args:
        graphs: operator graphs, captures, networkx DiGraphs or MultiDiGraphs (``label`` on nodes; ``slot`` and
            ``output`` on edges, 0 by default), or pairs of one of those and a weight (a whole number, of any size).
        min_support: least support, as a weight (whole number) or as a fraction of all weight (between 0 and 1, rounded
            up).
        max_size: most nodes of a pattern.
        min_size: fewest nodes of a pattern that is returned.
        closed: whether only closed patterns are returned.
        k: return only that many patterns, those that cover most: by size times weighted occurrences.
        engine: ``processes``, ``serial`` or ``dask``.
        jobs: number of worker processes on this machine; all processors when None.
        scheduler: for ``dask``: the address of a scheduler, or a client, all of whose workers are used; worker
            processes on this machine when None.
        budget: most (representative) occurrences of one graph and size; see MiningResult.truncated.
        group: called once with all frequent patterns; returns a group for each digest. A pattern then only gives way to
            larger ones of its own group.
        least_saving: leave out what can neither save so much nor be part of anything that does, by the gains of the
            graphs' nodes (see bounds.py). Whatever saves so much is found, and whether it is closed.
        progress: called after each level.

    Returns:
        the patterns, and whether the work budget cut something off.

    Raises:
        GraphoptError: a graph cannot be mined, or an argument makes no sense.

    Example:
        Two graphs with ``a → b`` in common, one of them executed three times:

        >>> import networkx as nx
        >>> first, second = nx.DiGraph(), nx.DiGraph()
        >>> first.add_nodes_from([(0, {"label": "a"}), (1, {"label": "b"}), (2, {"label": "c"})])
        >>> first.add_edges_from([(0, 1), (1, 2)])
        >>> second.add_nodes_from([("x", {"label": "a"}), ("y", {"label": "b"})])
        >>> second.add_edge("x", "y", slot=0)
        >>> for pattern in mine([(first, 1), (second, 3)], min_support=4, engine="serial"):
        ...     print(pattern.labels, pattern.edges, pattern.support, pattern.occurrences)
        ('a', 'b') ((0, 0, 1, 0),) 4 4
    """
    items = list(graphs)  # which keeps them alive, as what is known by identity must be
    known: dict[int, MiningGraph] = {}
    given = tuple(from_any(item, known) for item in items)
    if max_size < 1 or min_size < 1:
        raise GraphoptError("patterns have at least one node: max_size and min_size must be 1 or more")
    distinct, index = merged(given)
    corpus = Corpus(given, tuple(distinct), tuple(index))
    weight = sum(graph.weight for graph in given)
    threshold = absolute_support(min_support, weight)
    if not distinct:
        return MiningResult((), 0, 0, 0, threshold)
    levels: list[Tallies] = []
    with open_engine(engine, distinct, jobs=jobs, budget=budget, scheduler=scheduler) as running:
        level = combined(running.call("start", max_size if least_saving else 0))
        while True:
            promising = (level.support >= threshold).astype(np.bool_) & (level.bound >= least_saving)
            frequent = level.of(promising)
            levels.append(frequent)
            if progress is not None:
                progress(len(levels), len(frequent.keys), int(frequent.occurrences.sum()))
            if len(levels) == max_size or not len(frequent.keys):
                break
            level = combined(running.call("grow", frequent.keys))
        running.call("end", frequent.keys)
        tallies = joined_up(levels)
        sizes = np.repeat(np.arange(1, len(levels) + 1), [len(frequent.keys) for frequent in levels])
        wanted = sizes >= min_size
        codes: list[Code] = []
        if group is not None:
            every = np.arange(len(tallies.keys))
            codes = sorted(itertools.chain(*running.call("describe", every, tallies.first)), key=lambda code: code.id)
        if closed:
            groups = None if group is None else group(codes)
            listed = None if groups is None else [groups[code.digest] for code in codes]
            wanted &= _closed(running, tallies, listed)
        if k is not None:
            cover = [-size * count for size, count in zip(sizes.tolist(), tallies.occurrences.tolist(), strict=True)]
            keys = tallies.keys.tolist()
            best = sorted(np.flatnonzero(wanted).tolist(), key=lambda number: (cover[number], keys[number]))[:k]
            wanted = np.isin(np.arange(len(tallies.keys)), best)
        ids = np.flatnonzero(wanted)
        if group is None:
            codes = list(itertools.chain(*running.call("describe", ids, tallies.first[ids])))
        else:
            codes = [code for code in codes if wanted[code.id]]
        codes.sort(key=lambda code: (len(code.labels), code.digest))
        found = {
            size: Found.joined(running.call("found", size, ids[sizes[ids] == size]), size)
            for size in range(1, len(levels) + 1)
        }
        cut: dict[int, int] = {}
        for truncated in running.call("truncated"):
            cut.update(truncated)
    support, occurrences = tallies.support.tolist(), tallies.occurrences.tolist()
    patterns = tuple(
        Pattern(
            digest=code.digest,
            labels=code.labels,
            edges=code.edges,
            support=support[code.id],
            occurrences=occurrences[code.id],
            closed=True if closed else None,
            _corpus=corpus,
            _found=found[len(code.labels)],
            _id=code.id,
        )
        for code in codes
    )
    return MiningResult(
        patterns=patterns,
        graphs=len(given),
        distinct=len(distinct),
        weight=weight,
        min_support=threshold,
        index=tuple(index),
        visited=len(tallies.keys),
        truncated=tuple((position, cut[graph]) for position, graph in enumerate(index) if graph in cut),
    )


def absolute_support(min_support: int | float | Fraction, weight: int) -> int:
    """The least support as a weight: a whole number as it is, a fraction of all weight rounded up; at least 1.

    Raises:
        GraphoptError: it is neither.
    """
    if isinstance(min_support, bool) or min_support < 0:
        raise GraphoptError(f"the least support must be a whole number or a fraction below 1, not {min_support!r}")
    if isinstance(min_support, int):
        return max(min_support, 1)
    if min_support > 1:
        raise GraphoptError(f"the least support must be a whole number or a fraction below 1, not {min_support!r}")
    # 0.01 means one in a hundred, not the binary fraction that is closest to it.
    fraction = Fraction(repr(min_support)) if isinstance(min_support, float) else min_support
    return max(ceil(fraction * weight), 1)


def _closed(running: Engine, tallies: Tallies, groups: Sequence[Hashable] | None) -> Flags:
    """Which patterns are closed: no pair or claim against them holds in all shards that contain them."""
    _, alike = np.unique(tallies.spread, return_inverse=True)
    if groups is not None:
        numbers: dict[Hashable, int] = {}
        grouped = np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)
        _, alike = np.unique(alike * max(len(numbers), 1) + grouped, return_inverse=True)
    found = running.call("pairs", alike)
    pairs = np.concatenate([np.stack([part.small, part.large], axis=1) for part in found])
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    closed = np.ones(len(tallies.keys), dtype=np.bool_)
    closed[pairs[counts == tallies.shards[pairs[:, 0]], 0]] = False
    proposed = running.call("propose", alike, closed.copy(), tallies.first, tallies.shards)
    claims = list(itertools.chain(*proposed))
    shared = [claim for claim in claims if tallies.shards[claim.small] > 1]
    closed[[claim.small for claim in claims if tallies.shards[claim.small] == 1]] = False
    if shared:
        for claim, *answers in zip(shared, *running.call("confirm", shared), strict=True):
            if all(answers):
                closed[claim.small] = False
    return closed
