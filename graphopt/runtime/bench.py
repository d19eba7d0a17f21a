"""Timing models against each other in one process: alternating runs, spread and the interval of the ratio.

A round visits every model once in a drawn order and once in the reverse order (C A B B A C): a machine that gets slower
or faster meanwhile weighs on all of them alike, and no model always follows the same other. A server runs one model
again and again, so short models are timed warm: each visit runs them once untimed, then several times.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.session import one_line

CONFIDENCE = 0.95
RESAMPLES = 1000
LARGEST_BOOTSTRAP = 500
"""Rounds that the bootstrap looks at; of more, evenly spaced ones are taken."""

WARM_BELOW = 10e-3
"""Seconds of a run below which a visit starts with an untimed run: what other models left in the caches would show."""
VISIT = 2e-3
"""Seconds that a visit should last; shorter models run several times."""
MOST_RUNS_PER_VISIT = 10


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
        rounds: rounds made; each visited every model twice, so a timing's samples are those of the first round, then of
            the second, and so on, equally many.
        seed: of the order and of the bootstrap.
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
        samples stay together, in both models, so what disturbed a round disturbs both sides of the ratio. It covers the
        spread within these sessions: opened anew, with other places in memory, the same pair can lie a percent off.
        """
        first = np.array(self.timing(baseline).samples)
        second = np.array(self.timing(candidate).samples)
        ratio = float(np.median(first) / np.median(second))
        low, high = _interval(first.reshape(self.rounds, -1), second.reshape(self.rounds, -1), self.seed)
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
    progress: Callable[[str], None] | None = None,
) -> Benchmark:
    """Time models on the same inputs, alternating, in this process.

    Args:
        sessions: what to time, by name: sessions, or functions of the feeds. The candidate stands last.
        feeds: input name to array, for all; or by model name, where their inputs differ.
        min_seconds: time to spend, all models together, before stopping.
        min_rounds: rounds to make, however long they take.
        max_rounds: rounds to make at most.
        max_seconds: stop after this time even with fewer rounds (never below 3); None for no limit.
        warmup: untimed runs of each model before.
        seed: for the order of the visits and the interval's bootstrap.
        progress: told, between rounds and about once a second, how far it is.

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
    slowest = max(_warm_up(name, run, warmup) for name, run in zip(names, runs, strict=True))
    repeats = min(max(1, int(VISIT / max(slowest, 1e-9))), MOST_RUNS_PER_VISIT)
    generator = np.random.default_rng(seed)
    collecting = gc.isenabled()
    gc.disable()  # a collection in the middle of a run is no property of the model
    rounds, start, told = 0, time.perf_counter(), 0.0
    try:
        while rounds < max_rounds:
            spent = time.perf_counter() - start
            if rounds >= min_rounds and spent >= min_seconds:
                break
            if max_seconds is not None and rounds >= 3 and spent >= max_seconds:
                break
            if progress is not None and spent - told >= 1:
                told = spent
                progress(f"timing, {rounds} rounds in {spent:.0f} s")
            order = generator.permutation(len(names)).tolist()
            for position in (*order, *reversed(order)):
                run = runs[position]
                if slowest < WARM_BELOW:
                    run()
                for _ in range(repeats):
                    before = time.perf_counter_ns()
                    run()
                    samples[position].append((time.perf_counter_ns() - before) * 1e-9)
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return Benchmark(tuple(_timing(n, s) for n, s in zip(names, samples, strict=True)), rounds, seed)


def _warm_up(name: str, run: Callable[[], object], times: int) -> float:
    """Run untimed; returns the seconds of the fastest run."""
    fastest = float("inf")
    try:
        for _ in range(max(1, times)):
            before = time.perf_counter()
            run()
            fastest = min(fastest, time.perf_counter() - before)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise GraphoptError(f"{name}: does not run: {one_line(error)}") from None
    return fastest


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
    """Percentile interval of the ratio of medians; rows are rounds."""
    rounds = len(first)
    if rounds > LARGEST_BOOTSTRAP:
        rows = np.linspace(0, rounds - 1, LARGEST_BOOTSTRAP).astype(int)
        first, second, rounds = first[rows], second[rows], LARGEST_BOOTSTRAP
    generator = np.random.default_rng(seed)
    ratios = []
    for _ in range(RESAMPLES):
        picks = generator.integers(0, rounds, rounds)
        ratios.append(np.median(first[picks]) / np.median(second[picks]))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)
