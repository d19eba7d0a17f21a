"""Timing: order of the runs, statistics, the ratio's interval. No assertion depends on how fast anything is."""

import json

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from graphopt.runtime import bench as bench_module
from graphopt.runtime.bench import Benchmark, Timing, bench
from graphopt.runtime.session import open_session
from tests.runtime_models import fused_model

X = {"x": np.ones((2, 3), np.float32)}


def timing(name: str, samples: list[float]) -> Timing:
    return Timing(name, len(samples), float(np.median(samples)), 0, 0, 0, 0, tuple(samples))


def visits(seed: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The order in which three models ran."""
    order: list[str] = []
    functions = {name: (lambda feeds, name=name: order.append(name)) for name in "ABC"}
    monkeypatch.setattr(bench_module, "WARM_BELOW", 0)
    monkeypatch.setattr(bench_module, "MOST_RUNS_PER_VISIT", 1)
    result = bench(functions, X, min_seconds=0, min_rounds=20, warmup=1, seed=seed)
    assert result.rounds == 20
    assert [t.runs for t in result.timings] == [40, 40, 40]
    assert order[:3] == ["A", "B", "C"]
    return "".join(order[3:])


def test_rounds_are_palindromes_in_a_drawn_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order = visits(0, monkeypatch)
    rounds = [order[start : start + 6] for start in range(0, len(order), 6)]
    assert all(sorted(entry[:3]) == ["A", "B", "C"] and entry[3:] == entry[2::-1] for entry in rounds)
    assert len(set(rounds)) == 6
    assert visits(0, monkeypatch) == order
    assert visits(1, monkeypatch) != order


def test_short_models_are_timed_warm_and_several_times() -> None:
    calls: list[str] = []
    result = bench({"a": lambda feeds: calls.append("a")}, X, min_seconds=0, min_rounds=1, warmup=2)
    assert result.timings[0].runs == 2 * bench_module.MOST_RUNS_PER_VISIT
    assert len(calls) == 2 + 2 * (1 + bench_module.MOST_RUNS_PER_VISIT)


def test_statistics_and_json() -> None:
    sessions = {"first": open_session(fused_model()), "second": open_session(fused_model(), optimization="none")}
    result = bench(sessions, X, min_seconds=0, min_rounds=5)
    for entry in result.timings:
        samples = np.array(entry.samples)
        assert entry.minimum <= entry.median <= entry.maximum
        assert entry.mean == pytest.approx(samples.mean())
        assert entry.deviation == pytest.approx(samples.std(ddof=1))
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [entry["name"] for entry in written["timings"]] == ["first", "second"]
    assert written["ratios"][0]["baseline"] == "first"
    assert "samples" not in written["timings"][0]


def test_ratio_is_baseline_over_candidate_and_its_interval_holds_it() -> None:
    generator = np.random.default_rng(0)
    slow, fast = (list(factor * (1 + 0.05 * generator.random(60))) for factor in (3.0, 2.0))
    result = Benchmark((timing("slow", slow), timing("fast", fast)), 30)
    ratio = result.ratio("slow", "fast")
    assert ratio.low <= ratio.ratio <= ratio.high
    assert ratio.low <= 1.5 <= ratio.high
    assert ratio.high - ratio.low < 0.05
    assert result.ratio("slow", "fast") == ratio
    assert result.ratio("slow", "slow").low == result.ratio("slow", "slow").high == 1.0


def test_drift_that_both_share_cancels() -> None:
    drift = np.repeat(np.linspace(1, 3, 200), 2)
    result = Benchmark((timing("a", list(2 * drift)), timing("b", list(drift))), 200)
    assert result.ratio("a", "b").low == pytest.approx(2.0)
    assert result.ratio("a", "b").high == pytest.approx(2.0)


def test_very_many_rounds_are_thinned() -> None:
    samples = [1.0] * 10_000
    assert Benchmark((timing("a", samples), timing("b", samples)), 5000).ratio("a", "b").high == 1.0


def test_feeds_by_name_and_unused_feeds() -> None:
    session = open_session(fused_model())
    assert bench({"a": session}, {"a": X}, min_seconds=0, min_rounds=1).rounds == 1
    assert bench({"a": session}, {**X, "unused": np.zeros(1)}, min_seconds=0, min_rounds=1).rounds == 1


def test_limits() -> None:
    def nothing(feeds: object) -> None:
        return None

    assert bench({"a": nothing}, X, min_seconds=0, min_rounds=2).rounds == 2
    assert bench({"a": nothing}, X, min_seconds=100, max_rounds=7).rounds == 7
    assert bench({"a": nothing}, X, min_seconds=100, min_rounds=10**9, max_seconds=0).rounds == 3


def test_what_does_not_run_is_one_line() -> None:
    with pytest.raises(GraphoptError, match=r"a: does not run: .*") as caught:
        bench({"a": open_session(fused_model())}, {"x": np.ones((2, 4), np.float32)})
    assert "\n" not in str(caught.value)
    with pytest.raises(GraphoptError, match="nothing to time"):
        bench({}, X)
    with pytest.raises(GraphoptError, match="not among"):
        bench({"a": lambda feeds: None}, X, min_seconds=0, min_rounds=1).timing("b")
