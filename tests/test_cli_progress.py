"""Progress: on a terminal's stderr, after two seconds, and gone afterwards."""

import io
import time

import pytest

from graphopt.cli import progress
from graphopt.cli.environment import Environment
from graphopt.cli.mining_progress import Levels


def world(stderr: io.StringIO, watched: bool) -> Environment:
    return Environment(io.StringIO(), io.StringIO(), stderr, progress=watched)


def test_nobody_watches_a_pipe() -> None:
    with progress.progress(world(io.StringIO(), False), "loading") as report:
        assert report is None
    with progress.steps(world(io.StringIO(), False), "verify") as say:
        assert say is None


def test_what_is_quick_goes_without_a_word() -> None:
    stderr = io.StringIO()
    with progress.progress(world(stderr, True), "loading") as report:
        assert report is not None
        report(1, 2, "one")
    assert stderr.getvalue() == ""


def test_a_bar_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    stderr = io.StringIO()
    with progress.progress(world(stderr, True), "loading") as report:
        assert report is not None
        report(1, 2, "[red]model")
    assert "loading" in stderr.getvalue()
    assert "1/2" in stderr.getvalue()
    assert "[red]model" in stderr.getvalue()


def test_steps_say_what_is_done_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    stderr = io.StringIO()
    with progress.steps(world(stderr, True), "verify", timing=True) as say:
        assert say is not None
        say("measuring")
    assert "measuring" in stderr.getvalue()


def test_one_long_step_is_drawn_without_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    stderr = io.StringIO()
    with progress.progress(world(stderr, True), "extract", counted=False):
        end = time.monotonic() + 10
        while "extract" not in stderr.getvalue() and time.monotonic() < end:
            time.sleep(0.01)
    assert "extract" in stderr.getvalue()


def test_nothing_is_drawn_behind_the_back_of_what_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    stderr = io.StringIO()
    with progress.steps(world(stderr, True), "bench", timing=True) as say:
        assert say is not None
        time.sleep(0.1)
        assert stderr.getvalue() == ""
        say("timing")
        drawn = stderr.getvalue()
        assert "timing" in drawn
        time.sleep(0.3)
        assert stderr.getvalue() == drawn


def test_levels_of_mining_say_what_they_hold_and_what_is_left() -> None:
    said: list[tuple[int, int, str]] = []
    moments = iter([0.0, 1.0, 3.0, 7.0])
    levels = Levels(lambda *words: said.append(words), 4, clock=lambda: next(moments))
    levels(1, 20, 1234)
    levels(2, 1500, 5_600_000)
    levels(4, 999_600, 26 * 10**40)
    assert said == [
        (1, 4, "20 patterns, 1.23k occurrences, ~3 s left"),
        (2, 4, "1.5k patterns, 5.6M occurrences, ~12 s left"),  # 4 s and 8 s: each takes twice as long as the last
        (4, 4, "1M patterns, 2.6e41 occurrences, which are closed?"),
    ]


def test_levels_of_mining_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    stderr = io.StringIO()
    with progress.progress(world(stderr, True), "mining", even=False) as report:
        assert report is not None
        Levels(report, 8)(5, 1500, 5_600_000)
    assert "5/8" in stderr.getvalue()
    assert "1.5k patterns, 5.6M occurrences" in stderr.getvalue()
