"""What ``apply`` measures: seconds per node with and without fusions, whether the numbers agree, and whole runs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from graphopt import models
from graphopt.passes.base import Observed
from graphopt.passes.isolated import isolated
from graphopt.passes.plan import Comparison
from graphopt.passes.seconds import Turns, ratio_interval
from graphopt.runtime import profile
from graphopt.runtime.bench import bench
from graphopt.runtime.verify import Verification, verify

Feeds = Mapping[str, NDArray[np.generic]]

REPEATS = 3
PROFILE_RUNS = 8
"""Runs per turn."""
FEWEST_PROFILE_RUNS = 2
MOST_PROFILE_SECONDS = 0.9
"""Rough limit on the profiled time of one model; slow ones are profiled with fewer runs."""

BENCH_SECONDS = 0.4
"""Time to spend on one comparison within one block, all sessions together."""
MOST_BENCH_SECONDS = 3.0
FEWEST_BLOCKS, MOST_BLOCKS = 4, 8
"""Blocks of a comparison: each opens its sessions anew, because the same session opened again lies a percent off."""
ALONE_BLOCKS = 3
"""Blocks in which a fused operator is tried alone."""
NARROW = 0.004
"""Half-width of an interval below which more blocks would tell nothing that matters."""
CHILD_SECONDS = 600.0
"""Time after which measuring is given up."""

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


def node_turns(
    variants: Sequence[tuple[onnx.ModelProto, Path | None]],
    given: Sequence[Case],
    *,
    threads: int,
    run_seconds: float,
    inside: Collection[str] = (),
) -> list[dict[str, Turns]]:
    """Seconds per execution of each node of some models, averaged over the captured shapes by executions.

    The models take turns, REPEATS times each.

    Args:
        variants: (model with unique node names, its kernel library) each.
        given: inputs to run with.
        threads: threads within an operator.
        run_seconds: about how long a run takes: it decides how many are made.
        inside: names of nodes of bodies that are wanted too.

    Returns:
        By node for each model, the seconds of each turn, shape (REPEATS,).
    """
    seconds = MOST_PROFILE_SECONDS / REPEATS
    runs = int(min(PROFILE_RUNS, max(FEWEST_PROFILE_RUNS, seconds / max(run_seconds, 1e-6))))
    if run_seconds < 2e-3:
        runs = 4 * PROFILE_RUNS  # short ones are noisy, and cheap
    executions = sum(case.observed.executions for case in given)
    tables: list[dict[str, Turns]] = [{} for _ in variants]
    for case in given:
        share = case.observed.executions / executions
        found = profile.node_turns(
            variants, case.feeds, turns=REPEATS, runs=runs, threads=threads, most_seconds=seconds, inside=inside
        )
        for table, turns in zip(tables, found, strict=True):
            for name, values in turns.items():
                table[name] = table.get(name, 0.0) + values * share
    return tables


def joined(tables: Sequence[Mapping[str, Turns]]) -> dict[str, Turns]:
    """Turns of several measurements one after the other, by node; zeros where one has no time of a node."""
    names = dict.fromkeys(name for table in tables for name in table)
    unseen = np.zeros(REPEATS)
    return {name: np.concatenate([table.get(name, unseen) for table in tables]) for name in names}


def same_numbers(
    unfused: InferenceSession,
    fused: InferenceSession,
    model: onnx.ModelProto,
    observed: Sequence[Observed],
    seed: int,
) -> Verification:
    """Compare outputs at the captured shapes, and at other batch sizes where the model leaves the batch free."""
    found = [
        verify(
            unfused,
            fused,
            [entry.shapes],
            batches=OTHER_BATCHES,
            model=model,
            ranges=entry.ranges or None,
            seed=seed,
        )
        for entry in observed
    ]
    return Verification(tuple(case for verification in found for case in verification.cases))


def compare(
    open_sessions: Callable[[], Mapping[str, InferenceSession]],
    given: Sequence[Case],
    candidate: str,
    *,
    seconds: float | None = None,
    most_blocks: int = MOST_BLOCKS,
) -> dict[str, Comparison]:
    """Time whole runs, alternating, at every set of captured shapes, in blocks that open the sessions anew.

    Each block is a child process. There are FEWEST_BLOCKS at least, and more until the interval says which is faster or
    is NARROW. The interval is Student's, over the logarithms of the blocks' ratios of undisturbed runs: it covers what
    opening a session anew changes as well as what the machine does meanwhile.

    Args:
        open_sessions: opens the sessions, by name; the candidate is one of them.
        given: inputs.
        candidate: what the others are compared with.
        seconds: time to spend on each set of shapes in a block, all sessions together; BENCH_SECONDS when left out.
        most_blocks: how long to go on while the interval does not say which is faster.

    Returns:
        For each other session, how much faster the candidate is.

    Raises:
        DiedError: a session crashed.
    """
    spent = BENCH_SECONDS if seconds is None else seconds
    blocks: list[dict[str, float]] = []
    found: dict[str, Comparison] = {}
    while len(blocks) < max(most_blocks, FEWEST_BLOCKS):
        block = isolated(lambda: _block(open_sessions(), given, spent), CHILD_SECONDS, "the model with fused operators")
        blocks.append(block)
        if len(blocks) < FEWEST_BLOCKS:
            continue
        found = {name: _comparison(name, candidate, blocks) for name in block if name != candidate}
        if all(entry.decided or entry.high / entry.low < 1 + 2 * NARROW for entry in found.values()):
            break
    return found


def _block(sessions: Mapping[str, InferenceSession], given: Sequence[Case], seconds: float) -> dict[str, float]:
    """Seconds that a quarter of each session's runs stay below, averaged over the captured shapes by executions.

    What else runs on the machine disturbs them less than it does the median.
    """
    executions = sum(case.observed.executions for case in given)
    found = dict.fromkeys(sessions, 0.0)
    for case in given:
        result = bench(
            sessions,
            case.feeds,
            min_seconds=seconds,
            max_seconds=max(MOST_BENCH_SECONDS, seconds),
            min_rounds=5,
            max_rounds=400,
        )
        for name in sessions:
            undisturbed = float(np.quantile(result.timing(name).samples, 0.25))
            found[name] += undisturbed * case.observed.executions / executions
    return found


def _comparison(baseline: str, candidate: str, blocks: Sequence[Mapping[str, float]]) -> Comparison:
    """Geometric means of the blocks, so that the ratio is that of the times."""
    ratio, low, high = ratio_interval([block[baseline] / block[candidate] for block in blocks])
    before, after = (
        float(np.exp(np.mean([np.log(block[name]) for block in blocks]))) for name in (baseline, candidate)
    )
    return Comparison(baseline, before, after, ratio, low, high, len(blocks))


def speedups(
    open_sessions: Callable[[], Mapping[str, InferenceSession]], given: Sequence[Case], baseline: str
) -> dict[str, tuple[float, float]]:
    """For each session but the baseline, how many times faster whole runs are: the least and the greatest of blocks.

    Args:
        open_sessions: opens the sessions, by name; the baseline is one of them.
        given: inputs.
        baseline: what the others are compared with.

    Raises:
        DiedError: a session crashed.
    """
    what = "a model with one fused operator"
    blocks = [
        isolated(lambda: _block(open_sessions(), given, BENCH_SECONDS), CHILD_SECONDS, what)
        for _ in range(ALONE_BLOCKS)
    ]
    ratios = {name: [block[baseline] / block[name] for block in blocks] for name in blocks[0] if name != baseline}
    return {name: (min(values), max(values)) for name, values in ratios.items()}
