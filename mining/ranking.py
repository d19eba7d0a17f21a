"""Ranking patterns by what they would save, each beyond what better ones save already.

The saving of a pattern is the sum, over captures and disjoint occurrences, of (time as separate operators minus time as
one kernel) times executions. The order is marginal: the best pattern is taken, its operators count as covered, all
others are valued again on what is left, and so on. Variants of one opportunity overlap, so that only the best of them
stays.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import fsum

import numpy as np
import numpy.typing as npt

from graphopt import operators, roofline
from graphopt.graph import Capture
from graphopt.machine import Machine
from graphopt.mining.canonical import topological_order
from graphopt.mining.folding import Folded
from graphopt.mining.graphs import bits, members
from graphopt.mining.marginal import SLACK, Covered, marginal_order
from graphopt.mining.opportunity import (
    FUSIBLE,
    MOST_SHAPES,
    RULED_OUT,
    ModelPlaces,
    OperatorCost,
    Opportunity,
    ShapeExample,
    TensorShape,
)
from graphopt.mining.pattern import Pattern
from graphopt.mining.rules import Rule
from graphopt.mining.symmetry import Occurrence

MOST_IMAGES = 256
"""Occurrences that one representative of equal branches is looked at with, where they can be disjoint."""

MOST_OVERLAPPING_IMAGES = 16
"""The same where they all share a node, so that one of them at most is chosen."""

Gains = npt.NDArray[np.float64]

Verdict = Callable[[Pattern], Rule | None]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An occurrence with its saving in all captures of its graph."""

    graph: int
    nodes: Occurrence
    mask: int
    saving: float


