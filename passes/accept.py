"""Which fused operators stay: they must give the same numbers, and by default be faster on this machine."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnxruntime import InferenceSession

from graphopt import kernels as kernel_generator
from graphopt import prediction_log
from graphopt.errors import GraphoptError
from graphopt.graph import OperatorGraph
from graphopt.model_files import every_graph
from graphopt.passes import measure
from graphopt.passes.base import Context, Observed
from graphopt.passes.candidates import Refusal
from graphopt.passes.fuse import Fuse, Fusion, restricted, standalone
from graphopt.passes.isolated import DiedError, isolated
from graphopt.passes.regions import multiplies
from graphopt.passes.rewrite import rewrite
from graphopt.passes.seconds import Seconds, Turns
from graphopt.runtime.compare import Verdict
from graphopt.runtime.session import Optimization, open_session
from graphopt.runtime.verify import Verification

Accept = Literal["measured", "predicted", "all"]
Progress = Callable[[str], None]
Nodes = tuple[int, ...]

MOST_ROUNDS = 3
"""How often fusions that lose are taken out and others tried in their place."""

FASTER = 0.97
"""Share of the replaced operators' time below which a fused operator counts as faster: less may be noise."""

CLEARLY_FASTER = 0.9
"""Share of the replaced operators' time below which a fused operator is a clear winner."""

CLEARLY_SLOWER = 1.15
"""Share of the replaced operators' time above which one call of a fused operator that pays elsewhere is dropped."""

WIDE = 1.1
"""Ratio of the ends of an interval from which on turns are taken again, if the least gain that counts lies within."""

MOST_REPEATS = 3
"""How often turns are taken again for what is undecided."""

LEAST_STAKE = 0.002
"""Share of a run that the wrong decision on a fused operator must be able to cost for turns to be taken again."""

LEAST_CHANCE = 0.01
"""Share of a run that what is newly chosen replaces, all of it together, for another round to be worth its time."""

TIMED_RUNS = 3
"""Runs of which the shortest says how long a run takes."""

SHORT_RUN = 3e-3
"""Seconds of a run below which each fused operator is also timed in whole runs: there the profiler distorts."""

CLEAR_SAVING = 0.05
"""Share of a run that the nodes of a model must save for whole runs to be faster beyond doubt."""

MOST_AT_ONCE = 8
"""Sessions that are timed against each other at once."""


@dataclass(frozen=True)
class Lost:
    """A fused operator that was built and taken out again, with the occurrences that it was taken out of."""

    fusion: Fusion
    reason: str
    times: Seconds | None = None


@dataclass(frozen=True)
class Verdicts:
    """What came of fusion.

    Attributes:
        model: the model with the fused operators that stay.
        library: their kernels; None when none stay.
        fusions: those that stay.
        times: measured seconds before and after, by identity; empty when nothing was measured.
        lost: those that do not stay.
        refused: what was not tried.
        verification: numbers with fused operators against numbers without; None when none stay.
    """

    model: onnx.ModelProto
    library: Path | None
    fusions: tuple[Fusion, ...]
    times: Mapping[str, Seconds]
    lost: tuple[Lost, ...]
    refused: tuple[Refusal, ...]
    verification: Verification | None = None


