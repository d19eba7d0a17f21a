"""The fusion pass: find candidates, choose among them, put fused operators in their place."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx

from graphopt import machine as machines
from graphopt import models
from graphopt.bodies import bodies_of
from graphopt.errors import GraphoptError
from graphopt.graph import Capture, OperatorGraph, Shape
from graphopt.model_graphs import with_unique_names
from graphopt.passes.base import Context, PassResult, register
from graphopt.passes.candidates import MOST_OPERANDS, Candidates, Lowerable, Occurrence, Refusal, find_candidates
from graphopt.passes.extract import Extraction
from graphopt.passes.rewrite import rewrite
from graphopt.passes.select import Candidate, select
from graphopt.passes.with_bodies import with_bodies

LEAST_WORTH = 1e-12
"""Seconds per operator that a fusion counts as saving when it shall be made whatever it saves."""


@dataclass(frozen=True)
class Fusion:
    """A fused operator and where it went.

    Attributes:
        identity: digest of its body.
        name: operator type in the domain of fused operators.
        body: its operators.
        occurrences: what it replaces, in the graph's order.
        predicted: for each occurrence, predicted seconds of what it replaces and of its call, per execution.
        shapes: shapes of the body's tensors in each capture and occurrence, each set once.
    """

    identity: str
    name: str
    body: OperatorGraph
    occurrences: tuple[Extraction, ...]
    predicted: tuple[tuple[float, float], ...]
    shapes: tuple[Mapping[str, Shape], ...]

    @property
    def sets(self) -> tuple[tuple[int, ...], ...]:
        """Nodes of each occurrence, ascending."""
        return tuple(tuple(sorted(extraction.nodes)) for extraction in self.occurrences)

    @property
    def before(self) -> float:
        """Predicted seconds of what it replaces, all occurrences."""
        return sum(before for before, _ in self.predicted)

    @property
    def after(self) -> float:
        """Predicted seconds of its calls, all occurrences."""
        return sum(after for _, after in self.predicted)


def restricted(fusion: Fusion, sets: Collection[tuple[int, ...]]) -> Fusion:
    """The fused operator with the occurrences that are in ``sets`` (nodes, ascending) only."""
    kept = [position for position, nodes in enumerate(fusion.sets) if nodes in sets]
    return replace(
        fusion,
        occurrences=tuple(fusion.occurrences[position] for position in kept),
        predicted=tuple(fusion.predicted[position] for position in kept),
    )


@dataclass(frozen=True)
class Fusions:
    """Details of the fusion pass.

    Attributes:
        graph: the operator graph before.
        captures: the graph with the shapes it was looked at.
        made: the fused operators.
        refused: what was not fused, and why.
    """

    graph: OperatorGraph
    captures: tuple[Capture, ...]
    made: tuple[Fusion, ...]
    refused: tuple[Refusal, ...]


@register("fuse")
@dataclass(frozen=True)
class Fuse:
    """Replace groups of operators by fused operators, each with a generated kernel."""

    top_k: int | None = None
    min_size: int = 1
    max_size: int = 160
    max_operands: int = MOST_OPERANDS
    name: ClassVar[str]

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """The model with fused operators; details are ``Fusions``.

        Node names are made unique. At most ``top_k`` different fused operators are made: those that save most.
        """
        named = with_unique_names(models.inline_functions(model))
        captures = context.captures or observe(named, context)
        chosen = self.choose(self.candidates(captures, context), captures, context)
        if not chosen.made:
            return PassResult(model, False, (), chosen)
        extractions = [extraction for fusion in chosen.made for extraction in fusion.occurrences]
        changed = rewrite(named, chosen.graph, extractions, capture=captures[0], source=context.source)
        replaced = sum(len(extraction.nodes) for extraction in extractions)
        note = f"{replaced} operators became {len(extractions)} calls of {len(chosen.made)} fused operators"
        return PassResult(changed, True, (note,), chosen)

    def candidates(self, captures: Sequence[Capture], context: Context) -> Candidates:
        """What could be fused, whatever the context excludes."""
        return find_candidates(
            captures[0].graph,
            captures,
            context.machine or machines.load(),
            context.lowerable or _kernel_generator(),
            wanted=context.opportunities,
            min_size=self.min_size,
            max_size=self.max_size,
            most_operands=self.max_operands,
        )

    def choose(self, found: Candidates, captures: Sequence[Capture], context: Context) -> Fusions:
        """The candidates to fuse, less what the context excludes."""
        graph = captures[0].graph
        left = [
            occurrence
            for occurrence in found.occurrences
            if occurrence.extraction.identity not in context.excluded
            and tuple(sorted(occurrence.extraction.nodes)) not in context.excluded_sets
        ]
        chosen = _choose(graph, left, self.top_k, context)
        refused = (*found.refusals, *_left_over(left, chosen))
        return Fusions(graph, tuple(captures), _fusions(captures, chosen), refused)


def observe(model: onnx.ModelProto, context: Context) -> tuple[Capture, ...]:
    """The model's operator graph, bodies included, at each set of captured input shapes; without any, no shapes."""
    if not context.observed:
        return (Capture(models.to_graph(model, context.source), {}, 1, context.source),)
    captures: list[Capture] = []
    for entry in context.observed:
        seen = models.observe(model, entry.shapes, ranges=entry.ranges or None)
        graph = captures[0].graph if captures else seen.graph
        bodies = bodies_of(model, seen, entry.ranges or None)
        captures.append(Capture(graph, seen.shapes, entry.executions, context.source, bodies))
    return with_bodies(captures)


