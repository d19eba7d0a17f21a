"""The whole of ``graphopt apply``: clean up, fuse, build kernels, measure, keep what pays, write everything at once."""

import hashlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import onnx
import onnxruntime
from onnxruntime import InferenceSession

import graphopt
from graphopt import kernels as kernel_generator
from graphopt import machine as machines
from graphopt import models
from graphopt.errors import GraphoptError
from graphopt.graph import Capture, OperatorGraph, Shape
from graphopt.machine import Machine
from graphopt.passes import measure, pipeline
from graphopt.passes.base import Context, Observed, Pass, WantedPattern
from graphopt.passes.candidates import Refusal
from graphopt.passes.fuse import Fuse, Fusion, Fusions, observe, with_unique_names
from graphopt.passes.plan import Comparison, FusedEntry, NotFusedEntry, Plan
from graphopt.passes.rewrite import rewrite
from graphopt.passes.to_view import ToView
from graphopt.runtime.session import (
    BLOCK_KEY,
    KERNELS_DIGEST_KEY,
    KERNELS_KEY,
    VIEW_KEY,
    channel_block,
    open_session,
)
from graphopt.runtime.verify import Verdict
from graphopt.weights import fill_weights, has_dropped_weights

Accept = Literal["measured", "predicted", "all"]
Progress = Callable[[str], None]

VERSION_KEY = "graphopt.version"
"""Model metadata: the graphopt that wrote it."""

MOST_ROUNDS = 3
"""How often fusions that lose are taken out and others tried in their place."""

CLEARLY_FASTER = 0.9
"""Share of the replaced operators' time that a fused operator may take when, all together, fusion did not pay."""

NODES_LISTED = 4
"""Occurrences of each entry of what was not fused whose node names are listed."""