@dataclass
class Acceptance:
    """Fuses one model and finds out what stays.

    Attributes:
        unfused: the model before fusion, in its view; node names are unique.
        original: the model that inputs are made for.
        context: what the fusion pass may know; holds the captures.
        accept: what fusions must show.
        level: optimisations with which the written model is going to run.
        threads: threads of onnxruntime.
        seed: of the inputs.
        folder: where builds go, each into a folder of its own: a library that is loaded must not change.
        stem: name of source and library.
        say: told what is going on.
        cache: use compiled kernels that are kept, and keep these.
        lost: what was taken out again so far.
        times: measured seconds by the nodes that a call replaces.
        apart: measured seconds of nodes without fusion, by name.
        libraries: builds so far, by whether they are portable and the names and shapes of their fused operators.
    """

    unfused: onnx.ModelProto
    original: onnx.ModelProto
    context: Context
    accept: Accept
    level: Optimization
    threads: int
    seed: int
    folder: Path
    stem: str
    say: Progress
    cache: bool = True
    lost: list[Lost] = field(default_factory=list)
    times: dict[Nodes, Seconds] = field(default_factory=dict)
    apart: dict[str, float] = field(default_factory=dict)
    libraries: dict[tuple[object, ...], Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.observed: tuple[Observed, ...] = self.context.observed
        self.graph: OperatorGraph = self.context.captures[0].graph
        self.given = measure.cases(self.original, self.observed, self.seed)
        self.run_seconds = run_seconds(self._open(self.unfused, None), self.given)

    def _open(self, model: onnx.ModelProto, kernels: Path | None) -> InferenceSession:
        return open_session(model, optimization=self.level, threads=self.threads, kernels=kernels)

    def run(self, fuse: Fuse) -> Verdicts:
        """Fuse, build, check, measure; what fails gives way to what it kept from being chosen, a few times over."""
        fusions: tuple[Fusion, ...] = ()
        kept: tuple[Fusion, ...] = ()
        refused: tuple[Refusal, ...] = ()
        self.say("looking for candidates")
        candidates = fuse.candidates(self.context.captures, self.context)
        for number in range(MOST_ROUNDS):
            self.say(f"choosing fusions (round {number + 1})")
            chosen = fuse.choose(candidates, self.context.captures, self._context())
            fusions, refused = chosen.made, chosen.refused
            if not fusions or (self.times and all(nodes in self.times for f in fusions for nodes in f.sets)):
                break  # nothing new: all of them have shown before that they pay
            if self.apart and self._unmeasured_seconds(fusions) < LEAST_CHANCE * self.run_seconds:
                refused = (*refused, *self._untried(fusions))
                fusions = kept
                break
            library = self._build(fusions)
            before = len(self.lost)
            fusions = self._right(fusions, library)
            if self.accept == "measured" and fusions:
                fusions = self._fast(fusions, library)
            kept = fusions
            if len(self.lost) == before:
                break
        if fusions:
            verdicts = self._verdicts(fusions, refused)
            if self.accept != "measured" or not verdicts.fusions or self._pays(verdicts):
                return verdicts
            fewer = self._clear_winners(verdicts)
            if fewer is not None:
                return fewer
        return Verdicts(self.unfused, None, (), {}, tuple(self.lost), refused)

    def _context(self) -> Context:
        wrong = {entry.fusion.identity: entry.reason for entry in self.lost if entry.times is None}
        slow = frozenset(nodes for entry in self.lost if entry.times is not None for nodes in entry.fusion.sets)
        return replace(self.context, excluded=wrong, excluded_sets=slow)

    def _build(self, fusions: Sequence[Fusion], portable: bool = False) -> Path:
        sources = self.context.sources
        operators = [kernel_generator.FusedOperator(f.name, f.body, f.shapes, sources.get(f.name, "")) for f in fusions]
        operators.sort(key=lambda operator: operator.name)
        key = (portable, *((operator.name, repr(operator.shapes)) for operator in operators))
        if key not in self.libraries:
            self.say(f"building {len(fusions)} kernels")
            folder = Path(tempfile.mkdtemp(dir=self.folder, prefix="build-"))
            self.libraries[key] = kernel_generator.build_library(
                operators, folder, self.stem, portable=portable, cache=self.cache
            )
        return self.libraries[key]

    def _rewritten(self, fusions: Sequence[Fusion]) -> tuple[onnx.ModelProto, dict[Nodes, str]]:
        """The model with these fused operators, and the name of each call by the nodes that it replaces."""
        chosen = [extraction for fusion in fusions for extraction in fusion.occurrences]
        if not chosen:
            return self.unfused, {}
        capture = self.context.captures[0]
        model = rewrite(self.unfused, self.graph, chosen, capture=capture, source=self.context.source)
        nodes = (node for graph in every_graph(model.graph) for node in graph.node)
        callers = {node.output[0]: node.name for node in nodes if node.output}
        return model, {tuple(sorted(e.nodes)): callers[e.outputs[0]] for e in chosen}

    # ------------------------------------------------------------------------------------------------- numbers

    def _right(self, fusions: Sequence[Fusion], library: Path) -> tuple[Fusion, ...]:
        """Those that leave the numbers as they are; the others are lost, found by halving."""
        kept: list[Fusion] = []

        def sift(group: Sequence[Fusion], problem: str | None) -> None:
            if problem is None:
                kept.extend(group)
            elif len(group) == 1:
                self.lost.append(Lost(group[0], f"not the same model: {problem}"))
            else:
                self.say("looking for the kernel that gives other numbers")
                for half in (group[: len(group) // 2], group[len(group) // 2 :]):
                    sift(half, self._difference([*kept, *half], library))

        sift(fusions, self._difference(fusions, library))
        return tuple(kept)

    def _difference(self, fusions: Sequence[Fusion], library: Path) -> str | None:
        """What differs with these fused operators; None when nothing does."""
        model, _ = self._rewritten(fusions)
        try:
            found = self._compared(model, library)
        except GraphoptError as error:
            return str(error)
        for case in found.cases:
            if case.verdict == Verdict.DIFFERENT:
                reasons = [f"{o.name}: {o.reason}" for o in case.outputs if o.verdict == Verdict.DIFFERENT]
                at = f" at batch {case.batch}" if case.batch is not None else ""
                return (case.reason or "; ".join(reasons[:2]) or "outputs differ") + at
        return None

    def _compared(self, model: onnx.ModelProto, library: Path) -> Verification:
        """The numbers of a model with kernels against those without, in a child process."""

        def work() -> Verification:
            before, after = self._open(self.unfused, None), self._open(model, library)
            return measure.same_numbers(before, after, self.original, self.observed, self.seed)

        return isolated(work, measure.CHILD_SECONDS, "the model with fused operators")

    # ------------------------------------------------------------------------------------------------- times

    def _fast(self, fusions: Sequence[Fusion], library: Path) -> tuple[Fusion, ...]:
        """Those that are faster than what they replace, with the calls that are; the others are lost."""
        new = [fusion for fusion in fusions if not all(nodes in self.times for nodes in fusion.sets)]
        self.say(f"measuring {len(new)} kernels")
        try:
            self._time(new, library)
        except DiedError as error:
            for fusion in new:
                self.lost.append(Lost(fusion, str(error)))
            return tuple(fusion for fusion in fusions if fusion not in new)
        self._log(new)
        kept: list[Fusion] = [fusion for fusion in fusions if fusion not in new]
        tried: list[Fusion] = []
        for fusion in new:
            good = self._winning_calls(fusion)
            if bad := frozenset(fusion.sets) - good:
                self._lose(restricted(fusion, bad), "lost in measurement")
            if good:
                tried.append(restricted(fusion, good))
        return (*kept, *(self._fast_alone(tried, library) if self.run_seconds < SHORT_RUN else tried))

    def _time(self, fusions: Sequence[Fusion], library: Path) -> None:
        """Measure the calls of some fused operators, in more turns where the machine disturbed those that decide.

        Raises:
            DiedError: a session crashed.
        """
        model, calls = self._rewritten(fusions)
        names = {self.graph.nodes[index].name for nodes in calls for index in nodes}
        measured: list[list[dict[str, Turns]]] = []
        for number in range(1 + MOST_REPEATS):
            measured.append(
                isolated(
                    lambda: measure.node_turns(
                        [(self.unfused, None), (model, library)],
                        self.given,
                        threads=self.threads,
                        run_seconds=self.run_seconds,
                        inside=names | set(calls.values()),
                    ),
                    measure.CHILD_SECONDS,
                    "the model with fused operators",
                )
            )
            apart, fused = (measure.joined(tables) for tables in zip(*measured, strict=True))
            unseen = np.zeros(measure.REPEATS * len(measured))
            for nodes, call in calls.items():
                replaced = [apart.get(self.graph.nodes[index].name, unseen) for index in nodes]
                self.times[nodes] = Seconds.of(replaced, fused.get(call, unseen))
            self.apart.update((name, float(turns.min())) for name, turns in apart.items())
            undecided = [
                fusion
                for fusion in fusions
                if is_undecided(seconds := self._seconds(fusion), self._least(fusion))
                and at_stake(seconds) > LEAST_STAKE * self.run_seconds
            ]
            if not undecided:
                break
            if number < MOST_REPEATS:
                self.say(f"measuring again: {len(undecided)} kernels are undecided")

    def _unmeasured_seconds(self, fusions: Sequence[Fusion]) -> float:
        """Measured seconds of the nodes that calls would replace which were not measured yet."""
        new = {index for fusion in fusions for nodes in fusion.sets if nodes not in self.times for index in nodes}
        return sum(self.apart.get(self.graph.nodes[index].name, 0.0) for index in new)

    def _untried(self, fusions: Sequence[Fusion]) -> list[Refusal]:
        """The calls that were not measured yet, as refusals."""
        return [
            Refusal(nodes, "takes too little of a run to be tried", before - after)
            for fusion in fusions
            for nodes, (before, after) in zip(fusion.sets, fusion.predicted, strict=True)
            if nodes not in self.times
        ]

    def _least(self, fusion: Fusion) -> float:
        """How many times faster a kernel has to be at least."""
        alone = len(fusion.body.nodes) == 1 and not multiplies(fusion.body, 0)
        return 1 / (CLEARLY_FASTER if alone else FASTER)

    def _winning_calls(self, fusion: Fusion) -> frozenset[Nodes]:
        """The calls that stay, by the nodes that they replace.

        One that pays gives up only the calls that clearly lose; one that does not keeps those that clearly win. A
        kernel of a single operator must win clearly: it saves no traffic, so there is nothing else to gain. Products
        take long enough to trust less.
        """
        total = self._seconds(fusion)
        limit = CLEARLY_SLOWER if total.after < FASTER * total.before else CLEARLY_FASTER
        if len(fusion.body.nodes) == 1:
            limit = FASTER if multiplies(fusion.body, 0) else CLEARLY_FASTER
        return frozenset(n for n in fusion.sets if self.times[n].after < limit * self.times[n].before)

    def _log(self, fusions: Sequence[Fusion]) -> None:
        """Keep what was predicted and what was measured, where all times are of one set of shapes."""
        if len(self.context.captures) != 1:
            return
        capture, machine = self.context.captures[0], self.context.machine
        prediction_log.append(
            [
                prediction_log.Record(
                    standalone(capture, extraction),
                    machine.name if machine is not None else "",
                    self.threads,
                    "apply",
                    predicted,
                    (seconds.before, seconds.after),
                )
                for fusion in fusions
                for extraction, predicted in zip(fusion.occurrences, fusion.predicted, strict=True)
                if (seconds := self.times[tuple(sorted(extraction.nodes))]).before > 0.0 < seconds.after
                and not capture.graph.nodes[extraction.nodes[0]].scope  # which runs other than once
            ]
        )

    def _fast_alone(self, fusions: Sequence[Fusion], library: Path) -> list[Fusion]:
        """Those that make whole runs faster in every block, each tried alone; the others are lost.

        Nodes that multiply by the same weights share them in the caches as long as all of them are kernels, or none:
        where products lose alone, all are tried together.
        """
        kept: list[Fusion] = []
        slow: list[tuple[Fusion, str]] = []
        for start in range(0, len(fusions), MOST_AT_ONCE):
            group = fusions[start : start + MOST_AT_ONCE]
            models = {fusion.identity: self._rewritten([fusion])[0] for fusion in group}

            def opened(models: Mapping[str, onnx.ModelProto] = models) -> dict[str, InferenceSession]:
                alone = {identity: self._open(model, library) for identity, model in models.items()}
                return {"unfused": self._open(self.unfused, None), **alone}

            ratios = measure.speedups(opened, self.given, "unfused")
            for fusion in group:
                least, greatest = ratios[fusion.identity]
                if least > 1.0:
                    kept.append(fusion)
                else:
                    slow.append((fusion, f"whole runs are {least:.3f} to {greatest:.3f} times as fast"))
        if any(multiplies(fusion.body, number) for fusion, _ in slow for number in range(len(fusion.body.nodes))):
            models = {name: self._rewritten(some)[0] for name, some in (("kept", kept), ("together", fusions)) if some}

            def both() -> dict[str, InferenceSession]:
                opened = {name: self._open(model, library) for name, model in models.items()}
                return {"unfused": self._open(self.unfused, None), **opened}

            ratios = measure.speedups(both, self.given, "unfused")
            if ratios["together"][0] > ratios.get("kept", (1.0, 1.0))[1]:
                return list(fusions)
        for fusion, seen in slow:
            self._lose(fusion, f"lost in measurement of whole runs: {seen}")
        return kept

    def _seconds(self, fusion: Fusion) -> Seconds:
        return Seconds.total(self.times[nodes] for nodes in fusion.sets if nodes in self.times)

    def _lose(self, fusion: Fusion, reason: str) -> None:
        self.lost.append(Lost(fusion, reason, self._seconds(fusion)))

    # ----------------------------------------------------------------------------------------------- the last word

    def _verdicts(self, fusions: Sequence[Fusion], refused: tuple[Refusal, ...]) -> Verdicts:
        """Build exactly these, for every level of instruction sets, and compare numbers once more."""
        library = self._build(fusions, portable=True)
        model, _ = self._rewritten(fusions)
        found = self._compared(model, library)
        if not found.passed:
            self.lost += [Lost(fusion, "not the same model: together with others") for fusion in fusions]
            return Verdicts(self.unfused, None, (), {}, tuple(self.lost), refused)
        times = {f.identity: self._seconds(f) for f in fusions} if self.times else {}
        return Verdicts(model, library, tuple(fusions), times, tuple(self.lost), refused, found)

    def _pays(self, verdicts: Verdicts) -> bool:
        """Whether whole runs are faster: beyond doubt by what the nodes save, or timed."""
        saved = sum(seconds.before - seconds.after for seconds in verdicts.times.values())
        if self.run_seconds >= SHORT_RUN and saved > CLEAR_SAVING * self.run_seconds:
            return True  # the comparison with the original is still to come
        self.say("timing whole runs")

        def opened() -> dict[str, InferenceSession]:
            return {
                "unfused": self._open(self.unfused, None),
                "fused": self._open(verdicts.model, verdicts.library),
            }

        return measure.compare(opened, self.given, "fused")["unfused"].faster

    def _clear_winners(self, verdicts: Verdicts) -> Verdicts | None:
        """Clear winners only, where whole runs are faster with those; None otherwise, and all are lost."""
        reason = "the model as a whole is not faster with it"
        winners = []
        for fusion in verdicts.fusions:
            seconds = self._seconds(fusion)
            if seconds.after < CLEARLY_FASTER * seconds.before:
                winners.append(fusion)
            else:
                self._lose(fusion, reason)
        if winners and len(winners) < len(verdicts.fusions):
            fewer = self._verdicts(winners, verdicts.refused)
            if fewer.fusions and self._pays(fewer):
                return fewer
        for fusion in winners:
            self._lose(fusion, reason)
        return None


def is_undecided(seconds: Seconds, least: float) -> bool:
    """Whether the interval of how many times faster a kernel is is wide, and holds the least that it has to be."""
    interval = seconds.interval
    return interval is not None and interval[0] < least < interval[1] and interval[1] > WIDE * interval[0]


def at_stake(seconds: Seconds) -> float:
    """Seconds that a wrong decision may cost: those lost at the low end of the interval, or missed at its high end."""
    low, high = seconds.interval or (1.0, 1.0)
    return seconds.before * max(1 / low - 1, 1 - 1 / high)


def run_seconds(session: InferenceSession, given: Sequence[measure.Case]) -> float:
    """How long a run takes, at the shapes that take longest: the shortest of some after the first.

    Raises:
        GraphoptError: the model does not run.
    """
    seconds = 0.0
    known = {value.name for value in session.get_inputs()}
    for case in given:
        feeds = {name: array for name, array in case.feeds.items() if name in known}
        try:
            session.run(None, feeds)
            taken = []
            for _ in range(TIMED_RUNS):
                start = time.perf_counter()
                session.run(None, feeds)
                taken.append(time.perf_counter() - start)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise GraphoptError(f"the model does not run: {' '.join(str(error).split())[:300]}") from None
        seconds = max(seconds, min(taken))
    return seconds