def _kernel_generator() -> Lowerable:
    from graphopt import kernels  # imported late: only this step needs it

    return kernels.lowerable


def _choose(
    graph: OperatorGraph, occurrences: Sequence[Occurrence], top_k: int | None, context: Context
) -> list[Occurrence]:
    """Disjoint occurrences with the greatest saving, of at most so many identities."""

    def candidate(occurrence: Occurrence) -> Candidate:
        saving = max(occurrence.saving, occurrence.hoped) if context.measured else occurrence.saving
        # Where losing ones are kept too, the number of operators decides among them.
        least = LEAST_WORTH * len(occurrence.extraction.nodes) if context.keep_losing else saving
        return Candidate(tuple(sorted(occurrence.extraction.nodes)), max(saving, least))

    chosen = [occurrences[index] for index in select(graph, [candidate(o) for o in occurrences])]
    if top_k is None:
        return chosen
    if top_k < 1:
        raise GraphoptError(f"pass fuse: option top-k: {top_k} is less than 1")
    # Choosing again among the best identities lets their occurrences take the room that the others leave.
    savings: dict[str, float] = {}
    for occurrence in chosen:
        identity = occurrence.extraction.identity
        savings[identity] = savings.get(identity, 0.0) + occurrence.saving
    best = set(sorted(savings, key=lambda identity: (-savings[identity], identity))[:top_k])
    kept = [o for o in occurrences if o.extraction.identity in best]
    again = select(graph, [candidate(o) for o in kept])
    return [kept[index] for index in again]


def _left_over(occurrences: Sequence[Occurrence], chosen: Sequence[Occurrence]) -> list[Refusal]:
    """Candidates that were not chosen: no saving, or overlap. What lies inside of a chosen one is no news."""
    taken: set[int] = set().union(*(occurrence.extraction.nodes for occurrence in chosen))
    rows = []
    for occurrence in occurrences:
        nodes = tuple(sorted(occurrence.extraction.nodes))
        if set(nodes) <= taken or occurrence in chosen:
            continue
        if occurrence.saving <= 0:
            reason = "no saving predicted"
        elif set(nodes) & taken:
            reason = "overlaps with what saves more"
        else:
            reason = "not among the best, or would close a cycle with them"
        rows.append(Refusal(nodes, reason, occurrence.saving))
    return rows


def _fusions(captures: Sequence[Capture], chosen: Sequence[Occurrence]) -> tuple[Fusion, ...]:
    groups: dict[str, list[Occurrence]] = {}
    for occurrence in chosen:
        groups.setdefault(occurrence.extraction.name, []).append(occurrence)
    rows = []
    for name, members in groups.items():
        members.sort(key=lambda occurrence: min(occurrence.extraction.nodes))
        first = members[0].extraction
        shapes: dict[tuple[tuple[str, Shape], ...], None] = {}
        for member in members:
            for capture in captures:
                if not capture.runs(member.extraction.nodes[0]):
                    continue
                shapes[tuple(sorted(shapes_of(capture, member.extraction).items()))] = None
        rows.append(
            Fusion(
                first.identity,
                name,
                first.body,
                tuple(member.extraction for member in members),
                tuple((member.before, member.after) for member in members),
                tuple(dict(items) for items in shapes),
            )
        )
    return tuple(sorted(rows, key=lambda fusion: (fusion.after - fusion.before, fusion.name)))


def shapes_of(capture: Capture, extraction: Extraction) -> dict[str, Shape]:
    """Shapes of a body's tensors at one occurrence and capture, as far as they are known."""
    shapes: dict[str, Shape] = {}
    pairs = [*zip(extraction.body.inputs, extraction.inputs, strict=True)]
    for node, index in zip(extraction.body.nodes, extraction.nodes, strict=True):
        original = capture.graph.nodes[index]
        pairs += zip(node.outputs, original.outputs, strict=True)
    for formal, name in pairs:
        shape = capture.shape(name) if name else None
        if formal and shape is not None:
            shapes[formal] = shape
    return shapes


def standalone(capture: Capture, extraction: Extraction) -> Capture:
    """A body as a graph of its own, at the shapes of one capture; constants are constants there, with their values.

    Args:
        capture: the graph that it was cut out of.
        extraction: the body, and where it stood.
    """
    body = extraction.body
    shapes = shapes_of(capture, extraction)
    tensors = dict(body.tensors)
    for formal, name in zip(body.inputs, extraction.inputs, strict=True):
        if body.tensors[formal].constant:
            tensors[formal] = replace(capture.graph.tensors[name], name=formal)
    computed = tuple(name for name in body.inputs if not tensors[name].constant)
    graph = OperatorGraph(body.name, body.nodes, tensors, computed, body.outputs)
    return Capture(graph, shapes, source=capture.source)
