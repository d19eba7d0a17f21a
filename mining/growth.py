"""Growing occurrences level by level: one shard of graphs, its occurrences, and what it tells about them.

An occurrence is a set of nodes that is connected (ignoring direction) and convex (no path leaves it and comes back).
Every such set of two or more nodes has a source or a sink without which it is still connected and convex, so adding
one consumer or one producer at a time reaches all of them. With S convex, S + v is convex

- for a consumer v of S if no node outside of S lies between: ``ancestors(v) & descendants(S) & ~S == 0``;
- for a producer v of S likewise: ``descendants(v) & ancestors(S) & ~S == 0``.

An occurrence holds its nodes in the canonical order of its pattern. So the pattern of S + v follows from the pattern of
S and from where v is attached, and is computed once for each such pair (``_extended``), not for each occurrence.

Of equal branches only one representative grows (see symmetry.py); counts are those of the whole orbit.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.mining.canonical import Edge, canonical_order, digest, reorder
from graphopt.mining.graphs import MiningGraph, bits, members
from graphopt.mining.symmetry import Occurrence, Symmetry

Attachment = tuple[int, int, int]
"""(place in the pattern, output, slot) of an edge to or from a new node."""

Extension = tuple[int, Callable[[Occurrence], Occurrence]]
"""A pattern's number, and what puts nodes in its canonical order."""

Found = dict[int, tuple[int, Occurrence]]
"""Bits of an occurrence to (number of its pattern, its nodes)."""


class Tally(NamedTuple):
    """What a shard says about one pattern. Tallies of shards add up.

    Attributes:
        support: sum of the weights of the graphs that contain the pattern.
        occurrences: number of occurrences, each counted with the weight of its graph.
        spread: a hash of how many occurrences each graph has: equal for patterns with equal counts in every graph.
        first: the lowest index of a graph that contains it.
    """

    support: int
    occurrences: int
    spread: int
    first: int

    def plus(self, other: "Tally") -> "Tally":
        """The tally of two disjoint shards together."""
        return Tally(
            self.support + other.support,
            self.occurrences + other.occurrences,
            (self.spread + other.spread) & _SPREAD_BITS,
            min(self.first, other.first),
        )


_SPREAD_BITS = (1 << 64) - 1


