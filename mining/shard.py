"""One shard of the graphs: its occurrences, and what it tells the others about them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.mining import closedness, growth
from graphopt.mining.batch import Batch
from graphopt.mining.bounds import bounds
from graphopt.mining.canonical import CanonicalForm, Edge, Vocabulary, digest
from graphopt.mining.closedness import Judged
from graphopt.mining.compiled import compiled
from graphopt.mining.found import Found
from graphopt.mining.graphs import MiningGraph
from graphopt.mining.levels import Level, Numbers, Steps, narrow
from graphopt.mining.patterns import Patterns
from graphopt.mining.refinement import Flags, Hashes, Integers, spread_out
from graphopt.mining.symmetry import Occurrence
from graphopt.mining.tallies import SMALL, Counts, Tallies, located

BATCH_NODES = 40_000
"""Nodes of a batch, unless one graph has more."""


@dataclass(frozen=True, slots=True)
class Code(CanonicalForm):
    """A pattern's canonical form.

    Attributes:
        id: its number among all frequent patterns: by size, then by key.
        graph: index of the first graph that contains it.
        nodes: an occurrence there, in canonical order.
    """

    id: int
    graph: int
    nodes: Occurrence


class Shard:
    """Some of the graphs, with all that is known about their occurrences.

    Args:
        graphs: index of each graph among all graphs, and the graph.
        budget: the most representatives that one graph may have on one level. A graph that has more takes no part in
            this level and larger ones, and is listed in ``truncated``.
    """

    def __init__(self, graphs: Sequence[tuple[int, MiningGraph]], budget: int) -> None:
        self.budget = budget
        self._vocabulary = Vocabulary(
            {label for _, graph in graphs for label in graph.labels},
            {(output, slot) for _, graph in graphs for _, output, _, slot in graph.edges},
        )
        self.batches = [Batch(batch, self._vocabulary) for batch in _batches(graphs)]
        self.patterns: list[Patterns] = []
        self._weight = sum(graph.weight for _, graph in graphs)
        self._next_id = 0
        self._largest = self._reach = 0

    @property
    def truncated(self) -> dict[int, int]:
        """Index of each graph that exceeded the budget, to the size from which on its occurrences are missing."""
        return {graph: size for batch in self.batches for graph, size in batch.truncated.items()}

    def start(self, largest: int = 0, reach: int = 0) -> Tallies:
        """The level of single nodes.

        Args:
            largest: for bounds on savings, the most nodes that a pattern may have; 0 for none.
            reach: for steps that are taken at once, the most nodes of what is considered, see forced.py; 0 for none.
        """
        patterns = Patterns(1)
        self._largest, self._reach = largest, reach
        for batch in self.batches:
            growth.start(batch, patterns)
        self.patterns = [patterns]
        return self._tallies()

    def grow(self, frequent: Hashes, paired: bool = False) -> Judged | None:
        """Find the next level, from the frequent patterns of the last one; see keep.

        Args:
            frequent: see keep.
            paired: whether to say which patterns give way to larger ones.
        """
        self.keep(frequent)
        larger = Patterns(self.patterns[-1].size + 1)
        for batch in self.batches:
            growth.grow(batch, self.patterns[-1], larger, self.budget)
        self.patterns.append(larger)
        if not paired:
            return None
        return closedness.judged(self.batches, self.patterns[-2], self.patterns[-1], self._reach)

    def tally(self, small: Integers | None = None, large: Hashes | None = None) -> Tallies:
        """Support and counts of every pattern of the level that was found last.

        Args:
            small: sorted ids of patterns of the level before that always give way to a larger one.
            large: for each the key of that: all else that only they lead to is forgotten.
        """
        if small is not None and large is not None and len(small):
            inner, outer = self.patterns[-2:]
            order = outer.by_key
            only = np.full(len(inner), -1)
            at = _member(inner.ids, small)
            only[at >= 0] = order[located(large[at[at >= 0]], outer.keys[order])]
            kept = np.zeros(len(outer), dtype=np.bool_)
            for batch in self.batches:
                assert batch.steps is not None
                target = only[batch.levels[-2].pattern].astype(np.int32)
                _mark_reached(kept, batch.steps, target, batch.levels[-1].pattern.astype(np.int32))
            for batch in self.batches:
                level = batch.levels[-1]
                batch.levels[-1] = level.kept(kept[level.pattern], np.arange(len(outer)))
        return self._tallies()

    def keep(self, frequent: Hashes) -> None:
        """Forget all occurrences of the last level whose pattern is not frequent.

        Args:
            frequent: sorted keys of the patterns that are frequent among all shards' graphs.
        """
        patterns = self.patterns[-1]
        at = located(patterns.keys, frequent)
        rows = np.argsort(at, kind="stable")[np.count_nonzero(at < 0) :]
        self.patterns[-1] = patterns.kept(rows, at[rows] + self._next_id)
        self._next_id += len(frequent)
        numbers = np.full(len(patterns), -1, dtype=np.int64)
        numbers[rows] = np.arange(len(rows))
        for batch in self.batches:
            level = batch.levels[-1]
            batch.levels[-1] = level.kept(numbers[level.pattern] >= 0, numbers)
            batch.steps = None

    def end(self, size: int) -> None:
        """End growth: keep the levels up to some size."""
        del self.patterns[size:]
        for batch in self.batches:
            del batch.levels[size:]
            batch.forget_growth()

    def _tallies(self) -> Tallies:
        """Support and counts of every pattern of the last level."""
        patterns = self.patterns[-1]
        count = len(patterns)
        first = np.full(count, np.iinfo(np.int64).max)
        bound = np.zeros(count)
        columns: list[tuple[Numbers, Counts, Sequence[int], Numbers]] = []
        most = 1
        for batch in self.batches:
            pattern, position, counts = _counts(batch.levels[-1], batch.count)
            index = batch.indices[position]
            most = max(most, int(counts.max(initial=0)))
            np.minimum.at(first, pattern, index)
            columns.append(
                (narrow(pattern), counts if counts.dtype == object else narrow(counts), batch.weights, narrow(position))
            )
            if self._largest:
                np.add.at(bound, pattern, bounds(batch, batch.levels[-1], self._largest))
        kind = np.int64 if self._weight * most < SMALL else object
        support: Counts = np.zeros(count, dtype=kind)
        occurrences: Counts = np.zeros(count, dtype=kind)
        for pattern, counts, weights, position in columns:
            weight = np.array(weights, dtype=kind)[position]
            np.add.at(support, pattern, weight)
            np.add.at(occurrences, pattern, weight * counts.astype(kind))
        found = Tallies(patterns.keys, support, occurrences, first, np.ones(count, dtype=np.int64), bound)
        order = patterns.by_key
        return found.of(order[support[order] > 0])

    # Results

    def describe(self, wanted: Integers, first: Integers) -> list[Code]:
        """Patterns whose first graph is in this shard, with one occurrence each.

        Args:
            wanted: sorted ids of patterns.
            first: for each, the index of the first graph that contains it.
        """
        codes = []
        vocabulary = self._vocabulary
        names = vocabulary.label_digests
        known: dict[Edge, Edge] = {}  # one object for all equal edges: garbage collection goes over every object
        for size, patterns in enumerate(self.patterns, start=1):
            for batch in self.batches:
                level = batch.levels[size - 1]
                at = _member(patterns.ids[level.pattern], wanted)
                own = (at >= 0) & (first[at] == batch.indices[level.graph]) if len(wanted) else at >= 0
                numbers, rows = np.unique(level.pattern[own], return_index=True)
                rows = np.flatnonzero(own)[rows]
                graphs = level.graph[rows]
                nodes = list(zip(*(level.nodes[rows] - batch.offsets[graphs][:, None]).T.tolist(), strict=True))
                indices = batch.indices[graphs].tolist()
                labels = patterns.labels[numbers].tolist()
                ids = patterns.ids[numbers].tolist()
                lengths = np.diff(patterns.starts)[numbers]
                packed = patterns.edges[spread_out(patterns.starts[numbers], lengths)]
                columns = vocabulary.edges(size, packed, np.repeat(np.arange(len(numbers)), lengths)).astype("<i8")
                content = columns.tobytes()
                edges = [known.setdefault(edge, edge) for edge in zip(*columns.T.tolist(), strict=True)]
                low = 0
                for place, length in enumerate(lengths.tolist()):
                    high = low + length
                    codes.append(
                        Code(
                            digest([names[label] for label in labels[place]], content[32 * low : 32 * high]),
                            tuple([vocabulary.labels[label] for label in labels[place]]),
                            tuple(edges[low:high]),
                            ids[place],
                            indices[place],
                            nodes[place],
                        )
                    )
                    low = high
        return codes

    def hand_over(self, size: int, wanted: Integers) -> Found:
        """Representative occurrences of patterns of one size, which the shard then forgets.

        Args:
            size: their number of nodes.
            wanted: sorted ids of patterns.
        """
        if size > len(self.patterns):
            return Found.joined([], size)
        patterns = self.patterns[size - 1]
        wanted_numbers = _member(patterns.ids, wanted) >= 0
        parts = []
        for batch in self.batches:
            level, batch.levels[size - 1] = batch.levels[size - 1], batch.levels[size - 1].none()
            rows = np.flatnonzero(wanted_numbers[level.pattern])
            graphs = level.graphs(rows)
            nodes = level.nodes[rows] - batch.offsets[graphs][:, None]
            parts.append(
                Found.of(patterns.ids[level.pattern[rows]], batch.indices[graphs], nodes, level.multiplicities(rows))
            )
        return Found.joined(parts, size)


@compiled
def _mark_reached(found: Flags, steps: Steps, target: Numbers, pattern: Numbers) -> None:
    """Mark the patterns that steps lead to.

    Args:
        found: takes True.
        steps: the steps.
        target: for each row that they start from the only pattern that counts; -1 where all do.
        pattern: for each row that they lead to its pattern.
    """
    for step in range(len(steps.parents)):
        only, reached = target[steps.parents[step]], pattern[steps.children[step]]
        if only < 0 or only == reached:
            found[reached] = True


def _batches(graphs: Sequence[tuple[int, MiningGraph]]) -> list[list[tuple[int, MiningGraph]]]:
    """Graphs of similar size together: their sets of nodes have the same number of words."""
    found: list[list[tuple[int, MiningGraph]]] = []
    words = nodes = 0
    for index, graph in sorted(graphs, key=lambda pair: (len(pair[1].labels), pair[0])):
        count = len(graph.labels)
        if not count:
            continue
        width = 1 << (max(0, (count - 1) // 64)).bit_length()
        if width != words or nodes + count > BATCH_NODES:
            found.append([])
            words, nodes = width, 0
        found[-1].append((index, graph))
        nodes += count
    return found


def _counts(level: Level, graphs: int) -> tuple[Integers, Integers, Counts]:
    """Pattern and graph of every pair of both that occurs, and how often it does."""
    pairs, inverse, counts = np.unique(
        level.pattern.astype(np.int64) * graphs + level.graph, return_inverse=True, return_counts=True
    )
    pattern, position = np.divmod(pairs, graphs)
    if not len(level.multiples):
        return pattern, position, counts
    total: Counts = counts.astype(level.counts.dtype)
    np.add.at(total, inverse.ravel()[level.multiples], level.counts - 1)
    return pattern, position, total


def _member(ids: Integers, wanted: Integers) -> Integers:
    """For each id its place among sorted ids; -1 where it is missing."""
    if not len(wanted):
        return np.full(len(ids), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(wanted, ids), len(wanted) - 1)
    return np.where(wanted[at] == ids, at, -1)