class Ranking:
    """Values patterns on captures.

    Args:
        observed: what was executed, bodies too, with the same shapes as one.
        index: for each, the index of its distinct graph, as ``places`` of patterns name it.
        machine: the roofline.
    """

    def __init__(self, observed: Sequence[Folded], index: Sequence[int], machine: Machine) -> None:
        self.machine = machine
        captures = [one.capture for one in observed]
        self.by_graph: dict[int, list[Capture]] = {}
        self._observed: dict[int, dict[int, int]] = {}  # of captures that hold a graph, how many each stands for
        for one, graph in zip(observed, index, strict=True):
            self.by_graph.setdefault(graph, []).append(one.capture)
            self._observed.setdefault(graph, {})[one.of] = one.count
        self._numbers: dict[int, list[int]] = {}
        self._savings: dict[tuple[str, int], dict[tuple[int, ...], float]] = {}
        self.times = {id(capture): roofline.times_beside_bodies(capture, machine) for capture in captures}
        self.gains = {graph: self._gains(graph) for graph in self.by_graph}
        self.seconds = fsum(
            seconds * capture.executions
            for capture in captures
            for seconds in self.times[id(capture)]
            if seconds is not None
        )

    def _gains(self, graph: int) -> Gains:
        """The most seconds that each node of a distinct graph can add to savings, over all executions."""
        return sum(
            (np.array(roofline.operator_gains(one, self.machine)) * one.executions for one in self.by_graph[graph]),
            np.zeros(len(self.by_graph[graph][0].graph.nodes)),
        )

    def best(self, patterns: Iterable[Pattern], k: int | None, verdict: Verdict = lambda _: None) -> list[Opportunity]:
        """The patterns that save most, in marginal order.

        Args:
            patterns: what to choose from.
            k: how many at most; all that save anything when None.
            verdict: the rule that stops a pattern, for the opportunity's verdict.
        """
        known = {pattern.digest: pattern for pattern in patterns}
        offer = _Offer(self, known, verdict)
        marginal_order(known, offer, k)
        return offer.taken

    def candidates(self, pattern: Pattern, covered: Covered) -> list[_Candidate]:
        """Occurrences that save time and hold nothing covered, best first."""
        found: list[tuple[list[int], _Candidate]] = []
        for places in pattern.places:
            alike = self._alike(places.graph)
            place = pattern.arrangement(places.graph).place
            savings = self._savings.setdefault((pattern.digest, places.graph), {})
            for nodes, multiplicity in zip(places.nodes.tolist(), places.multiplicities, strict=True):
                most = MOST_OVERLAPPING_IMAGES if multiplicity > len(alike) else MOST_IMAGES
                for image in islice(pattern.images(places.graph, tuple(nodes), multiplicity), most):
                    mask = bits(image)
                    if mask & covered.get(places.graph, 0):
                        continue
                    key = tuple([alike[node] for node in image])
                    saving = savings.get(key)
                    if saving is None:
                        saving = savings[key] = self._saving(places.graph, image)
                    if saving > 0:
                        order = sorted([place[node] for node in image])
                        found.append((order, _Candidate(places.graph, image, mask, saving)))
        found.sort(key=lambda pair: (-pair[1].saving, pair[1].graph, pair[0]))
        return [candidate for _, candidate in found]

    def _alike(self, graph: int) -> list[int]:
        """Numbers for the nodes of a graph, equal where occurrences of one pattern cost the same with either node.

        What is compared is all that costs depend on: attributes, shapes, which operands are constant, how many uses the
        results have; operands that are shared with other nodes by name; times, for equal nodes find their operands
        near or far.
        """
        if graph not in self._numbers:
            keys: dict[object, int] = {}
            captures = self.by_graph[graph]
            columns = [*(_cost_keys(capture) for capture in captures), *(self.times[id(one)] for one in captures)]
            rows = zip(*columns, strict=True)
            numbers = [keys.setdefault(row, len(keys)) for row in rows]
            self._numbers[graph] = numbers
        return self._numbers[graph]

    def _saving(self, graph: int, nodes: Occurrence) -> float:
        total = []
        for capture in self.by_graph[graph]:
            before, after = self.before_and_after(capture, nodes)
            if before is not None and after is not None:
                total.append((before - after) * capture.executions)
        return fsum(total)

    def before_and_after(self, capture: Capture, nodes: Sequence[int]) -> tuple[float | None, float | None]:
        """Seconds of one execution of an occurrence as separate operators, and as one kernel; None where unknown."""
        times = self.times[id(capture)]
        own = [times[node] for node in nodes]
        known = [seconds for seconds in own if seconds is not None]
        if len(known) < len(own):
            return None, None
        return fsum(known), roofline.fused_seconds(capture, nodes, self.machine)

    def opportunity(self, pattern: Pattern, taken: Sequence[_Candidate], rule: Rule | None) -> Opportunity:
        """What is reported of a pattern of which these occurrences are taken."""
        before: list[float] = []
        after: list[float] = []
        executions = bytes_before = bytes_after = 0
        models: dict[str, list[int]] = {}
        examples: dict[object, ShapeExample] = {}
        for graph in sorted({candidate.graph for candidate in taken}):
            rows = [candidate.nodes for candidate in taken if candidate.graph == graph]
            for capture in self.by_graph[graph]:
                entry = models.setdefault(capture.graph.name, [0, 0])
                entry[0] = max(entry[0], len(rows))
                entry[1] += capture.executions
                for nodes in rows:
                    one_before, one_after = self.before_and_after(capture, nodes)
                    if one_before is None or one_after is None:
                        continue
                    example = _example(capture, nodes, self.times[id(capture)], one_before, one_after)
                    executions += capture.executions
                    before.append(one_before * capture.executions)
                    after.append(one_after * capture.executions)
                    bytes_before += example.bytes_before * capture.executions
                    bytes_after += example.bytes_after * capture.executions
                    _merge(examples, example)
        holding = {of: count for places in pattern.places for of, count in self._observed[places.graph].items()}
        seconds_before, seconds_after = fsum(before), fsum(after)
        saving = fsum((seconds_before, -seconds_after))
        return Opportunity(
            digest=pattern.digest,
            labels=pattern.labels,
            edges=pattern.edges,
            operators=_operators(pattern),
            support=pattern.support,
            captures=sum(holding.values()),
            occurrences=sum(sum(places.multiplicities) for places in pattern.places),
            disjoint_occurrences=len(taken),
            executions=executions,
            seconds_before=seconds_before,
            seconds_after=seconds_after,
            saving_seconds=saving,
            share=saving / self.seconds if self.seconds > 0 else 0.0,
            bytes_before=bytes_before,
            bytes_after=bytes_after,
            verdict=FUSIBLE if rule is None else RULED_OUT,
            rule="" if rule is None else rule.name,
            reason="" if rule is None else rule.reason,
            models=tuple(ModelPlaces(name, count, runs) for name, (count, runs) in sorted(models.items())),
            shapes=tuple(sorted(examples.values(), key=_worth)[:MOST_SHAPES]),
        )


