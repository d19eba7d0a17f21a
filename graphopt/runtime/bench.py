"""Timing models against each other in one process: alternating runs, spread and the interval of the ratio.

Runs alternate in palindromes (A B C C B A): a machine that gets slower or faster meanwhile weighs on all of them alike.
Each round is one pair of samples per model, so the ratio of two models is compared within rounds.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from graphopt import models
from graphopt.errors import GraphoptError
from graphopt.graph import Shape
from graphopt.models import Range
from graphopt.runtime.feeds import Feeds, seeded_inputs
from graphopt.runtime.session import one_line, open_deployed, open_session

CONFIDENCE = 0.95
RESAMPLES = 1000
LARGEST_BOOTSTRAP = 2000
"""Rounds that the bootstrap looks at; of more, evenly spaced ones are taken."""


@dataclass(frozen=True)
class Timing:
    """How long one model's runs took, in seconds of wall-clock time.

    Attributes:
        name: what the caller called it.
        runs: number of timed runs.
        median: middle of the runs.
        mean: arithmetic mean.
        minimum: fastest run.
        maximum: slowest run.
        deviation: standard deviation of the runs (n - 1).
        samples: every run in order, for other statistics; not part of the JSON.
    """

    name: str
    runs: int
    median: float
    mean: float
    minimum: float
    maximum: float
    deviation: float
    samples: tuple[float, ...] = field(repr=False, default=())

    def to_dict(self) -> dict[str, object]:
        """For JSON; times in seconds."""
        return {
            "name": self.name,
            "runs": self.runs,
            "median_seconds": self.median,
            "mean_seconds": self.mean,
            "min_seconds": self.minimum,
            "max_seconds": self.maximum,
            "stdev_seconds": self.deviation,
        }


@dataclass(frozen=True)
class Ratio:
    """How much faster a model is than a baseline.

    Attributes:
        baseline: name of the model that it is compared with.
        candidate: name of the model.
        ratio: median time of the baseline over median time of the candidate; above 1 the candidate is faster.
        low: lower end of the ratio's interval.
        high: upper end.
        confidence: probability that the interval stands for.
    """

    baseline: str
    candidate: str
    ratio: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "baseline": self.baseline,
            "candidate": self.candidate,
            "ratio": self.ratio,
            "low": self.low,
            "high": self.high,
            "confidence": self.confidence,
        }


@dataclass(frozen=True)
class Benchmark:
    """What ``bench`` measured.

    Attributes:
        timings: one per model, in the caller's order.
        rounds: palindromes; each ran every model twice.
        seed: of the bootstrap.
    """

    timings: tuple[Timing, ...]
    rounds: int
    seed: int = 0

    def timing(self, name: str) -> Timing:
        """The timing of one model."""
        for timing in self.timings:
            if timing.name == name:
                return timing
        raise GraphoptError(f"{name}: not among what was timed ({', '.join(t.name for t in self.timings)})")

    def ratio(self, baseline: str, candidate: str) -> Ratio:
        """Median of the baseline over median of the candidate, with a bootstrap interval.

        The interval is the percentile interval of RESAMPLES resamplings of the rounds with replacement; a round's
        samples stay together, in both models, so what disturbed a round disturbs both sides of the ratio.
        """
        first = np.array(self.timing(baseline).samples)
        second = np.array(self.timing(candidate).samples)
        ratio = float(np.median(first) / np.median(second))
        low, high = _interval(first, second, self.seed)
        return Ratio(baseline, candidate, ratio, low, high)

    @property
    def ratios(self) -> tuple[Ratio, ...]:
        """The last model against each of the others: the candidate against its baselines."""
        *baselines, candidate = (timing.name for timing in self.timings)
        return tuple(self.ratio(baseline, candidate) for baseline in baselines)

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "rounds": self.rounds,
            "timings": [timing.to_dict() for timing in self.timings],
            "ratios": [ratio.to_dict() for ratio in self.ratios],
        }


def bench(
    sessions: Mapping[str, InferenceSession | Callable[[Feeds], object]],
    feeds: Feeds | Mapping[str, Feeds],
    *,
    min_seconds: float = 2.0,
    min_rounds: int = 10,
    max_rounds: int = 2000,
    max_seconds: float | None = None,
    warmup: int = 3,
    seed: int = 0,
) -> Benchmark:
    """Time models on the same inputs, alternating, in this process.

    Args:
        sessions: what to time, by name: sessions, or functions of the feeds. The candidate stands last.
        feeds: input name to array, for all; or by model name, where their inputs differ.
        min_seconds: time to spend, all models together, before stopping.
        min_rounds: rounds to make, however long they take.
        max_rounds: rounds to make at most.
        max_seconds: stop after this time even with fewer rounds (never below 3); None for no limit.
        warmup: untimed rounds before.
        seed: for the interval's bootstrap.

    Returns:
        Timings in the order of ``sessions``.

    Raises:
        GraphoptError: a model does not run, or there is none.
    """
    if not sessions:
        raise GraphoptError("nothing to time")
    names = list(sessions)
    runs = [_bound(sessions[name], _feeds_of(feeds, name)) for name in names]
    samples: list[list[float]] = [[] for _ in names]
    order = [*range(len(names)), *reversed(range(len(names)))]
    for position, run in enumerate(runs):
        try:
            for _ in range(max(1, warmup)):
                run()
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise GraphoptError(f"{names[position]}: does not run: {one_line(error)}") from None
    collecting = gc.isenabled()
    gc.disable()  # a collection in the middle of a run is no property of the model
    rounds, start = 0, time.perf_counter()
    try:
        while rounds < max_rounds:
            spent = time.perf_counter() - start
            if rounds >= min_rounds and spent >= min_seconds:
                break
            if max_seconds is not None and rounds >= 3 and spent >= max_seconds:
                break
            for position in order:
                run = runs[position]
                before = time.perf_counter_ns()
                run()
                samples[position].append((time.perf_counter_ns() - before) * 1e-9)
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return Benchmark(tuple(_timing(n, s) for n, s in zip(names, samples, strict=True)), rounds, seed)


def bench_models(
    a: Path,
    b: Path,
    shapes: Mapping[str, Shape],
    *,
    ranges: Mapping[str, Range] | None = None,
    threads: int = 1,
    min_seconds: float = 3.0,
    seed: int = 0,
) -> Benchmark:
    """Time a model against another: what ``graphopt bench A B`` does for one set of shapes.

    Args:
        a: the original; timed with everything that onnxruntime can optimise (``A all``) and with nothing (``A none``).
        b: the candidate; timed as it would be deployed (``B``), with its kernel library.
        shapes: input name to shape.
        ranges: input name to (low, high) of its values.
        threads: threads within an operator.
        min_seconds: time to spend.
        seed: of the inputs.

    Returns:
        Timings ``A all``, ``A none``, ``B``; ratios of B against both others.

    Raises:
        GraphoptError: a model does not open or run, or the shapes contradict it.
    """
    sessions = {
        "A all": open_session(a, optimization="all", threads=threads),
        "A none": open_session(a, optimization="none", threads=threads),
        "B": open_deployed(b, threads=threads),
    }
    feeds = seeded_inputs(models.load(a), shapes, ranges=ranges, seed=seed)
    return bench(sessions, feeds, min_seconds=min_seconds, seed=seed)


def _feeds_of(feeds: Feeds | Mapping[str, Feeds], name: str) -> Feeds:
    own = feeds.get(name)
    return own if isinstance(own, Mapping) else feeds  # type: ignore[return-value]


def _bound(session: InferenceSession | Callable[[Feeds], object], feeds: Feeds) -> Callable[[], object]:
    if isinstance(session, InferenceSession):
        known = {value.name for value in session.get_inputs()}
        own = {name: array for name, array in feeds.items() if name in known}
        return lambda: session.run(None, own)
    return lambda: session(feeds)


def _timing(name: str, samples: Sequence[float]) -> Timing:
    values = np.array(samples)
    return Timing(
        name=name,
        runs=len(samples),
        median=float(np.median(values)),
        mean=float(values.mean()),
        minimum=float(values.min()),
        maximum=float(values.max()),
        deviation=float(values.std(ddof=1)) if len(samples) > 1 else 0.0,
        samples=tuple(samples),
    )


def _interval(first: NDArray[np.float64], second: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Percentile interval of the ratio of medians; rows are rounds of two samples."""
    pairs = np.stack([first.reshape(-1, 2), second.reshape(-1, 2)])
    rounds = pairs.shape[1]
    if rounds > LARGEST_BOOTSTRAP:
        pairs = pairs[:, np.linspace(0, rounds - 1, LARGEST_BOOTSTRAP).astype(int)]
        rounds = LARGEST_BOOTSTRAP
    picks = np.random.default_rng(seed).integers(0, rounds, (RESAMPLES, rounds))
    medians = [np.median(side[picks].reshape(RESAMPLES, -1), axis=1) for side in pairs]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians[0] / medians[1], [tail, 1 - tail])
    return float(low), float(high)
