"""The whole of ``graphopt apply``: clean up, fuse, build kernels, measure, keep what pays, write everything at once."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import onnx
import onnxruntime
from onnxruntime import InferenceSession

import graphopt
from graphopt import kernels as kernel_generator
from graphopt import machine as machines
from graphopt import models
from graphopt.errors import GraphoptError, about
from graphopt.graph import OperatorGraph, Shape
from graphopt.kernels.compile import flags_of, levels
from graphopt.machine import Machine
from graphopt.mining import opportunities as opportunity_files
from graphopt.model_files import every_graph
from graphopt.model_graphs import with_unique_names
from graphopt.operators.blocked import block_size
from graphopt.passes import measure, pipeline
from graphopt.passes.accept import Accept, Acceptance, Lost, Progress, Verdicts
from graphopt.passes.base import Context, Observed, Pass, WantedPattern
from graphopt.passes.bundle import Bundle
from graphopt.passes.candidates import Refusal
from graphopt.passes.fuse import Fuse, observe
from graphopt.passes.plan import Comparison, FusedEntry, NotFusedEntry, Plan
from graphopt.passes.publish import publish, staging
from graphopt.passes.to_view import ToView
from graphopt.runtime.session import (
    BLOCK_KEY,
    KERNELS_DIGEST_KEY,
    KERNELS_KEY,
    VIEW_KEY,
    Optimization,
    open_session,
)
from graphopt.views import ViewName
from graphopt.weights import fill_weights, has_dropped_weights

VERSION_KEY = "graphopt.version"
"""Model metadata: the graphopt that wrote it."""


def apply(
    model_path: Path,
    output: Path,
    *,
    opportunities: Path | None = None,
    kernels: Sequence[Bundle] = (),
    shapes: Mapping[str, Shape] | Sequence[Mapping[str, Shape]] | None = None,
    executions: Sequence[int] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    passes: str | Sequence[Pass] | None = None,
    accept: Accept = "measured",
    machine: Machine | str | Path | None = None,
    view: str | None = None,
    threads: int = 1,
    seed: int = 0,
    cache: bool = True,
    progress: Progress | None = None,
) -> Plan:
    """Make a model faster and write it, with its kernels and its plan.

    Writes ``output``, and beside it ``<stem>.c``, ``<stem>.so`` (where anything is fused) and ``<stem>.plan.json``.
    All are made in a temporary folder and renamed at the end, the model last.

    Args:
        model_path: the ONNX model.
        output: where to write the new one; not the model itself.
        opportunities: file of ``graphopt mine`` whose patterns are fused; without it, the model itself is searched.
        kernels: bundles whose kernels are used in place of generated ones, checked and measured like any other.
        shapes: input shapes to observe and measure at: one set or several. Inputs that are left out take the model's
            declared shape, free axes a default size.
        executions: how often each set of shapes runs, for averages; once each when left out.
        ranges: input name to the half-open range of its values.
        passes: pipeline, as text or as passes; the default pipeline when left out.
        accept: ``measured`` keeps a fusion only if it is faster on this machine; ``predicted`` trusts the roofline;
            ``all`` keeps whatever can be built. Numbers are checked in any case.
        machine: roofline description, or its name or file.
        view: overrides the view of the pipeline's ``to-view``.
        threads: threads of onnxruntime while measuring.
        seed: of inputs, and of weights that the model came without.
        cache: keep compiled kernels for other models, and use those that are kept.
        progress: called with a short text at every step.

    Returns:
        The plan, as written.

    Raises:
        GraphoptError: the model cannot be read or run, an option makes no sense, or the output cannot be written.
    """
    say = progress or (lambda text: None)
    model_path, output = Path(model_path), Path(output)
    if accept not in get_args(Accept):
        raise GraphoptError(f"accept {accept!r}: it is one of {', '.join(get_args(Accept))}")
    if output.exists() and output.is_dir():
        raise GraphoptError(f"{output}: is a folder; name a file to write the model to")
    if output.exists() and model_path.exists() and output.samefile(model_path):
        raise GraphoptError(f"{output}: is the model itself; choose another name for the output")
    steps = _with_view(pipeline.parse(passes) if isinstance(passes, str) else passes, view)
    roofline_machine = machine if isinstance(machine, Machine) else machines.load(*([machine] if machine else []))
    wanted = _wanted(opportunities) if opportunities is not None else None

    say("reading")
    original = models.load(model_path)
    notes: list[str] = []
    if has_dropped_weights(original):
        with about(model_path):
            original = fill_weights(original, seed)
        notes.append("the model came without weights: seeded random ones stand in their place, in the output too")
    observed = _observed(original, shapes, executions, ranges or {}, str(model_path))
    sources = {bundle.name: bundle.source for bundle in kernels}
    work = _Work(model_path, original, observed, accept, roofline_machine, threads, seed, cache, say, sources)

    with staging(output) as stage:
        with about(model_path):
            outcome = _run(work, steps, wanted, stage, output.stem, notes)
        notes += [_used(outcome, bundle) for bundle in kernels]
        plan = _plan(work, steps, outcome, output, notes)
        _stage(outcome, plan, stage, output)
        publish(stage, output)
    say("done")
    return plan


# ------------------------------------------------------------------------------------------------------- preparing


@dataclass(frozen=True)
class _Work:
    """What stays the same during one call of ``apply``."""

    path: Path
    original: onnx.ModelProto
    observed: tuple[Observed, ...]
    accept: Accept
    machine: Machine
    threads: int
    seed: int
    cache: bool
    say: Progress
    sources: Mapping[str, str]


@dataclass(frozen=True)
class _Outcome:
    """What is going to be written."""

    verdicts: Verdicts
    view: ViewName
    graph: OperatorGraph | None
    nodes_unfused: int
    comparisons: tuple[Comparison, ...] = ()

    @property
    def level(self) -> Optimization:
        """Optimisations that the written model runs with: the executed view has them all behind it."""
        return "none" if self.view == "executed" else "all"


def _with_view(steps: Sequence[Pass] | None, view: str | None) -> tuple[Pass, ...]:
    chosen = tuple(pipeline.DEFAULT_PIPELINE if steps is None else steps)
    if view is not None:
        known = pipeline.parse(f"to-view{{view={view}}}")[0]  # one place says which views there are
        chosen = tuple(known if isinstance(step, ToView) else step for step in chosen)
    if sum(isinstance(step, Fuse) for step in chosen) > 1:
        raise GraphoptError("pipeline: fuse can stand in it once")
    return chosen


def _observed(
    model: onnx.ModelProto,
    shapes: Mapping[str, Shape] | Sequence[Mapping[str, Shape]] | None,
    executions: Sequence[int] | None,
    ranges: Mapping[str, tuple[float, float]],
    source: str,
) -> tuple[Observed, ...]:
    given = [shapes] if isinstance(shapes, Mapping) else list(shapes or [{}])
    counts = list(executions) if executions is not None else [1] * len(given)
    if len(counts) != len(given) or any(count < 1 for count in counts):
        raise GraphoptError(f"{source}: {len(given)} sets of shapes need as many counts of executions, each 1 or more")
    with about(source):
        known = [models.default_shapes(model, entry) for entry in given]
    return tuple(Observed(entry, count, dict(ranges)) for entry, count in zip(known, counts, strict=True))


def _wanted(path: Path) -> tuple[WantedPattern, ...]:
    """The patterns of an opportunities file."""
    report = opportunity_files.read(path)
    return tuple(WantedPattern(entry.digest, entry.labels, entry.edges) for entry in report.opportunities)


# --------------------------------------------------------------------------------------------------------- running


def _run(
    work: _Work,
    steps: Sequence[Pass],
    wanted: tuple[WantedPattern, ...] | None,
    stage: Path,
    stem: str,
    notes: list[str],
) -> _Outcome:
    position = next((i for i, step in enumerate(steps) if isinstance(step, Fuse)), len(steps))
    context = Context(
        work.observed,
        work.machine,
        wanted,
        sources=work.sources,
        keep_losing=work.accept == "all",
        measured=work.accept == "measured",
        source=work.path.name,
    )
    work.say("cleaning up")
    before_view = [step for step in steps[:position] if not isinstance(step, ToView)]
    cleaned = pipeline.run(work.original, before_view, context)
    prepared = pipeline.run(work.original, steps[:position], context)
    notes += prepared.notes
    view: ViewName = next((step.view for step in steps[:position] if isinstance(step, ToView)), "raw")
    unfused = with_unique_names(models.inline_functions(prepared.model))
    untouched = Verdicts(unfused, None, (), {}, (), ())
    outcome = _Outcome(untouched, view, None, _nodes(unfused))
    fuse = steps[position] if position < len(steps) else None
    if isinstance(fuse, Fuse):
        outcome = _fused(work, fuse, outcome, context, stage, stem, notes)
    if steps[position + 1 :]:
        after = pipeline.run(outcome.verdicts.model, steps[position + 1 :], context)
        notes += after.notes
        outcome = replace(outcome, verdicts=replace(outcome.verdicts, model=after.model))
    return _better_of(work, outcome, cleaned.model, notes)


def _fused(
    work: _Work, fuse: Fuse, outcome: _Outcome, context: Context, stage: Path, stem: str, notes: list[str]
) -> _Outcome:
    """The outcome with the fusions that stay."""
    unfused = outcome.verdicts.model
    work.say("observing")
    captures = observe(unfused, context)
    context = replace(context, captures=captures)
    outcome = replace(outcome, graph=captures[0].graph)
    bodies = sum(1 for _ in every_graph(unfused.graph)) - 1
    if left := bodies - len({node.scope for node in captures[0].graph.nodes} - {""}):
        notes.append(
            f"{left} of {bodies} bodies of If, Loop and Scan stay as they are: they did not run, or their trips or "
            "shapes are unknown"
        )
    if kernel_generator.find_compiler() is None:
        notes.append("no C compiler found: no fused operators (set CC, or install gcc, clang or ziglang)")
        found = fuse.choose(fuse.candidates(captures, context), captures, context)
        return replace(outcome, verdicts=replace(outcome.verdicts, refused=found.refused))
    acceptance = Acceptance(
        unfused,
        work.original,
        context,
        work.accept,
        outcome.level,
        work.threads,
        work.seed,
        stage,
        stem,
        work.say,
        work.cache,
    )
    return replace(outcome, verdicts=acceptance.run(fuse))


def _better_of(work: _Work, outcome: _Outcome, cleaned: onnx.ModelProto, notes: list[str]) -> _Outcome:
    """The outcome with its comparison against the original; the cleaned-up original where that is faster."""
    if work.accept != "measured":
        return outcome
    work.say("timing against the original")
    given = measure.cases(work.original, work.observed, work.seed)
    verdicts = outcome.verdicts

    def stock() -> InferenceSession:
        return open_session(work.original, optimization="all", threads=work.threads)

    def seen() -> InferenceSession:
        level, kernels = outcome.level, verdicts.library
        return open_session(verdicts.model, optimization=level, threads=work.threads, kernels=kernels)

    def plain() -> InferenceSession:
        return open_session(cleaned, optimization="all", threads=work.threads)

    blocks = measure.MOST_BLOCKS if verdicts.fusions else measure.FEWEST_BLOCKS  # a view alone hardly differs
    compared = measure.compare(lambda: {"stock": stock(), "written": seen()}, given, "written", most_blocks=blocks)
    found = compared["stock"]
    if found.faster or outcome.view == "raw":
        return replace(outcome, comparisons=(found,))
    other = measure.compare(
        lambda: {"stock": stock(), "view": seen(), "written": plain()}, given, "written", most_blocks=blocks
    )
    if not other["view"].faster:
        return replace(outcome, comparisons=(found,))
    notes.append(
        f"the {outcome.view} view was not faster than the original (ratio {found.ratio:.3f}): "
        "the cleaned-up original is written"
    )
    reason = "the model as a whole is not faster than the original"
    lost = [Lost(fusion, reason, verdicts.times.get(fusion.identity)) for fusion in verdicts.fusions]
    untouched = Verdicts(cleaned, None, (), {}, (*verdicts.lost, *lost), verdicts.refused)
    return replace(outcome, verdicts=untouched, view="raw", comparisons=(other["stock"],))


# --------------------------------------------------------------------------------------------------------- writing


def _plan(work: _Work, steps: Sequence[Pass], outcome: _Outcome, output: Path, notes: Sequence[str]) -> Plan:
    verdicts = outcome.verdicts
    fused = []
    for fusion in verdicts.fusions:
        fused.append(
            FusedEntry(
                fusion.identity,
                fusion.name,
                tuple(node.operator for node in fusion.body.nodes),
                tuple(_node_names(outcome.graph, nodes) for nodes in fusion.sets),
                fusion.before,
                fusion.after,
                verdicts.times.get(fusion.identity),
            )
        )
    compiler = kernel_generator.find_compiler()
    environment = {
        "graphopt": graphopt.__version__,
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "threads": str(work.threads),
        "compiler": " ".join([Path(compiler[0]).name, *compiler[1:]]) if compiler else "none",
        "flags": "; ".join(
            f"{level.name}: {' '.join(flags_of(compiler, level))}" for level in levels(compiler, portable=True)
        )
        if compiler
        else "none",
    }
    checked = verdicts.verification
    return Plan(
        model=work.path.name,
        output=output.name,
        kernels=f"{output.stem}.so" if verdicts.library else None,
        view=outcome.view,
        passes=pipeline.show(steps),
        accept=work.accept,
        machine=work.machine.name,
        captured=tuple((entry.shapes, entry.executions) for entry in work.observed),
        nodes_before=_nodes(work.original),
        nodes_unfused=outcome.nodes_unfused,
        nodes_after=_nodes(verdicts.model),
        fused=tuple(fused),
        not_fused=_not_fused(outcome),
        comparisons=outcome.comparisons,
        verdict="not checked" if checked is None else str(checked.verdict),
        max_absolute=0.0 if checked is None else checked.max_absolute,
        max_relative=0.0 if checked is None else checked.max_relative,
        notes=tuple(notes),
        environment=environment,
    )


def _nodes(model: onnx.ModelProto) -> int:
    """Nodes of a model, those in bodies included."""
    return sum(len(graph.node) for graph in every_graph(model.graph))


def _used(outcome: _Outcome, bundle: Bundle) -> str:
    """What became of a hand-written kernel."""
    if any(fusion.name == bundle.name for fusion in outcome.verdicts.fusions):
        return f"{bundle.name}: the hand-written kernel is in place of the generated one"
    if any(lost.fusion.name == bundle.name for lost in outcome.verdicts.lost):
        return f"{bundle.name}: the hand-written kernel was tried and did not stay"
    return f"{bundle.name}: no place for the hand-written kernel"


def _not_fused(outcome: _Outcome) -> tuple[NotFusedEntry, ...]:
    graph = outcome.graph
    if graph is None:
        return ()
    rows = [
        NotFusedEntry(
            tuple(node.operator for node in entry.fusion.body.nodes),
            entry.reason,
            len(entry.fusion.occurrences),
            tuple(_node_names(graph, nodes) for nodes in entry.fusion.sets),
            entry.fusion.before - entry.fusion.after,
            entry.times,
            entry.fusion.identity,
        )
        for entry in outcome.verdicts.lost
    ]
    groups: dict[tuple[tuple[str, ...], str], list[Refusal]] = {}
    for refusal in outcome.verdicts.refused:
        operators = tuple(graph.nodes[index].operator for index in refusal.nodes)
        groups.setdefault((operators, refusal.reason), []).append(refusal)
    for (operators, reason), members in groups.items():
        savings = [member.saving for member in members if member.saving is not None]
        nodes = tuple(_node_names(graph, member.nodes) for member in members)
        rows.append(NotFusedEntry(operators, reason, len(members), nodes, sum(savings) if savings else None))
    return tuple(
        sorted(rows, key=lambda row: (-(row.predicted_saving or 0.0), row.reason, row.operators, row.identity))
    )


def _node_names(graph: OperatorGraph | None, nodes: Sequence[int]) -> tuple[str, ...]:
    return () if graph is None else tuple(graph.nodes[index].name for index in sorted(nodes))


def _stage(outcome: _Outcome, plan: Plan, stage: Path, output: Path) -> None:
    """Write all files into the staging folder."""
    finished = onnx.ModelProto()
    finished.CopyFrom(outcome.verdicts.model)
    entries = {VERSION_KEY: graphopt.__version__, VIEW_KEY: outcome.view}
    if outcome.view == "executed" and block_size():
        entries[BLOCK_KEY] = str(block_size())
    library = outcome.verdicts.library
    if library is not None and plan.kernels is not None:
        entries[KERNELS_KEY] = plan.kernels
        entries[KERNELS_DIGEST_KEY] = hashlib.sha256(library.read_bytes()).hexdigest()
        library.rename(stage / plan.kernels)
        library.with_suffix(".c").rename(stage / f"{output.stem}.c")
    kept = [entry for entry in finished.metadata_props if not entry.key.startswith("graphopt.")]
    metadata = {**{entry.key: entry.value for entry in kept}, **entries}
    onnx.helper.set_model_props(finished, metadata)
    models.save(finished, stage / output.name)
    (stage / f"{output.stem}.plan.json").write_text(plan.to_json(), encoding="utf-8")