def _spread(graph: int, count: int) -> int:
    """A well mixed 64-bit hash of one graph's count (splitmix64's finaliser)."""
    value = (graph * 0x9E3779B97F4A7C15 + count * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & _SPREAD_BITS
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _SPREAD_BITS
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _SPREAD_BITS
    return value ^ value >> 31


@dataclass(frozen=True, slots=True)
class Code:
    """A pattern's canonical form.

    Attributes:
        digest: SHA-256 of the form.
        labels: labels in canonical order.
        edges: sorted edges between places in that order.
        graph: index of the first graph that contains it.
        nodes: an occurrence there, in canonical order.
    """

    digest: str
    labels: tuple[str, ...]
    edges: tuple[Edge, ...]
    graph: int = -1
    nodes: Occurrence = ()


class Places(NamedTuple):
    """Representative occurrences of one pattern in one graph.

    Attributes:
        graph: index of the graph.
        nodes: a row per representative, its nodes in canonical order.
        multiplicities: for each, the number of occurrences it stands for.
    """

    graph: int
    nodes: npt.NDArray[np.int32]
    multiplicities: tuple[int, ...]


class Absorption(NamedTuple):
    """A claim to be checked by every shard: a pattern has the same occurrences as a larger one.

    Attributes:
        small: digest of the smaller pattern.
        large: digest of the larger pattern.
        places: which places of the larger pattern, in its canonical order, are the smaller one.
    """

    small: str
    large: str
    places: tuple[int, ...]


class Shard:
    """Some of the graphs, with all that is known about their occurrences.

    Args:
        graphs: index of each graph among all graphs, and the graph.
        budget: the most representatives that one graph may have on one level; what exceeds it is dropped and the graph
            is listed in ``truncated``.
    """

    def __init__(self, graphs: Sequence[tuple[int, MiningGraph]], budget: int) -> None:
        self.indices = [index for index, _ in graphs]
        self.graphs = [graph for _, graph in graphs]
        self.budget = budget
        self.symmetries = [Symmetry.of(graph) for graph in self.graphs]
        names = sorted({label for graph in self.graphs for label in graph.labels})
        ranks = {name: rank for rank, name in enumerate(names)}
        self._names = names
        self._labels = [tuple(ranks[label] for label in graph.labels) for graph in self.graphs]
        self._apart = [_neighbours_apart(graph) for graph in self.graphs]
        self.codes: list[Code] = []
        self._shapes: list[tuple[tuple[int, ...], tuple[Edge, ...]]] = []
        self._numbers: dict[tuple[tuple[int, ...], tuple[Edge, ...]], int] = {}
        self._by_digest: dict[str, int] = {}
        self._extensions: dict[tuple[int, int, bool, tuple[Attachment, ...]], Extension] = {}
        self.levels: list[list[Found]] = []
        self.truncated: dict[int, int] = {}
        self._tallies: dict[str, Tally] = {}

    # Patterns

    def _number(self, labels: tuple[int, ...], edges: tuple[Edge, ...]) -> int:
        """Number of a pattern in canonical form, which is made known if it is new."""
        found = self._numbers.get((labels, edges))
        if found is None:
            found = len(self.codes)
            names = tuple(self._names[label] for label in labels)
            code = Code(digest(names, edges), names, edges)
            self.codes.append(code)
            self._shapes.append((labels, edges))
            self._numbers[labels, edges] = found
            self._by_digest[code.digest] = found
        return found

    def _extended(self, pattern: int, label: int, forward: bool, attached: tuple[Attachment, ...]) -> Extension:
        """The pattern with one more node, and the function that puts (old nodes, new node) in its canonical order."""
        labels, edges = self._shapes[pattern]
        last = len(labels)
        labels = (*labels, label)
        edges += tuple(
            (at, output, last, slot) if forward else (last, output, at, slot) for at, output, slot in attached
        )
        order = canonical_order(labels, edges)
        number = self._number(tuple(labels[node] for node in order), reorder(order, edges))
        return number, itemgetter(*order)

    # Levels

    def start(self) -> dict[str, Tally]:
        """The level of single nodes."""
        level: list[Found] = []
        for position, graph in enumerate(self.graphs):
            found: Found = {}
            symmetry = self.symmetries[position]
            for node in members(graph.eligible_nodes):
                mask, nodes = symmetry.representative(1 << node, (node,))
                if mask not in found:
                    found[mask] = (self._number((self._labels[position][node],), ()), nodes)
            level.append(found)
        self.levels = [level]
        return self._tally(level)

    def grow(self, frequent: Collection[str]) -> dict[str, Tally]:
        """The next level, from the frequent patterns of the last one.

        Args:
            frequent: digests of the patterns of the last level that are frequent among all shards' graphs. Everything
                else is forgotten.
        """
        self.keep(frequent)
        level = [self._grow(position, self.levels[-1][position]) for position in range(len(self.graphs))]
        self.levels.append(level)
        return self._tally(level)

    def keep(self, frequent: Collection[str]) -> None:
        """Forget all occurrences of the last level whose pattern is not frequent."""
        wanted = set(frequent)
        numbers = {number for name, number in self._by_digest.items() if name in wanted}
        self.levels[-1] = [
            {mask: entry for mask, entry in found.items() if entry[0] in numbers} for found in self.levels[-1]
        ]

    def _grow(self, position: int, frontier: Found) -> Found:
        """All occurrences with one node more than those of one graph's frontier."""
        graph = self.graphs[position]
        symmetry = self.symmetries[position]
        labels = self._labels[position]
        apart = self._apart[position]
        ancestors, descendants = graph.ancestors, graph.descendants
        successors, predecessors = graph.successors, graph.predecessors
        incoming, outgoing = graph.incoming, graph.outgoing
        eligible, single, moved = graph.eligible_nodes, graph.single, symmetry.moved
        extensions = self._extensions
        found: Found = {}
        raw: set[int] = set()  # sets that were met and are not representatives
        for mask, (pattern, nodes) in frontier.items():
            after = before = below = above = 0
            for node in nodes:
                after |= successors[node]
                before |= predecessors[node]
                below |= descendants[node]
                above |= ancestors[node]
            barred = mask
            for group in single:
                if mask & group:
                    barred |= group
            if apart:
                for node in nodes:
                    barred |= apart[node]
            below &= ~mask
            above &= ~mask
            place: dict[int, int] | None = None
            for candidates, reach, between, adjacent, forward in (
                (after & eligible & ~barred, ancestors, below, incoming, True),
                (before & eligible & ~barred, descendants, above, outgoing, False),
            ):
                while candidates:
                    low = candidates & -candidates
                    candidates ^= low
                    new = low.bit_length() - 1
                    if reach[new] & between:
                        continue
                    grown = mask | low
                    if grown in found or grown in raw:
                        continue
                    if place is None:
                        place = {node: index for index, node in enumerate(nodes)}
                    attached = [(place[other], output, slot) for other, output, slot in adjacent[new] if other in place]
                    attached.sort()
                    key = (pattern, labels[new], forward, tuple(attached))
                    extension = extensions.get(key)
                    if extension is None:
                        extension = extensions[key] = self._extended(*key)
                    number, arrange = extension
                    placed = arrange((*nodes, new))
                    if grown & moved:
                        image, placed = symmetry.representative(grown, placed)
                        if image != grown:
                            raw.add(grown)
                            if image in found:
                                continue
                            grown = image
                    if len(found) >= self.budget:
                        self.truncated.setdefault(self.indices[position], len(nodes) + 1)
                        return found
                    found[grown] = (number, placed)
        return found

    def _tally(self, level: list[Found]) -> dict[str, Tally]:
        """Support and counts of every pattern of a level."""
        tallies: dict[str, Tally] = {}
        for position, found in enumerate(level):
            symmetry = self.symmetries[position]
            counts: dict[int, int] = {}
            if symmetry.moved:
                for mask, (number, _) in found.items():
                    counts[number] = counts.get(number, 0) + symmetry.multiplicity(mask)
            else:
                for number, _ in found.values():
                    counts[number] = counts.get(number, 0) + 1
            weight, index = self.graphs[position].weight, self.indices[position]
            for number, count in counts.items():
                tally = Tally(weight, weight * count, _spread(index, count), index)
                name = self.codes[number].digest
                known = tallies.get(name)
                tallies[name] = tally if known is None else known.plus(tally)
        self._tallies.update(tallies)
        return tallies

    # Results

    def describe(self, tallies: Mapping[str, Tally]) -> list[Code]:
        """Patterns whose first graph is in this shard, with one occurrence each.

        Args:
            tallies: the tallies of all frequent patterns over all shards.
        """
        described = []
        for position, samples in self._samples().items():
            for number, (_, nodes) in samples.items():
                code = self.codes[number]
                if code.digest in tallies and tallies[code.digest].first == self.indices[position]:
                    described.append(replace(code, graph=self.indices[position], nodes=nodes))
        return described

    def _samples(self) -> dict[int, dict[int, tuple[int, Occurrence]]]:
        """For each graph's position and each pattern in it, the first of its occurrences."""
        samples: dict[int, dict[int, tuple[int, Occurrence]]] = {}
        for level in self.levels:
            for position, found in enumerate(level):
                known = samples.setdefault(position, {})
                for mask, (number, nodes) in found.items():
                    if number not in known:
                        known[number] = (mask, nodes)
        return samples

    def places(self, digests: Iterable[str]) -> dict[str, list[Places]]:
        """Representative occurrences of patterns, by digest; graphs in order of their index."""
        wanted = {self._by_digest[name]: name for name in digests if name in self._by_digest}
        result: dict[str, list[Places]] = {}
        sizes = {len(self.codes[number].labels) for number in wanted}
        for position in sorted(range(len(self.graphs)), key=lambda p: self.indices[p]):
            rows: dict[int, list[Occurrence]] = {}
            counts: dict[int, list[int]] = {}
            symmetry = self.symmetries[position]
            for size in sizes:
                if size > len(self.levels):
                    continue
                for mask, (number, nodes) in self.levels[size - 1][position].items():
                    if number in wanted:
                        rows.setdefault(number, []).append(nodes)
                        counts.setdefault(number, []).append(symmetry.multiplicity(mask))
            for number, found in rows.items():
                entry = Places(self.indices[position], np.array(found, dtype=np.int32), tuple(counts[number]))
                result.setdefault(wanted[number], []).append(entry)
        return result

    # Closedness

    def propose(
        self, tallies: Mapping[str, Tally], groups: Mapping[str, int] | None
    ) -> tuple[set[str], list[Absorption]]:
        """Which patterns have the same occurrences as a larger one.

        Looks at the patterns whose first graph is in this shard, largest first. Where all occurrences are in this
        shard the question is settled here; otherwise the claim is handed out for all shards to check.

        Args:
            tallies: the tallies of all frequent patterns over all shards.
            groups: a pattern can only be hidden by one of the same group; by any when None.

        Returns:
            digests of patterns that are not closed; claims that no shard can settle alone.
        """
        hidden: set[str] = set()
        claims: list[Absorption] = []
        mine = {index: position for position, index in enumerate(self.indices)}
        samples = self._samples()
        names = [code.digest for code in self.codes]
        local = [name in tallies and tallies[name].spread == self._tallies[name].spread for name in names]
        alike: list[object] = [
            (tallies[name].spread, None if groups is None else groups[name]) if name in tallies else None
            for name in names
        ]
        rows: dict[int, dict[int, list[Occurrence]]] = {}
        indices: dict[int, _Index] = {}
        size = 0
        wanted: list[object] = alike
        for number in sorted(range(len(names)), key=lambda n: (-len(self.codes[n].labels), names[n])):
            name = names[number]
            if name not in tallies or tallies[name].first not in mine:
                continue
            position = mine[tallies[name].first]
            mask, nodes = samples[position][number]
            if len(nodes) != size:
                size = len(nodes)
                # What is hidden by now, or as large, need not be looked through again.
                indices.clear()
                wanted = [None if names[n] in hidden else shared for n, shared in enumerate(alike)]
            if mask & self.symmetries[position].moved:
                contained = [
                    (small, places)
                    for small, places in self._contained(position, mask, nodes)
                    if alike[small] == alike[number]
                ]
            else:
                if position not in indices:
                    indices[position] = self._indexed(position, wanted, size)
                contained = _looked_up(indices[position].get(alike[number], {}), mask, nodes)
            for small, places in contained:
                other = names[small]
                if other in hidden:
                    continue
                claim = Absorption(other, name, places)
                if not (local[number] and local[small]):
                    claims.append(claim)
                    continue
                if not rows:
                    rows = self._rows()
                if self._holds(rows, small, number, places):
                    hidden.add(other)
        return hidden, claims

    def confirm(self, claims: Iterable[Absorption]) -> list[bool]:
        """For each claim, whether it holds in the graphs of this shard."""
        rows = self._rows()
        return [
            self._holds(rows, self._by_digest[claim.small], self._by_digest[claim.large], claim.places)
            if claim.small in self._by_digest and claim.large in self._by_digest
            else claim.small not in self._tallies
            for claim in claims
        ]

    def _indexed(self, position: int, wanted: Sequence[object], size: int) -> "_Index":
        """Occurrences in one graph of less than this size, by what their patterns have in common.

        Without those that symmetry moves, and those of patterns that have nothing (None) in common with others.
        """
        moved = self.symmetries[position].moved
        index: _Index = {}
        for level in self.levels[: size - 1]:
            for mask, (number, _) in level[position].items():
                if wanted[number] is not None and not mask & moved:
                    lowest = (mask & -mask).bit_length() - 1
                    index.setdefault(wanted[number], {}).setdefault(lowest, []).append((number, mask))
        return index

    def _contained(self, position: int, mask: int, nodes: Occurrence) -> list[tuple[int, tuple[int, ...]]]:
        """Patterns that an occurrence contains exactly once, and the places of the larger pattern where they are.

        Subsets of an occurrence that are occurrences themselves are all reached by removing one node at a time, and are
        all known: they are at least as frequent.
        """
        symmetry = self.symmetries[position]
        own = symmetry.within(mask) if mask & symmetry.moved else _NO_SYMMETRY
        result: list[tuple[int, tuple[int, ...]]] = []
        current = {mask}
        for size in range(len(nodes) - 1, 0, -1):
            level = self.levels[size - 1][position]
            smaller: dict[int, int] = {}
            for known in current:
                left = known
                while left:
                    low = left & -left
                    left ^= low
                    subset = known ^ low
                    if subset & own.moved:
                        subset, _ = own.representative(subset, ())
                    if subset in smaller:
                        continue
                    entry = level.get(subset)
                    if entry is None and subset & symmetry.moved:
                        entry = level.get(symmetry.representative(subset, ())[0])
                    if entry is not None:
                        smaller[subset] = entry[0]
            seen: dict[int, int] = {}
            for subset, small in smaller.items():
                once = small not in seen and (not subset & own.moved or own.multiplicity(subset) == 1)
                seen[small] = subset if once else -1
            result.extend(
                (small, tuple(at for at, node in enumerate(nodes) if subset >> node & 1))
                for small, subset in seen.items()
                if subset >= 0
            )
            current = set(smaller)
        return result

    def _rows(self) -> dict[int, dict[int, list[Occurrence]]]:
        """Pattern number to graph position to representatives."""
        rows: dict[int, dict[int, list[Occurrence]]] = {}
        for level in self.levels:
            for position, found in enumerate(level):
                for number, nodes in found.values():
                    rows.setdefault(number, {}).setdefault(position, []).append(nodes)
        return rows

    def _holds(
        self, rows: dict[int, dict[int, list[Occurrence]]], small: int, large: int, places: tuple[int, ...]
    ) -> bool:
        """Whether the occurrences of two patterns correspond one to one, disjoint ones to disjoint ones."""
        inner, outer = rows.get(small, {}), rows.get(large, {})
        if inner.keys() != outer.keys():
            return False
        for position, larger in outer.items():
            if len(inner[position]) != len(larger):
                return False
            symmetry = self.symmetries[position]
            parts = [tuple(nodes[at] for at in places) for nodes in larger]
            seen = set()
            for part, nodes in zip(parts, larger, strict=True):
                mask = bits(part)
                seen.add(symmetry.representative(mask, part)[0])
                if symmetry.multiplicity(mask) != symmetry.multiplicity(bits(nodes)):
                    return False
            if len(seen) < len(parts) or not _overlap_alike(symmetry, parts, larger):
                return False
        return True


_NO_SYMMETRY = Symmetry(())

_Index = dict[object, dict[int, list[tuple[int, int]]]]
"""What patterns have in common to lowest node to (pattern, bits) of occurrences."""


def _looked_up(
    index: Mapping[int, Sequence[tuple[int, int]]], mask: int, nodes: Occurrence
) -> list[tuple[int, tuple[int, ...]]]:
    """As ``_contained``, for patterns in the index."""
    seen: dict[int, int] = {}
    outside = ~mask
    for node in nodes:
        for number, subset in index.get(node, ()):
            if not subset & outside:
                seen[number] = -1 if number in seen else subset
    return [
        (number, tuple(at for at, node in enumerate(nodes) if subset >> node & 1))
        for number, subset in sorted(seen.items())
        if subset >= 0
    ]


MOST_IMAGES = 5000
"""Occurrences of one pattern in one graph that the check for overlaps looks at one by one."""


def _overlap_alike(symmetry: Symmetry, parts: list[Occurrence], wholes: list[Occurrence]) -> bool:
    """Whether wholes overlap only where their parts overlap, over all images of the given representatives."""
    pairs = [(bits(part), bits(whole)) for part, whole in zip(parts, wholes, strict=True)]
    # Outside of the families all images of a representative are the same.
    fixed = [part & ~symmetry.moved for part, _ in pairs]
    common = -1
    for mask in fixed:
        common &= mask
    if common:
        return True  # all parts share a node
    total = sum(symmetry.multiplicity(whole) for _, whole in pairs)
    if total > MOST_IMAGES:
        reach = [symmetry.reach(whole) for _, whole in pairs]
        return all(fixed) and all(
            fixed[i] & fixed[j] or not reach[i] & reach[j] for i in range(len(pairs)) for j in range(i)
        )
    if total > len(pairs):
        images: list[tuple[int, int]] = []
        width = len(parts[0])
        for part, whole in zip(parts, wholes, strict=True):
            both = symmetry.images(bits(whole), (*part, *whole))
            images.extend((bits(image[:width]), bits(image[width:])) for image in both)
        pairs = images
    holders: dict[int, list[int]] = {}
    for index, (_, large) in enumerate(pairs):
        for node in members(large):
            holders.setdefault(node, []).append(index)
    return all(
        pairs[other][0] & small for small, large in pairs for node in members(large & ~small) for other in holders[node]
    )


def _neighbours_apart(graph: MiningGraph) -> list[int]:
    """For each node, bits of the nodes that may not share an occurrence with it; empty if there are none at all."""
    if not graph.apart:
        return []
    found = [0] * len(graph.labels)
    for producer, consumer in graph.apart:
        found[producer] |= 1 << consumer
        found[consumer] |= 1 << producer
    return found