def apply(
    model_path: Path,
    output: Path,
    *,
    opportunities: Path | None = None,
    shapes: Mapping[str, Shape] | Sequence[Mapping[str, Shape]] | None = None,
    executions: Sequence[int] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    passes: str | Sequence[Pass] | None = None,
    accept: Accept = "measured",
    machine: Machine | str | Path | None = None,
    view: str | None = None,
    threads: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """Make a model faster and write it, with its kernels and its plan.

    Writes ``output``, and beside it ``<stem>.c``, ``<stem>.so`` (where anything is fused) and ``<stem>.plan.json``.
    All are made in a temporary folder and renamed at the end, the model last.

    Args:
        model_path: the ONNX model.
        output: where to write the new one; not the model itself.
        opportunities: file of ``graphopt mine`` whose patterns are fused; without it, the model itself is searched.
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
        original = fill_weights(original, seed)
        notes.append("the model came without weights: seeded random ones stand in their place, in the output too")
    observed = _observed(original, shapes, executions, ranges or {}, str(model_path))
    work = _Work(model_path, original, observed, accept, roofline_machine, threads, seed, say)

    with _staging(output) as stage:
        outcome = _run(work, steps, wanted, stage, output.stem, notes)
        plan = _plan(work, steps, outcome, output, notes)
        _stage(outcome, plan, stage, output)
        _publish(stage, output)
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
    say: Progress


@dataclass(frozen=True)
class _Attempt:
    """Fused operators that were built."""

    model: onnx.ModelProto
    library: Path | None
    fusions: tuple[Fusion, ...]


@dataclass(frozen=True)
class _Lost:
    """A fused operator that was built and taken out again."""

    fusion: Fusion
    reason: str
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True)
class _Outcome:
    """What is going to be written."""

    model: onnx.ModelProto
    view: str
    library: Path | None
    fusions: tuple[Fusion, ...]
    lost: tuple[_Lost, ...]
    refused: tuple[Refusal, ...]
    graph: OperatorGraph | None
    times: Mapping[str, tuple[float, float]]
    nodes_unfused: int
    comparisons: tuple[Comparison, ...] = ()
    verdict: str = "not checked"
    max_absolute: float = 0.0
    max_relative: float = 0.0


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
    try:
        known = [models.default_shapes(model, entry) for entry in given]
    except GraphoptError as error:
        raise GraphoptError(f"{source}: {error}") from None
    return tuple(Observed(entry, count, dict(ranges)) for entry, count in zip(known, counts, strict=True))


def _wanted(path: Path) -> tuple[WantedPattern, ...]:
    """The patterns of an opportunities file."""
    from graphopt.mining import opportunities  # imported late: only this option needs it

    report = opportunities.read(path)
    return tuple(
        WantedPattern(entry.digest, tuple(entry.labels), tuple(entry.edges)) for entry in report.opportunities
    )


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
        work.observed, work.machine, wanted, keep_losing=work.accept == "all", source=work.path.name
    )
    work.say("cleaning up")
    before_view = [step for step in steps[:position] if not isinstance(step, ToView)]
    cleaned = pipeline.run(work.original, before_view, context)
    prepared = pipeline.run(work.original, steps[:position], context)
    notes += prepared.notes
    view = next((step.view for step in steps[:position] if isinstance(step, ToView)), "raw")
    unfused = with_unique_names(models.inline_functions(prepared.model))
    plain = _Outcome(unfused, view, None, (), (), (), None, {}, len(unfused.graph.node))
    if position == len(steps):
        return _better_of(work, plain, cleaned.model, notes)
    fuse = steps[position]
    work.say("observing")
    captures = observe(unfused, context)
    context = replace(context, captures=captures)
    if kernel_generator.find_compiler() is None:
        found = fuse.run(unfused, context).details
        refused = found.refused if isinstance(found, Fusions) else ()
        notes.append("no C compiler found: no fused operators (set CC, or install gcc, clang or ziglang)")
        return _better_of(work, replace(plain, refused=refused, graph=captures[0].graph), cleaned.model, notes)
    outcome = _fused(work, fuse, context, unfused, plain, stage, stem)
    if steps[position + 1 :]:
        after = pipeline.run(outcome.model, steps[position + 1 :], context)
        notes += after.notes
        outcome = replace(outcome, model=after.model)
    return _better_of(work, outcome, cleaned.model, notes)


def _fused(
    work: _Work,
    fuse: Pass,
    context: Context,
    unfused: onnx.ModelProto,
    plain: _Outcome,
    stage: Path,
    stem: str,
) -> _Outcome:
    graph = context.captures[0].graph
    names = {index: node.name for index, node in enumerate(graph.nodes)}
    given = measure.cases(unfused, work.observed, work.seed)
    baseline = open_session(unfused, optimization="none", threads=work.threads)
    run_seconds = _run_seconds(baseline, given)
    apart: dict[str, float] = {}
    lost: dict[str, _Lost] = {}
    refused: tuple[Refusal, ...] = ()
    times: dict[str, tuple[float, float]] = {}
    attempt = _Attempt(unfused, None, ())
    for round_number in range(MOST_ROUNDS):
        work.say(f"choosing fusions (round {round_number + 1})")
        excluded = {identity: entry.reason for identity, entry in lost.items()}
        details = fuse.run(unfused, replace(context, excluded=excluded)).details
        if not isinstance(details, Fusions):
            break
        refused = details.refused
        fusions = details.made
        if not fusions:
            attempt = _Attempt(unfused, None, ())
            break
        attempt = _build(work, unfused, graph, fusions, stage, stem)
        wrong = _wrong(work, unfused, graph, attempt, baseline)
        if wrong:
            lost.update(wrong)
            fusions = tuple(f for f in attempt.fusions if f.identity not in wrong)
            attempt = replace(_rewritten(work, unfused, graph, fusions), library=attempt.library)
        slow: dict[str, _Lost] = {}
        if work.accept == "measured" and attempt.fusions:
            work.say("measuring")
            apart = apart or measure.average_node_seconds(
                unfused, given, kernels=None, threads=work.threads, run_seconds=run_seconds
            )
            fused_times = measure.average_node_seconds(
                attempt.model, given, kernels=attempt.library, threads=work.threads, run_seconds=run_seconds
            )
            times = {f.identity: measure.fusion_seconds(f, names, apart, fused_times) for f in attempt.fusions}
            slow = _slow(work, attempt.fusions, times)
            lost.update(slow)
        if not wrong and not slow:
            break
        kept = tuple(f for f in attempt.fusions if f.identity not in slow)
        attempt = replace(_rewritten(work, unfused, graph, kept), library=attempt.library)
    outcome = replace(plain, lost=tuple(lost.values()), refused=refused, graph=graph, times=times)
    if not attempt.fusions:
        return outcome
    attempt = _build(work, unfused, graph, attempt.fusions, stage, stem)
    outcome = _checked(work, outcome, attempt, unfused, baseline)
    if work.accept != "measured" or not outcome.fusions:
        return outcome
    return _paying(work, outcome, plain, unfused, graph, baseline, given, stage, stem)


def _build(
    work: _Work,
    unfused: onnx.ModelProto,
    graph: OperatorGraph,
    fusions: Sequence[Fusion],
    stage: Path,
    stem: str,
) -> _Attempt:
    """Rewrite the model and build the kernels. Every build has its own folder: a loaded library must not change."""
    work.say(f"building {len(fusions)} kernels")
    folder = Path(tempfile.mkdtemp(dir=stage, prefix="build-"))
    operators = [kernel_generator.FusedOperator(f.name, f.body, f.shapes) for f in fusions]
    library = kernel_generator.build_library(sorted(operators, key=lambda o: o.name), folder, stem)
    return replace(_rewritten(work, unfused, graph, fusions), library=library)


def _rewritten(
    work: _Work, unfused: onnx.ModelProto, graph: OperatorGraph, fusions: Sequence[Fusion]
) -> _Attempt:
    chosen = [extraction for fusion in fusions for extraction in fusion.occurrences]
    model = rewrite(unfused, graph, chosen, source=work.path.name) if chosen else unfused
    callers = {node.output[0]: node.name for node in model.graph.node if node.output}
    renamed = tuple(
        replace(fusion, calls=tuple(callers[extraction.outputs[0]] for extraction in fusion.occurrences))
        for fusion in fusions
    )
    return _Attempt(model, None, renamed)


def _wrong(
    work: _Work,
    unfused: onnx.ModelProto,
    graph: OperatorGraph,
    attempt: _Attempt,
    baseline: InferenceSession,
) -> dict[str, _Lost]:
    """Fused operators that give other numbers. A kernel that is wrong must not be measured, let alone written."""
    problem = _difference(work, unfused, attempt.model, attempt.library, baseline)
    if problem is None:
        return {}
    work.say("looking for the kernel that gives other numbers")
    kept: list[Fusion] = []
    wrong: dict[str, _Lost] = {}
    for fusion in attempt.fusions:
        trial = _rewritten(work, unfused, graph, [*kept, fusion])
        reason = _difference(work, unfused, trial.model, attempt.library, baseline)
        if reason is None:
            kept.append(fusion)
        else:
            wrong[fusion.identity] = _Lost(fusion, f"different numbers: {reason}")
    return wrong


def _difference(
    work: _Work,
    unfused: onnx.ModelProto,
    fused: onnx.ModelProto,
    library: Path | None,
    baseline: InferenceSession,
) -> str | None:
    try:
        session = open_session(fused, optimization="none", threads=work.threads, kernels=library)
        found = measure.same_numbers(baseline, session, unfused, work.observed, work.seed)
    except GraphoptError as error:
        return str(error)
    for case in found.cases:
        if case.verdict == Verdict.DIFFERENT:
            reasons = [f"{o.name}: {o.reason}" for o in case.outputs if o.verdict == Verdict.DIFFERENT]
            at = f" at batch {case.batch}" if case.batch is not None else ""
            return (case.reason or "; ".join(reasons[:2]) or "outputs differ") + at
    return None


def _slow(
    work: _Work, fusions: Sequence[Fusion], times: Mapping[str, tuple[float, float]]
) -> dict[str, _Lost]:
    """Fused operators that take as long as what they replace, the runtime's price per node counted."""
    slow = {}
    for fusion in fusions:
        before, after = times[fusion.identity]
        nodes = sum(len(extraction.nodes) for extraction in fusion.occurrences) - len(fusion.occurrences)
        if after >= before + nodes * work.machine.node_seconds:
            slow[fusion.identity] = _Lost(fusion, "lost in measurement", before, after)
    return slow


def _checked(
    work: _Work, outcome: _Outcome, attempt: _Attempt, unfused: onnx.ModelProto, baseline: InferenceSession
) -> _Outcome:
    """The outcome with these fusions, and the last word on its numbers."""
    session = open_session(attempt.model, optimization="none", threads=work.threads, kernels=attempt.library)
    found = measure.same_numbers(baseline, session, unfused, work.observed, work.seed)
    if not found.passed:
        lost = [_Lost(fusion, "different numbers together with others") for fusion in attempt.fusions]
        return replace(outcome, lost=(*outcome.lost, *lost))
    return replace(
        outcome,
        model=attempt.model,
        library=attempt.library,
        fusions=attempt.fusions,
        verdict=str(found.verdict),
        max_absolute=found.max_absolute,
        max_relative=found.max_relative,
    )


def _paying(
    work: _Work,
    outcome: _Outcome,
    plain: _Outcome,
    unfused: onnx.ModelProto,
    graph: OperatorGraph,
    baseline: InferenceSession,
    given: Sequence[measure.Case],
    stage: Path,
    stem: str,
) -> _Outcome:
    """The outcome if whole runs are faster with it; else with clear winners only; else without fusions."""
    if _faster(work, outcome, baseline, given):
        return outcome
    proven = tuple(
        fusion
        for fusion in outcome.fusions
        if outcome.times[fusion.identity][1] < CLEARLY_FASTER * outcome.times[fusion.identity][0]
    )
    dropped = [f for f in outcome.fusions if f not in proven]
    reason = "the model as a whole is not faster with it"
    lost = [*outcome.lost, *(_Lost(f, reason, *outcome.times[f.identity]) for f in dropped)]
    if proven and dropped:
        attempt = _build(work, unfused, graph, proven, stage, stem)
        fewer = _checked(work, replace(outcome, lost=tuple(lost)), attempt, unfused, baseline)
        if fewer.fusions and _faster(work, fewer, baseline, given):
            return fewer
    lost += [_Lost(f, reason, *outcome.times[f.identity]) for f in proven]
    return replace(plain, lost=tuple(lost), refused=outcome.refused, graph=graph, times=outcome.times)


def _faster(
    work: _Work, outcome: _Outcome, baseline: InferenceSession, given: Sequence[measure.Case]
) -> bool:
    work.say("timing whole runs")
    session = open_session(outcome.model, optimization="none", threads=work.threads, kernels=outcome.library)
    found = measure.compare({"unfused": baseline, "fused": session}, given, "fused")["unfused"]
    return found.ratio > 1.0


def _better_of(work: _Work, outcome: _Outcome, cleaned: onnx.ModelProto, notes: list[str]) -> _Outcome:
    """The outcome with its comparison against the original; the cleaned-up original where that is faster."""
    if work.accept != "measured":
        return outcome
    work.say("timing against the original")
    given = measure.cases(work.original, work.observed, work.seed)
    stock = open_session(work.original, optimization="all", threads=work.threads)
    level: Literal["all", "none"] = "none" if outcome.view == "executed" else "all"
    session = open_session(outcome.model, optimization=level, threads=work.threads, kernels=outcome.library)
    found = measure.compare({"stock": stock, "written": session}, given, "written")["stock"]
    if found.ratio < 1.0 and outcome.view != "raw":
        plain = open_session(cleaned, optimization="all", threads=work.threads)
        other = measure.compare({"stock": stock, "written": plain, "view": session}, given, "written")
        if other["view"].ratio > 1.0:
            notes.append(
                f"the {outcome.view} view was not faster than the original (ratio {found.ratio:.3f}): "
                "the cleaned-up original is written"
            )
            lost = [
                _Lost(f, "the model as a whole is not faster than the original", *outcome.times.get(f.identity, ()))
                for f in outcome.fusions
            ]
            return replace(
                outcome,
                model=cleaned,
                view="raw",
                library=None,
                fusions=(),
                lost=(*outcome.lost, *lost),
                comparisons=(other["stock"],),
                verdict="not checked",
                max_absolute=0.0,
                max_relative=0.0,
            )
    return replace(outcome, comparisons=(found,))


def _run_seconds(session: InferenceSession, given: Sequence[measure.Case]) -> float:
    """About how long a run takes; the first run is not counted."""
    seconds = 0.0
    known = {value.name for value in session.get_inputs()}
    for case in given:
        feeds = {name: array for name, array in case.feeds.items() if name in known}
        try:
            session.run(None, feeds)
            start = time.perf_counter()
            session.run(None, feeds)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise GraphoptError(f"the model does not run: {' '.join(str(error).split())[:300]}") from None
        seconds = max(seconds, time.perf_counter() - start)
    return seconds


# --------------------------------------------------------------------------------------------------------- writing


def _plan(work: _Work, steps: Sequence[Pass], outcome: _Outcome, output: Path, notes: Sequence[str]) -> Plan:
    fused = tuple(
        FusedEntry(
            fusion.identity,
            fusion.name,
            tuple(node.operator for node in fusion.body.nodes),
            tuple(_node_names(outcome.graph, extraction.nodes) for extraction in fusion.occurrences),
            fusion.before,
            fusion.after,
            *outcome.times.get(fusion.identity, (None, None)),
        )
        for fusion in outcome.fusions
    )
    compiler = kernel_generator.find_compiler()
    environment = {
        "graphopt": graphopt.__version__,
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "threads": str(work.threads),
        "compiler": Path(compiler[0]).name if compiler else "none",
    }
    return Plan(
        model=work.path.name,
        output=output.name,
        kernels=f"{output.stem}.so" if outcome.library else None,
        view=outcome.view,
        passes=pipeline.show(steps),
        accept=work.accept,
        machine=work.machine.name,
        captured=tuple((entry.shapes, entry.executions) for entry in work.observed),
        nodes_before=len(work.original.graph.node),
        nodes_unfused=outcome.nodes_unfused,
        nodes_after=len(outcome.model.graph.node),
        fused=fused,
        not_fused=_not_fused(outcome),
        comparisons=outcome.comparisons,
        verdict=outcome.verdict,
        max_absolute=outcome.max_absolute,
        max_relative=outcome.max_relative,
        notes=tuple(notes),
        environment=environment,
    )


def _not_fused(outcome: _Outcome) -> tuple[NotFusedEntry, ...]:
    graph = outcome.graph
    if graph is None:
        return ()
    rows = [
        NotFusedEntry(
            tuple(node.operator for node in entry.fusion.body.nodes),
            entry.reason,
            len(entry.fusion.occurrences),
            tuple(_node_names(graph, e.nodes) for e in entry.fusion.occurrences[:NODES_LISTED]),
            entry.fusion.before - entry.fusion.after,
            entry.before,
            entry.after,
            entry.fusion.identity,
        )
        for entry in outcome.lost
    ]
    groups: dict[tuple[tuple[str, ...], str], list[Refusal]] = {}
    for refusal in outcome.refused:
        operators = tuple(graph.nodes[index].operator for index in refusal.nodes)
        groups.setdefault((operators, refusal.reason), []).append(refusal)
    for (operators, reason), members in groups.items():
        savings = [member.saving for member in members if member.saving is not None]
        nodes = tuple(_node_names(graph, member.nodes) for member in members[:NODES_LISTED])
        rows.append(
            NotFusedEntry(operators, reason, len(members), nodes, sum(savings) if savings else None)
        )
    return tuple(
        sorted(rows, key=lambda row: (-(row.predicted_saving or 0.0), row.reason, row.operators, row.identity))
    )


def _node_names(graph: OperatorGraph | None, nodes: Sequence[int]) -> tuple[str, ...]:
    return () if graph is None else tuple(graph.nodes[index].name for index in sorted(nodes))


def _stage(outcome: _Outcome, plan: Plan, stage: Path, output: Path) -> None:
    """Write all files into the staging folder."""
    finished = onnx.ModelProto()
    finished.CopyFrom(outcome.model)
    entries = {VERSION_KEY: graphopt.__version__, VIEW_KEY: outcome.view}
    if outcome.view == "executed" and channel_block():
        entries[BLOCK_KEY] = str(channel_block())
    if outcome.library is not None and plan.kernels is not None:
        entries[KERNELS_KEY] = plan.kernels
        entries[KERNELS_DIGEST_KEY] = hashlib.sha256(outcome.library.read_bytes()).hexdigest()
        outcome.library.rename(stage / plan.kernels)
        outcome.library.with_suffix(".c").rename(stage / f"{output.stem}.c")
    kept = [entry for entry in finished.metadata_props if not entry.key.startswith("graphopt.")]
    metadata = {**{entry.key: entry.value for entry in kept}, **entries}
    onnx.helper.set_model_props(finished, metadata)
    models.save(finished, stage / output.name)
    (stage / f"{output.stem}.plan.json").write_text(plan.to_json(), encoding="utf-8")


@contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A folder beside the output that is gone afterwards, whatever happens."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.stem}."))
    except OSError as error:
        raise GraphoptError(f"{output}: cannot write: {error.strerror or error}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(stage: Path, output: Path) -> None:
    """Rename the staged files to where they belong, the model last; files of an earlier run that are obsolete go.

    Each rename is whole. Should the machine stop between two of them, the old model stands beside a new library, whose
    digest it does not know: it then runs by its function bodies, with the same numbers.
    """
    files = sorted((file for file in stage.iterdir() if file.is_file()), key=lambda file: file.name == output.name)
    names = {file.name for file in files}
    with _uninterrupted():
        try:
            for file in files:
                os.replace(file, output.parent / file.name)
        except OSError as error:
            raise GraphoptError(f"{output}: cannot write: {error.strerror or error}") from None
        if f"{output.stem}.so" not in names:
            _remove_obsolete(output)


def _remove_obsolete(output: Path) -> None:
    """Remove the kernel library and source of an earlier run, recognised by the comment that generated C begins with."""
    source = output.with_suffix(".c")
    with suppress(OSError):
        if b"graphopt" in source.read_bytes()[:400]:
            source.unlink()
            output.with_suffix(".so").unlink(missing_ok=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back interruptions for the few microseconds that renaming takes."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
