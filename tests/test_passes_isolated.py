"""Work in child processes: its results, its errors, and what happens when it dies."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from graphopt.errors import GraphoptError
from graphopt.passes import measure
from graphopt.passes.base import Observed
from graphopt.passes.isolated import DiedError, isolated
from graphopt.passes.measure import Case, compare, speedups

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


def _fail() -> None:
    raise GraphoptError("this model: no good")


def test_results_come_back() -> None:
    value = {"a": [1.5, None], "long": "x" * 1_000_000}
    assert isolated(lambda: value, 20, "it") == value


def test_errors_come_back() -> None:
    with pytest.raises(GraphoptError, match=r"^this model: no good$"):
        isolated(_fail, 20, "it")


def test_nothing_changes_here() -> None:
    seen: list[int] = []
    isolated(lambda: seen.append(1), 20, "it")
    assert not seen


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_crash_is_named(number: signal.Signals) -> None:
    with pytest.raises(DiedError, match=f"^the kernel crashed .{number.name}.$"):
        isolated(lambda: os.kill(os.getpid(), number), 20, "the kernel")


def test_what_never_ends_is_ended() -> None:
    start = time.monotonic()
    with pytest.raises(DiedError, match="did not end within 0 s"):
        isolated(lambda: time.sleep(60), 0.2, "it")
    assert time.monotonic() - start < 20


def children() -> set[str]:
    own = os.getpid()
    return set(Path(f"/proc/{own}/task/{own}/children").read_text().split())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_no_children_are_left() -> None:
    before = children()  # of other tests in this process
    for work in (lambda: 1, lambda: os.kill(os.getpid(), signal.SIGSEGV)):
        with suppress(DiedError):
            isolated(work, 20, "it")
    assert children() <= before


# ------------------------------------------------------------------ comparisons in blocks

GIVEN = (Case(Observed({}), {}),)


def _blocks(monkeypatch: pytest.MonkeyPatch, ratios: list[float]) -> list[float]:
    """Blocks that show these ratios, one after the other; returns those that are left."""
    left = list(ratios)
    monkeypatch.setattr(measure, "isolated", lambda work, seconds, what: work())
    monkeypatch.setattr(measure, "_block", lambda sessions, given, seconds: {"a": left.pop(0), "b": 1.0})
    return left


def test_a_clear_difference_needs_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    left = _blocks(monkeypatch, [1.10, 1.12, 1.11, 1.09, 1.1, 1.1])
    found = compare(dict, GIVEN, "b")["a"]
    assert found.faster and found.decided and found.blocks == 4 and len(left) == 2
    assert found.low < 1.105 < found.high and found.low > 1.05
    assert found.seconds_before == pytest.approx(found.ratio) and found.seconds_after == 1.0


def test_noise_is_not_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    _blocks(monkeypatch, [1.04, 0.97, 1.05, 0.99, 1.03, 0.98, 1.02, 1.0])
    found = compare(dict, GIVEN, "b")["a"]
    assert not found.faster and not found.decided and found.blocks == 8


def test_equal_ones_do_not_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    _blocks(monkeypatch, [1.0005, 0.9995, 1.001, 1.0])
    found = compare(dict, GIVEN, "b")["a"]
    assert not found.faster and found.blocks == 4


def test_tried_alone_every_block_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    _blocks(monkeypatch, [1.2, 0.99, 1.3])
    assert speedups(dict, GIVEN, "b") == {"a": (pytest.approx(1 / 1.3), pytest.approx(1 / 0.99))}
