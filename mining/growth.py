"""Growing occurrences level by level, as arrays: the flat tables of a batch of graphs.

An occurrence is a set of nodes that is connected (ignoring direction) and convex (no path leaves it and comes back).
Every such set of two or more nodes has a source or a sink without which it is still connected and convex, so adding
one consumer or one producer at a time reaches all of them. A path from S to a consumer v of S that leaves S does so
through some other consumer of S. So S + v is convex exactly if v descends from no other consumer of S; for producers
likewise, the other way round.

An occurrence is a row of nodes in the canonical order of its pattern. So the pattern of S + v follows from the pattern
of S and from where v is attached, and is computed once for each such pair, not for each occurrence.

Of equal branches only one representative grows (see symmetry.py); counts are those of the whole orbit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from graphopt.mining.canonical import PADDING, Vocabulary, canonical_forms
from graphopt.mining.families import Families, OpenBranches
from graphopt.mining.graphs import MiningGraph
from graphopt.mining.levels import Level, Numbers, narrow
from graphopt.mining.refinement import Edges, Flags, Hashes, Integers, mixed, spread_out
from graphopt.mining.symmetry import Symmetry

CHUNK_ROWS = 20000
"""Occurrences that are made distinct at once, unless one graph has more."""

PIECE_EDGES = 200_000
"""Edges of nodes of occurrences that are extended at once, unless one occurrence has more."""

BITS = 63
"""Bits of a packed number."""


class Patterns:
    """The patterns of one size in one shard, numbered as they appear.

    Attributes:
        size: nodes of each pattern.
        labels: a row of labels per pattern, in canonical order.
        starts: for each pattern where its edges begin, and where the last one's end.
        edges: packed edges of all patterns, see Vocabulary.
        keys: 128-bit hash of each form.
        ids: number of each pattern among all shards' frequent patterns of all sizes, rising, once that is known.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.labels: Integers = np.zeros((0, size), dtype=np.int64)
        self.starts: Integers = np.zeros(1, dtype=np.int64)
        self.edges: Integers = np.zeros(0, dtype=np.int64)
        self.keys: Hashes = np.zeros((0, 2), dtype=np.uint64)
        self.ids: Integers = np.zeros(0, dtype=np.int64)
        self._numbers: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def numbered(self, labels: Integers, edges: Integers, keys: Hashes) -> Integers:
        """Numbers of patterns in canonical form; those that are new are made known.

        Raises:
            RuntimeError: two different forms have the same 128-bit hash.
        """
        new: list[int] = []
        numbers: list[int] = []
        following = len(self)
        for row, name in enumerate(zip(keys[:, 0].tolist(), keys[:, 1].tolist(), strict=True)):
            number = self._numbers.setdefault(name, following)
            if number == following:
                new.append(row)
                following += 1
            numbers.append(number)
        found = np.array(numbers, dtype=np.int64)
        real = edges != PADDING
        lengths = np.count_nonzero(real, axis=1)
        if new:
            self.labels = np.concatenate([self.labels, labels[new]])
            self.starts = np.concatenate([self.starts, self.starts[-1] + np.cumsum(lengths[new])])
            self.edges = np.concatenate([self.edges, edges[new][real[new]]])
            self.keys = np.concatenate([self.keys, keys[new]])
        lows = self.starts[found]
        same = np.array_equal(self.starts[found + 1] - lows, lengths) and np.array_equal(self.labels[found], labels)
        if not same or not np.array_equal(self.edges[spread_out(lows, lengths)], edges[real]):
            raise RuntimeError("two different patterns have the same 128-bit hash")
        return found

    def number(self, pattern: int) -> int | None:
        """The pattern with an id; None when it is not here."""
        if not len(self.ids) or not self.ids[0] <= pattern <= self.ids[-1]:
            return None
        found = int(np.searchsorted(self.ids, pattern))
        return found if found < len(self.ids) and self.ids[found] == pattern else None

    def kept(self, rows: Integers, ids: Integers) -> "Patterns":
        """Some of the patterns, renumbered, with their numbers among all shards' patterns."""
        found = Patterns(self.size)
        lengths = (self.starts[1:] - self.starts[:-1])[rows]
        found.labels = self.labels[rows]
        found.edges = self.edges[spread_out(self.starts[rows], lengths)]
        found.starts = np.concatenate([[0], np.cumsum(lengths)])
        found.keys = self.keys[rows]
        found.ids = ids
        return found

    def extended(self, patterns: Integers, edges: Edges, packing: Vocabulary) -> Edges:
        """Edges of patterns with one more node each.

        Args:
            patterns: the patterns.
            edges: the new node's edges; their graph is a position in ``patterns``.
            packing: how edges are packed.
        """
        lows = self.starts[patterns]
        lengths = self.starts[patterns + 1] - lows
        source, target, kind = packing.unpacked(self.size, self.edges[spread_out(lows, lengths)])
        owner = np.concatenate([np.repeat(np.arange(len(patterns)), lengths), edges.graph])
        order = np.argsort(owner, kind="stable")
        return Edges(
            owner[order],
            np.concatenate([source, edges.source])[order],
            np.concatenate([target, edges.target])[order],
            np.concatenate([kind, edges.kind])[order],
        )


