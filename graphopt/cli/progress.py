"""Progress on stderr: only on a terminal, only for what takes longer than two seconds."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from graphopt.cli.environment import Environment
from graphopt.cli.options import quiet

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE = 2.0
"""Seconds without a word."""

WIDEST = 45
"""Characters of what is being done that are shown: the last ones."""

Report = Callable[[int, int, str], None]
"""Called with how many are done, how many there are (0 when not known), and what is being done."""


@contextmanager
def progress(
    environment: Environment, work: str, *, counted: bool = True, even: bool = True, timing: bool = False
) -> Iterator[Report | None]:
    """A function that work reports its progress to; None where nobody is watching.

    Args:
        environment: the world that is drawn in.
        work: what is being done, in a word or two.
        counted: whether it is known how much there is to do.
        even: whether its parts take about as long as each other, so that the time that is left can be told from them.
        timing: whether the work measures times: nothing is drawn then but when it reports.

    Yields:
        the function. What it draws is gone when the block ends.
    """
    if not environment.progress or quiet():
        yield None
        return
    bars = _Bars(environment, work, counted, even, timing)
    try:
        yield bars.report
    finally:
        bars.close()


class _Bars:
    """A bar that is drawn once the patience is over."""

    def __init__(self, environment: Environment, work: str, counted: bool, even: bool, timing: bool) -> None:
        self._environment = environment
        self._work = work
        self._counted = counted
        self._even = even
        self._timing = timing
        self._start = time.monotonic()
        self._latest = (0, 0, "")
        self._drawn: Progress | None = None
        self._task: TaskID | None = None
        self._lock = threading.Lock()
        self._first = threading.Timer(PATIENCE, self._draw)
        self._first.daemon = True
        if not timing:
            self._first.start()

    def report(self, done: int, total: int, text: str) -> None:
        self._latest = (done, total, text)
        if time.monotonic() - self._start >= PATIENCE:
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            if self._drawn is None:
                self._drawn = self._open()
                self._task = self._drawn.add_task(self._work, total=None, text="")
            assert self._task is not None
            done, total, text = self._latest
            self._drawn.update(
                self._task, completed=done, total=total or None, text=text[-WIDEST:], refresh=self._timing
            )

    def _open(self) -> "Progress":
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        work = TextColumn("{task.description}", markup=False)
        text = TextColumn("{task.fields[text]}", markup=False)
        columns: tuple[ProgressColumn, ...] = (work, TimeElapsedColumn(), text)
        if self._counted:
            remaining = (TimeRemainingColumn(),) if self._even else ()
            columns = (work, BarColumn(bar_width=20), MofNCompleteColumn(), *remaining, text)
        console = Console(file=self._environment.stderr, force_terminal=True)
        drawn = Progress(*columns, console=console, transient=True, auto_refresh=not self._timing)
        drawn.start()
        return drawn

    def close(self) -> None:
        self._first.cancel()
        if self._first.is_alive():
            self._first.join()
        if self._drawn is not None:
            self._drawn.stop()


@contextmanager
def steps(environment: Environment, work: str, *, timing: bool = False) -> Iterator[Callable[[str], None] | None]:
    """A function that is told what is being done now; it shows only the last of it. None where nobody is watching."""
    with progress(environment, work, counted=False, timing=timing) as report:
        if report is None:
            yield None
        else:
            yield lambda text: report(0, 0, text)
