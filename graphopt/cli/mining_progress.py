"""What ``graphopt mine`` says while it mines: the level, what it holds, and how long the others may take."""

import time
from collections.abc import Callable

from graphopt.cli.progress import Report

LEAST_GROWTH, MOST_GROWTH = 0.5, 3.0
"""A level takes so many times as long as the one before, at least and at most, when we look ahead."""


class Levels:
    """Called after each level with its size, its patterns and their occurrences.

    The levels to come are taken to grow as the last one did, within bounds; so the estimate is rough until sizes are
    reached at which levels grow evenly.

    Args:
        report: what draws.
        max_size: the last level.
        clock: seconds since some moment.
    """

    def __init__(self, report: Report, max_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._report = report
        self._max_size = max_size
        self._clock = clock
        self._last = clock()
        self._seconds: list[float] = []

    def __call__(self, size: int, patterns: int, occurrences: int) -> None:
        """Draw."""
        if size == 1:  # from the start, with a lower bound on what is worth growing
            self._seconds = []
        now = self._clock()
        self._seconds.append(now - self._last)
        self._last = now
        held = f"{short(patterns)} patterns, {short(occurrences)} occurrences"
        more = f"~{duration(self.remaining(size))} left" if size < self._max_size else "which are closed?"
        self._report(size, self._max_size, f"{held}, {more}")

    def remaining(self, size: int) -> float:
        """Estimated seconds for the levels after this one."""
        last = self._seconds[-1]
        before = self._seconds[-2] if len(self._seconds) > 1 else last
        growth = min(max(last / before if before > 0 else 1.0, LEAST_GROWTH), MOST_GROWTH)
        return sum(last * growth**step for step in range(1, self._max_size - size + 1))


def short(number: int) -> str:
    """A number in few characters: 950, 12.3k, 4.5M, 1.2e12."""
    if number < 1000:
        return str(number)
    for unit, size in (("k", 10**3), ("M", 10**6)):
        if number < size * 999.5:
            return f"{number / size:.3g}{unit}"
    exponent = len(str(number)) - 1
    return f"{number // 10 ** (exponent - 1) / 10:.1f}e{exponent}"


def duration(seconds: float) -> str:
    """A time in few characters: 4 s, 3 min, 2 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