class _Offer:
    """What patterns save of what is left.

    Args:
        ranking: values occurrences.
        patterns: the patterns by digest.
        verdict: see Ranking.best.
    """

    def __init__(self, ranking: Ranking, patterns: Mapping[str, Pattern], verdict: Verdict) -> None:
        self._ranking = ranking
        self._patterns = patterns
        self._verdict = verdict
        self._candidates: dict[str, list[_Candidate]] = {}  # but for what was covered when they were found
        self._touched: dict[str, dict[int, int]] = {}
        self._left: dict[int, tuple[int, Gains]] = {}
        self.taken: list[Opportunity] = []

    def most(self, name: str, covered: Covered) -> float:
        """No less than what a pattern saves: the gains of all nodes that it holds and that are not covered."""
        found = 0.0
        for places in self._patterns[name].places:
            gains = self._gains_left(places.graph, covered.get(places.graph, 0))
            if max(places.multiplicities) == 1:  # else images hold other nodes
                held = np.zeros(len(gains), dtype=np.bool_)
                held[places.nodes] = True
                gains = gains[held]
            found += float(gains.sum())
        return found * (1 + SLACK)

    def _gains_left(self, graph: int, covered: int) -> Gains:
        """The gains of a graph's nodes, 0 for those that are covered."""
        if graph not in self._left or self._left[graph][0] != covered:
            gains = self._ranking.gains[graph].copy()
            gains[list(members(covered))] = 0.0
            self._left[graph] = (covered, gains)
        return self._left[graph][1]

    def value(self, name: str, covered: Covered) -> float:
        """What occurrences save that are disjoint and hold nothing covered."""
        if name not in self._candidates:
            self._candidates[name] = self._ranking.candidates(self._patterns[name], covered)
            self._touched[name] = _union(self._candidates[name])
        return fsum(candidate.saving for candidate in _packed(self._candidates[name], covered))

    def touched(self, name: str) -> Covered:
        """All nodes that occurrences may hold."""
        return self._touched[name]

    def take(self, name: str, covered: Covered) -> Covered:
        """The nodes of the occurrences that ``value`` counts; the pattern becomes an opportunity."""
        chosen = _packed(self._candidates[name], covered)
        pattern = self._patterns[name]
        self.taken.append(self._ranking.opportunity(pattern, chosen, self._verdict(pattern)))
        return _union(chosen)


def _cost_keys(capture: Capture) -> list[object]:
    """For each node all that costs depend on: attributes, operands, results, and who else uses them."""
    graph = capture.graph
    consumers, outputs = graph.consumers, set(graph.outputs)

    def operand(name: str) -> object:
        shared = name if len(consumers[name]) > 1 else ""
        return capture.shape(name), graph.tensors[name].constant, shared

    def result(name: str) -> object:
        return capture.shape(name), len(consumers.get(name, ())), name in outputs

    return [
        (
            node.operator,
            tuple(sorted((name, str(value)) for name, value in node.attributes.items())),
            tuple(operand(name) if name else None for name in node.inputs),
            tuple(result(name) if name else None for name in node.outputs),
        )
        for node in graph.nodes
    ]


def _packed(candidates: Sequence[_Candidate], covered: Covered) -> list[_Candidate]:
    """Disjoint candidates outside of what is covered: best first."""
    taken = dict(covered)
    chosen = []
    for candidate in candidates:
        if not taken.get(candidate.graph, 0) & candidate.mask:
            taken[candidate.graph] = taken.get(candidate.graph, 0) | candidate.mask
            chosen.append(candidate)
    return chosen


def _union(candidates: Iterable[_Candidate]) -> dict[int, int]:
    """For each graph the bits of all nodes of candidates."""
    found: dict[int, int] = {}
    for candidate in candidates:
        found[candidate.graph] = found.get(candidate.graph, 0) | candidate.mask
    return found


def _example(
    capture: Capture, nodes: Occurrence, times: Sequence[float | None], before: float, after: float
) -> ShapeExample:
    graph = capture.graph

    def tensors(names: Iterable[str]) -> tuple[TensorShape, ...]:
        return tuple(
            TensorShape(graph.tensors[name].dtype, capture.shape(name) or (), graph.tensors[name].constant)
            for name in names
        )

    costs = [
        OperatorCost(cost.flops, cost.bytes_read + cost.bytes_written + cost.parameter_bytes, times[node] or 0.0)
        for node in nodes
        if (cost := operators.cost(capture, node)) is not None
    ]
    return ShapeExample(
        model=graph.name,
        nodes=tuple(graph.nodes[node].name for node in nodes),
        executions=capture.executions,
        operands=tensors(graph.external_inputs(nodes)),
        results=tensors(graph.external_outputs(nodes)),
        seconds_before=before,
        seconds_after=after,
        bytes_before=sum(cost.bytes for cost in costs),
        bytes_after=roofline.external_bytes(capture, nodes) or 0,
        costs=tuple(costs),
    )


def _merge(examples: dict[object, ShapeExample], example: ShapeExample) -> None:
    """Add an example to those with the same shapes and times; the first by name stays as the example."""
    key = (example.operands, example.results, example.seconds_before, example.seconds_after)
    other = examples.get(key)
    if other is None:
        examples[key] = example
        return
    first = min(example, other, key=lambda one: (one.model, one.nodes))
    examples[key] = replace(first, executions=example.executions + other.executions)


def _worth(example: ShapeExample) -> tuple[float, str, tuple[str, ...]]:
    return (-(example.seconds_before - example.seconds_after) * example.executions, example.model, example.nodes)


def _operators(pattern: Pattern) -> tuple[str, ...]:
    """Operator types in topological order, ties in canonical order."""
    order = topological_order(pattern.size, pattern.edges)
    return tuple(operator_of(pattern.labels[node]) for node in order)


def operator_of(label: str) -> str:
    """The operator's full name in a label: ``com.microsoft.Gelu`` of ``com.microsoft.Gelu{…}(…)->…``."""
    return label.split("(", 1)[0].split("{", 1)[0]
