"""What ``apply`` measures: seconds per node with and without fusions, whether the numbers agree, and whole runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from graphopt import models
from graphopt.passes.base import Observed
from graphopt.passes.plan import Comparison
from graphopt.runtime.bench import Benchmark, bench
from graphopt.runtime.profile import node_seconds
from graphopt.runtime.verify import Verification, verify

Feeds = Mapping[str, NDArray[np.generic]]

REPEATS = 3
PROFILE_RUNS = 8
"""Runs per turn."""
MOST_PROFILE_SECONDS = 4.0
"""Rough limit on the profiled time of one model; slow ones are profiled with fewer runs."""

BENCH_SECONDS = 1.5
MOST_BENCH_SECONDS = 10.0

OTHER_BATCHES = (1, 3)
"""Batch sizes at which numbers are compared besides the captured ones, where the batch is free."""


@dataclass(frozen=True)
class Seconds:
    """Seconds per execution of operators one by one, and as one kernel."""

    before: float
    after: float


@dataclass(frozen=True)
class Case:
    """One set of captured shapes with inputs for it."""

    observed: Observed
    feeds: Feeds


def cases(model: onnx.ModelProto, observed: Sequence[Observed], seed: int) -> tuple[Case, ...]:
    """Seeded inputs for every set of captured shapes."""
    return tuple(
        Case(entry, models.seeded_inputs(model, entry.shapes, ranges=entry.ranges or None, seed=seed))
        for entry in observed
    )


def average_node_seconds(
    variants: Sequence[tuple[onnx.ModelProto, Path | None]], given: Sequence[Case], *, threads: int, run_seconds: float
) -> list[dict[str, float]]:
    """Seconds per execution of each node of some models, averaged over the captured shapes by executions.

    The models take turns, REPEATS times each, and the fastest turn of a node counts: what else the machine does
    meanwhile slows some turns of all of them.

    Args:
        variants: (model with unique node names, its kernel library) each.
        given: inputs to run with.
        threads: threads within an operator.
        run_seconds: about how long a run takes: it decides how many are made.

    Returns:
        Seconds by node for each model.
    """
    runs = int(min(PROFILE_RUNS, max(2, MOST_PROFILE_SECONDS / max(run_seconds, 1e-6) / REPEATS)))
    if run_seconds < 2e-3:
        runs = 4 * PROFILE_RUNS  # short ones are noisy, and cheap
    executions = sum(case.observed.executions for case in given)
    totals: list[dict[str, float]] = [{} for _ in variants]
    for case in given:
        best: list[dict[str, float]] = [{} for _ in variants]
        for _ in range(REPEATS):
            for (model, kernels), table in zip(variants, best, strict=True):
                seconds = node_seconds(model, case.feeds, kernels=kernels, runs=runs, threads=threads)
                table.update({name: min(value, table.get(name, value)) for name, value in seconds.items()})
        for table, total in zip(best, totals, strict=True):
            for name, value in table.items():
                total[name] = total.get(name, 0.0) + value * case.observed.executions / executions
    return totals


def same_numbers(
    unfused: InferenceSession,
    fused: InferenceSession,
    model: onnx.ModelProto,
    observed: Sequence[Observed],
    seed: int,
    *,
    batches: Sequence[int] = OTHER_BATCHES,
) -> Verification:
    """Compare outputs at the captured shapes, and at other batch sizes where the model leaves the batch free."""
    found = [
        verify(
            unfused,
            fused,
            [entry.shapes],
            batches=batches,
            model=model,
            ranges=entry.ranges or None,
            seed=seed,
        )
        for entry in observed
    ]
    return Verification(tuple(case for verification in found for case in verification.cases))


def compare(
    sessions: Mapping[str, InferenceSession], given: Sequence[Case], candidate: str, *, seconds: float | None = None
) -> dict[str, Comparison]:
    """Time whole runs, alternating, at every set of captured shapes.

    Args:
        sessions: by name; the candidate is one of them.
        given: inputs.
        candidate: what the others are compared with.
        seconds: time to spend on each set of shapes, all sessions together; BENCH_SECONDS when left out.

    Returns:
        For each other session, how much faster the candidate is.
    """
    executions = sum(case.observed.executions for case in given)
    seconds = BENCH_SECONDS if seconds is None else seconds
    baselines = [name for name in sessions if name != candidate]
    before = dict.fromkeys(baselines, 0.0)
    low, high = dict.fromkeys(baselines, 0.0), dict.fromkeys(baselines, 0.0)
    calm = dict.fromkeys(sessions, 0.0)
    after = 0.0
    for case in given:
        weight = case.observed.executions / executions
        result = bench(
            {**{name: sessions[name] for name in baselines}, candidate: sessions[candidate]},
            case.feeds,
            min_seconds=seconds,
            max_seconds=max(MOST_BENCH_SECONDS, seconds),
            max_rounds=400,
        )
        middle = result.timing(candidate).median
        after += weight * middle
        for name in sessions:
            calm[name] += weight * _undisturbed(result, name)
        for name in baselines:
            ratio = result.ratio(name, candidate)
            before[name] += weight * result.timing(name).median
            low[name] += weight * middle * ratio.low
            high[name] += weight * middle * ratio.high
    return {
        name: Comparison(
            name,
            before[name],
            after,
            before[name] / after,
            low[name] / after,
            high[name] / after,
            calm[name] / calm[candidate],
        )
        for name in baselines
    }


def speedups(sessions: Mapping[str, InferenceSession], given: Sequence[Case], baseline: str) -> dict[str, float]:
    """For each session but the baseline, how many times faster whole runs are; all are timed alternating.

    Args:
        sessions: by name; the baseline is one of them.
        given: inputs.
        baseline: what the others are compared with.
    """
    executions = sum(case.observed.executions for case in given)
    total = dict.fromkeys(sessions, 0.0)
    for case in given:
        result = bench(sessions, case.feeds, min_seconds=BENCH_SECONDS, max_seconds=MOST_BENCH_SECONDS, max_rounds=300)
        for name in sessions:
            total[name] += _undisturbed(result, name) * case.observed.executions / executions
    return {name: total[baseline] / seconds for name, seconds in total.items() if name != baseline}


def _undisturbed(result: Benchmark, name: str) -> float:
    """Seconds that a quarter of the runs stay below."""
    return float(np.quantile(result.timing(name).samples, 0.25))
