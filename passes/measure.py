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
from graphopt.passes.fuse import Fusion
from graphopt.passes.plan import Comparison
from graphopt.runtime.bench import bench
from graphopt.runtime.profile import node_seconds
from graphopt.runtime.verify import Verification, verify

Feeds = Mapping[str, NDArray[np.generic]]

PROFILE_RUNS = 12
MOST_PROFILE_SECONDS = 4.0
"""Rough limit on the time of one profile; slow models are profiled with fewer runs."""

BENCH_SECONDS = 1.5
MOST_BENCH_SECONDS = 10.0

OTHER_BATCHES = (1, 3)
"""Batch sizes at which numbers are compared besides the captured ones, where the batch is free."""


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
    model: onnx.ModelProto, given: Sequence[Case], *, kernels: Path | None, threads: int, run_seconds: float
) -> dict[str, float]:
    """Seconds per execution of each node, averaged over the captured shapes by executions.

    Args:
        model: node names are unique.
        given: inputs to run with.
        kernels: kernel library, where the model has fused operators.
        threads: threads within an operator.
        run_seconds: about how long a run takes: it decides how many are made.
    """
    runs = int(min(PROFILE_RUNS, max(3, MOST_PROFILE_SECONDS / max(run_seconds, 1e-6))))
    if run_seconds < 2e-3:
        runs = 5 * PROFILE_RUNS  # short ones are noisy, and cheap
    executions = sum(case.observed.executions for case in given)
    total: dict[str, float] = {}
    for case in given:
        seconds = node_seconds(model, case.feeds, kernels=kernels, runs=runs, threads=threads)
        for name, value in seconds.items():
            total[name] = total.get(name, 0.0) + value * case.observed.executions / executions
    return total


def fusion_seconds(
    fusion: Fusion, node_names: Mapping[int, str], apart: Mapping[str, float], fused: Mapping[str, float]
) -> tuple[float, float]:
    """(seconds of the replaced operators, seconds of the calls), all occurrences.

    Args:
        fusion: the fused operator.
        node_names: name by index in the graph before fusion.
        apart: seconds by node before.
        fused: seconds by node after.
    """
    before = sum(
        apart.get(node_names[index], 0.0) for extraction in fusion.occurrences for index in extraction.nodes
    )
    return before, sum(fused.get(call, 0.0) for call in fusion.calls)


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
    sessions: Mapping[str, InferenceSession], given: Sequence[Case], candidate: str, *, seconds: float = BENCH_SECONDS
) -> dict[str, Comparison]:
    """Time whole runs, alternating, at every set of captured shapes.

    Args:
        sessions: by name; the candidate is one of them.
        given: inputs.
        candidate: what the others are compared with.
        seconds: time to spend on each set of shapes, all sessions together.

    Returns:
        For each other session, how much faster the candidate is.
    """
    executions = sum(case.observed.executions for case in given)
    baselines = [name for name in sessions if name != candidate]
    before = dict.fromkeys(baselines, 0.0)
    low, high = dict.fromkeys(baselines, 0.0), dict.fromkeys(baselines, 0.0)
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
        for name in baselines:
            ratio = result.ratio(name, candidate)
            before[name] += weight * result.timing(name).median
            low[name] += weight * middle * ratio.low
            high[name] += weight * middle * ratio.high
    return {
        name: Comparison(name, before[name], after, before[name] / after, low[name] / after, high[name] / after)
        for name in baselines
    }
