"""Progress: on a terminal's stderr, after two seconds, and gone afterwards."""

import io

import pytest

from graphopt.cli import progress
from graphopt.cli.environment import Environment


def world(stderr: io.StringIO, watched: bool) -> Environment:
    return Environment(io.StringIO(), io.StringIO(), stderr, progress=watched)


def test_nobody_watches_a_pipe() -> None:
    with progress.progress(world(io.StringIO(), False), "loading") as report:
        assert report is None
    with progress.steps(world(io.StringIO(), False)) as say:
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
    with progress.steps(world(stderr, True)) as say:
        assert say is not None
        say("measuring")
    assert "measuring" in stderr.getvalue()