@dataclass(frozen=True)
class _Side:
    """Edges of all nodes towards their consumers, or towards their producers.

    Attributes:
        starts: for each node where its edges begin.
        other: the node at the other end.
        kind: number of the edge's (output, slot).
        apart: whether the edge may not lie within an occurrence.
        reach: for each word of 64 nodes and each node, bits of all nodes that a path leads to (from, for producers).
        forward: whether the others are consumers.
    """

    starts: Numbers
    other: Numbers
    kind: Numbers
    apart: Flags
    reach: Hashes
    forward: bool


@dataclass(frozen=True)
class _Steps:
    """Ways to add a node to an occurrence.

    Attributes:
        row: the occurrence.
        node: the new node.
        starts: where the step's edges begin.
        lengths: how many edges it has.
        place: for each edge the place in the occurrence.
        kind: for each edge the number of its (output, slot).
        forward: for each edge whether it leads to the new node.
        several: whether equal branches give more such steps, which are not listed.
        astray: whether the larger occurrence may not be the representative of its orbit.
    """

    row: Integers
    node: Integers
    starts: Integers
    lengths: Integers
    place: Integers
    kind: Integers
    forward: Flags
    several: Flags
    astray: Flags

    def of(self, steps: Integers) -> "_Steps":
        """Some of the steps."""
        return replace(
            self,
            row=self.row[steps],
            node=self.node[steps],
            starts=self.starts[steps],
            lengths=self.lengths[steps],
            several=self.several[steps],
            astray=self.astray[steps],
        )

    def of_rows(self, rows: Integers) -> "_Steps":
        """The same steps, of occurrences with other numbers."""
        return replace(self, row=rows[self.row])

    @classmethod
    def joined(cls, parts: Sequence["_Steps"]) -> "_Steps":
        """The steps of several, one after the other."""
        if len(parts) == 1:
            return parts[0]
        edges = np.cumsum([0, *(len(part.place) for part in parts)]).tolist()
        moved = [replace(part, starts=part.starts + low) for part, low in zip(parts, edges, strict=False)]
        return cls(
            *(np.concatenate([getattr(part, column.name) for part in moved]) for column in fields(cls)),
        )


class Batch:
    """Graphs of similar size as flat tables. Nodes are numbered through all graphs of the batch.

    Args:
        graphs: index of each graph among all graphs, and the graph.
        vocabulary: numbers of labels and kinds of edges.
    """

    def __init__(self, graphs: Sequence[tuple[int, MiningGraph]], vocabulary: Vocabulary) -> None:
        self.indices: Integers = np.array([index for index, _ in graphs], dtype=np.int64)
        own = [graph for _, graph in graphs]
        self.count = len(own)
        self.weights = [graph.weight for graph in own]
        self._vocabulary = vocabulary
        counts = [len(graph.labels) for graph in own]
        self.offsets: Integers = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        total = int(self.offsets[-1])
        self.words = max(1, -(-max(counts) // 64))
        self.graph_of: Numbers = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self._local: Numbers = (np.arange(total) - self.offsets[self.graph_of]).astype(np.int32)
        self._word = self._local >> 6
        self._bit = np.uint64(1) << (self._local & 63).astype(np.uint64)
        self._label: Numbers = np.array(
            [vocabulary.label_numbers[label] for graph in own for label in graph.labels], dtype=np.int32
        )
        self._random = mixed(self._local.astype(np.uint64) + np.uint64(1))
        self._eligible = _flags(own, [graph.eligible_nodes for graph in own])
        most = max(len(graph.single) for graph in own)
        self._groups = [
            _flags(own, [graph.single[place] if place < len(graph.single) else 0 for graph in own])
            for place in range(most)
        ]
        self.symmetries = []
        reaches: tuple[list[bytes], list[bytes]] = ([], [])
        for graph in own:  # one after the other: what is computed of a graph takes much room
            self.symmetries.append(Symmetry.of(graph))
            for sets, reach in zip((graph.descendants, graph.ancestors), reaches, strict=True):
                reach.append(b"".join(bits.to_bytes(8 * self.words, "little") for bits in sets))
            graph.forget_tables()
        self._sides = self._tables(own, reaches)
        self.families = Families(self.symmetries, self.offsets)
        self._add_gains(own)
        self.levels: list[Level] = []
        self.truncated: dict[int, int] = {}

    def _add_gains(self, graphs: Sequence[MiningGraph]) -> None:
        """Gains of nodes, the greatest of those that can change places, and the sum of each graph's."""
        self.total_gains = np.array([sum(graph.gains) for graph in graphs])
        self.gains = np.zeros(len(self._local))
        if any(graph.gains for graph in graphs):
            own = [graph.gains or (0.0,) * len(graph.labels) for graph in graphs]
            self.gains = self.families.greatest(np.array([gain for gains in own for gain in gains], dtype=np.float64))
        self._gains_within: list[npt.NDArray[np.float64]] = []

    def gains_within(self, steps: int) -> npt.NDArray[np.float64]:
        """For each node the greatest gain among the nodes within so many steps that patterns may hold."""
        if not self._gains_within:
            self._gains_within.append(np.where(self._eligible, self.gains, 0.0))
        ahead = self._sides[0]
        source = np.repeat(np.arange(len(self._local)), np.diff(ahead.starts))
        inner = self._eligible[source] & self._eligible[ahead.other]
        source, target = source[inner], ahead.other[inner]
        while len(self._gains_within) <= steps:
            before = self._gains_within[-1]
            after = before.copy()
            np.maximum.at(after, source, before[target])
            np.maximum.at(after, target, before[source])
            self._gains_within.append(after)
        return self._gains_within[steps]

    def _tables(self, graphs: Sequence[MiningGraph], reaches: tuple[list[bytes], list[bytes]]) -> tuple[_Side, _Side]:
        numbers = self._vocabulary.kind_numbers
        columns: list[tuple[int, int, int, bool]] = []
        for graph, offset in zip(graphs, self.offsets.tolist(), strict=False):
            apart = set(graph.apart)
            columns.extend(
                (offset + p, offset + c, numbers[output, slot], (p, c) in apart) for p, output, c, slot in graph.edges
            )
        edges = np.array(columns, dtype=np.int32).reshape(-1, 4)
        total = len(self._local)
        sides = []
        for near, far, reached in ((0, 1, reaches[0]), (1, 0, reaches[1])):
            ordered = edges[np.argsort(edges[:, near], kind="stable")]
            reach = np.frombuffer(b"".join(reached), dtype="<u8")
            sides.append(
                _Side(
                    starts=np.searchsorted(ordered[:, near], np.arange(total + 1)).astype(np.int32),
                    other=ordered[:, far].copy(),
                    kind=ordered[:, 2].copy(),
                    apart=ordered[:, 3].astype(np.bool_),
                    reach=np.ascontiguousarray(reach.reshape(total, self.words).T.astype(np.uint64)),
                    forward=near == 0,
                )
            )
        return sides[0], sides[1]

    def forget_growth(self) -> None:
        """Give back the memory of what only growth needs."""
        del self._sides, self._gains_within, self._label, self._random, self._eligible, self._groups

    def start(self, patterns: Patterns) -> None:
        """The level of single nodes."""
        nodes = np.flatnonzero(self._eligible)[:, None]
        nodes = np.unique(self.families.representatives(nodes))[:, None] if len(nodes) else nodes
        labels, inverse = np.unique(self._label[nodes[:, 0]], return_inverse=True)
        none = np.zeros((len(labels), 0), dtype=np.int64)
        numbers = patterns.numbered(labels[:, None], none, self._vocabulary.keys(labels[:, None], none))
        no_steps = np.zeros(0, dtype=np.int64)
        below = np.zeros(self.count, dtype=np.int64)
        self.levels = [
            self._level(nodes, numbers[inverse.ravel()], no_steps, no_steps, no_steps.astype(np.bool_), below)
        ]

    def _level(
        self, nodes: Integers, pattern: Integers, parents: Integers, children: Integers, several: Flags, below: Integers
    ) -> Level:
        """Occurrences and the steps to them, as they are kept; see Level.

        Args:
            nodes: a row per occurrence.
            pattern: for each the number of its pattern.
            parents: for each step the row in the level before.
            children: for each step its row.
            several: for each step whether equal branches give more of them.
            below: for each graph, its first row in the level before.
        """
        order = np.argsort(children, kind="stable")
        parents = parents[order]
        multiples, counts = self.families.multiples(nodes)
        owners = self.graph_of[nodes[children[order], 0]] if len(order) else children
        return Level(
            narrow(nodes),
            narrow(pattern),
            multiples.astype(np.int32),
            counts,
            narrow(np.bincount(children, minlength=len(nodes))),
            narrow(parents - below[owners]),
            np.flatnonzero(several[order]).astype(np.int32),
            self.graph_of,
            below,
        )

    def grow(self, patterns: Patterns, larger: Patterns, budget: int) -> None:
        """The next level, from all that is left of the last one.

        Args:
            patterns: the patterns of the last level.
            larger: takes the patterns of the next level.
            budget: the most rows that a graph may have; a graph that has more has no rows from this level on.
        """
        level = self.levels[-1]
        below = level.firsts(self.count)
        parts = [self._grown(level, low, high, below, patterns, larger, budget) for low, high in _chunks(level.graph)]
        self.levels.append(Level.joined(parts, larger.size, self.graph_of, below))

    def _grown(
        self,
        level: Level,
        low: int,
        high: int,
        below: Integers,
        patterns: Patterns,
        larger: Patterns,
        budget: int,
    ) -> Level:
        rows = level.nodes[low:high].astype(np.int64)
        graph = self.graph_of[rows[:, 0]]
        # A larger occurrence is reached in as many ways as it has nodes at most.
        most_ways = budget * larger.size
        ways = np.zeros(self.count, dtype=np.int64)
        pieces = []
        ahead, behind = (np.diff(side.starts)[rows].sum(axis=1) for side in self._sides)
        part = np.cumsum(ahead + behind) // PIECE_EDGES
        for piece in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(part)) + 1):
            piece = piece[ways[graph[piece]] <= most_ways]
            pieces.append(self._steps(rows[piece], graph[piece]).of_rows(piece))
            ways += np.bincount(graph[pieces[-1].row], minlength=self.count)
        steps = _Steps.joined(pieces)
        if ways.max() > most_ways:
            for position in np.flatnonzero(ways > most_ways).tolist():
                self.truncated[int(self.indices[position])] = larger.size
            steps = steps.of(np.flatnonzero(ways[graph[steps.row]] <= most_ways))
        sets = np.concatenate([rows[steps.row], steps.node[:, None]], axis=1)
        astray = np.flatnonzero(steps.astray)
        sets[astray] = self.families.representatives(sets[astray])
        first, which = self._distinct(sets)
        owners = graph[steps.row[first]]
        sizes = np.bincount(owners, minlength=self.count)
        alive = np.arange(len(steps.row))
        if sizes.max(initial=0) > budget:
            for position in np.flatnonzero(sizes > budget).tolist():
                self.truncated[int(self.indices[position])] = larger.size
            fits = sizes[owners] <= budget
            alive = np.flatnonzero(fits[which])
            place = np.cumsum(fits) - 1
            which, first = place[which[alive]], first[fits]
        numbers, orders = self._recognised(level.pattern[low:high].astype(np.int64), steps, first, patterns, larger)
        nodes = np.take_along_axis(sets[first], orders, axis=1)
        return self._level(nodes, numbers, steps.row[alive] + low, which, steps.several[alive], below)

    def bits(self, rows: Integers, counted: Flags | None = None) -> Hashes:
        """Sets of nodes as bits: a row of words per set.

        Args:
            rows: the sets.
            counted: which of the nodes to take; all when None.
        """
        found = np.zeros(len(rows) * self.words, dtype=np.uint64)
        at = np.arange(len(rows))[:, None] * self.words + self._word[rows]
        bit = self._bit[rows]
        if counted is not None:
            bit[~counted] = 0
        np.add.at(found, at.ravel(), bit.ravel())
        return found.reshape(len(rows), self.words)

    def _steps(self, rows: Integers, graph: Integers) -> _Steps:
        """All ways to add a node to occurrences."""
        bits = self.bits(rows)
        taken: list[Flags] = [np.any(flags[rows], axis=1) for flags in self._groups]
        branches = self.families.open_branches(rows)
        ahead, behind = (self._one_way(side, rows, graph, bits, taken, branches) for side in self._sides)
        return _Steps.joined([ahead, behind])

    def _one_way(
        self, side: _Side, rows: Integers, graph: Integers, bits: Hashes, taken: Sequence[Flags], branches: OpenBranches
    ) -> _Steps:
        count, size = rows.shape
        flat = rows.ravel()
        lows = side.starts[flat]
        degrees = side.starts[flat + 1] - lows
        edge = spread_out(lows, degrees)
        other = side.other[edge]
        at = np.repeat(np.arange(count * size), degrees)
        row = at // size
        word, bit = self._word[other], self._bit[other]
        outside = (bits.ravel()[row * self.words + word] & bit) == 0
        at, row, edge, other = at[outside], row[outside], edge[outside], other[outside]
        word, bit = word[outside], bit[outside]
        # What a path leads to from any neighbour outside: a path from the occurrence to a node there leaves it.
        beyond = np.zeros((self.words, count), dtype=np.uint64)
        if len(row):
            start = np.ones(len(row), dtype=np.bool_)
            start[1:] = row[1:] != row[:-1]
            starts = np.flatnonzero(start)
            for number in range(self.words):
                beyond[number, row[starts]] = np.bitwise_or.reduceat(side.reach[number, other], starts)
        fits = self._eligible[other] & ((beyond.ravel()[word * count + row] & bit) == 0)
        for flags, held in zip(self._groups, taken, strict=True):
            fits &= ~(flags[other] & held[row])
        at, row, edge, other = at[fits], row[fits], edge[fits], other[fits]
        # Edges of one step next to each other: one sort of packed numbers.
        local_bits = (self.words * 64 - 1).bit_length()
        place_bits = size.bit_length()
        kind_bits = len(self._vocabulary.kinds).bit_length()
        if count.bit_length() + local_bits + place_bits + kind_bits + 1 > BITS:
            raise RuntimeError("too many kinds of edges to be packed")
        packed = row << local_bits | self._local[other]
        packed = packed << place_bits | (at - row * size)
        packed = packed << kind_bits | side.kind[edge]
        packed = packed << 1 | side.apart[edge]
        packed.sort()
        apart = (packed & 1).astype(np.bool_)
        kind = packed >> 1 & ((1 << kind_bits) - 1)
        place = packed >> (1 + kind_bits) & ((1 << place_bits) - 1)
        pair = packed >> (1 + kind_bits + place_bits)
        start = np.ones(len(pair), dtype=np.bool_)
        start[1:] = pair[1:] != pair[:-1]
        starts = np.flatnonzero(start)
        lengths = np.diff(starts, append=len(pair))
        row = pair[starts] >> local_bits
        node = (pair[starts] & ((1 << local_bits) - 1)) + self.offsets[graph[row]]
        if apart.any():
            allowed = ~np.logical_or.reduceat(apart, starts)
            row, node, starts, lengths = row[allowed], node[allowed], starts[allowed], lengths[allowed]
        first, several, astray = branches.first_of_equals(row, node)
        row, node, starts, lengths = row[first], node[first], starts[first], lengths[first]
        return _Steps(row, node, starts, lengths, place, kind, np.full(len(place), side.forward), several, astray)

    def _distinct(self, sets: Integers) -> tuple[Integers, Integers]:
        """Sets of nodes without repetition, graph by graph.

        Returns:
            the row of one of each; for each row, the position of its set among those.
        """
        if not len(sets):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        hashes = self._random[sets].sum(axis=1, dtype=np.uint64)
        graph = self.graph_of[sets[:, 0]]
        _, first, which = np.unique(hashes ^ mixed(graph.astype(np.uint64)), return_index=True, return_inverse=True)
        bits = self.bits(sets)
        if not (np.array_equal(bits[first][which], bits) and np.array_equal(graph[first][which], graph)):
            exact = np.concatenate([graph[:, None].astype(np.uint64), bits], axis=1)
            _, first, which = np.unique(exact, axis=0, return_index=True, return_inverse=True)
        order = np.lexsort((hashes[first], graph[first]))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        return first[order], place[which.ravel()]

    def _recognised(
        self, pattern: Integers, steps: _Steps, chosen: Integers, patterns: Patterns, larger: Patterns
    ) -> tuple[Integers, Integers]:
        """Patterns that steps lead to, and what puts (old nodes, new node) in their canonical order."""
        vocabulary = self._vocabulary
        kinds = max(len(vocabulary.kinds), 1)
        lows, lengths = steps.starts[chosen], steps.lengths[chosen]
        label = self._label[steps.node[chosen]]
        own = pattern[steps.row[chosen]]
        # Equal numbers for equal (pattern, label, edges): one edge more is looked at in each round.
        alike = _numbered(own * len(vocabulary.labels) + label)
        ways = (steps.place * 2 + steps.forward) * kinds + steps.kind
        for turn in range(int(lengths.max(initial=0))):
            longer = np.flatnonzero(lengths > turn)
            seen = alike[longer] * (2 * larger.size * kinds) + ways[lows[longer] + turn]
            alike[longer] = len(chosen) * (turn + 1) + _numbered(seen)
        _, first, which = np.unique(alike, return_index=True, return_inverse=True)
        lows, lengths = lows[first], lengths[first]
        rows = spread_out(lows, lengths)
        place, forward = steps.place[rows], steps.forward[rows]
        new = np.full(len(place), patterns.size)
        labels = np.concatenate([patterns.labels[own[first]], label[first][:, None]], axis=1)
        added = Edges(
            np.repeat(np.arange(len(first)), lengths),
            np.where(forward, place, new),
            np.where(forward, new, place),
            steps.kind[rows],
        )
        forms = canonical_forms(labels, patterns.extended(own[first], added, vocabulary), vocabulary)
        numbers = larger.numbered(forms.labels, forms.edges, vocabulary.keys(forms.labels, forms.edges))
        return numbers[which], forms.order[which]


def _flags(graphs: Sequence[MiningGraph], masks: Sequence[int]) -> Flags:
    """Sets of each graph's nodes as a flag per node of the batch."""
    parts = []
    for mask, graph in zip(masks, graphs, strict=True):
        count = len(graph.labels)
        content = np.frombuffer((mask & ((1 << count) - 1)).to_bytes(-(-count // 8) or 1, "little"), dtype=np.uint8)
        parts.append(np.unpackbits(content, bitorder="little")[:count].astype(np.bool_))
    return np.concatenate(parts)


def _chunks(graph: Integers) -> Iterator[tuple[int, int]]:
    """Ranges of rows of whole graphs, of about CHUNK_ROWS rows each."""
    ends = np.flatnonzero(np.diff(graph, append=-1)) + 1
    low = 0
    for position, end in enumerate(ends.tolist()):
        following = ends[position + 1] if position + 1 < len(ends) else None
        if following is None or following - low > CHUNK_ROWS:
            yield low, end
            low = end


def _numbered(values: Integers) -> Integers:
    """Numbers from 0, equal for equal values."""
    _, found = np.unique(values, return_inverse=True)
    return found.ravel().astype(np.int64)
