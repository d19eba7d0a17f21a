"""Progress on stderr: only on a terminal, only for what takes longer than two seconds."""

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
    environment: Environment, work: str, *, counted: bool = True, even: bool = True
) -> Iterator[Report | None]:
    """A function that work reports its progress to; None where nobody is watching.

    Args:
        environment: the world that is drawn in.
        work: what is being done, in a word or two.
        counted: whether it is known how much there is to do.
        even: whether its parts take about as long as each other, so that the time that is left can be told from them.

    Yields:
        the function. What it draws is gone when the block ends.
    """
    if not environment.progress or quiet():
        yield None
        return
    bars = _Bars(environment, work, counted, even)
    try:
        yield bars.report
    finally:
        bars.close()


class _Bars:
    """A bar that is drawn once the patience is over."""

    def __init__(self, environment: Environment, work: str, counted: bool, even: bool) -> None:
        self._environment = environment
        self._work = work
        self._counted = counted
        self._even = even
        self._start = time.monotonic()
        self._drawn: Progress | None = None
        self._task: TaskID | None = None

    def report(self, done: int, total: int, text: str) -> None:
        if time.monotonic() - self._start < PATIENCE:
            return
        if self._drawn is None:
            self._drawn = self._open()
        if self._task is None:
            self._task = self._drawn.add_task(self._work, total=None, text="")
        self._drawn.update(
            self._task, completed=done, total=total or None, text=text[-WIDEST:], refresh=not self._counted
        )

    def _open(self) -> "Progress":
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        text = TextColumn("{task.fields[text]}", markup=False)
        columns: tuple[ProgressColumn, ...] = (text,)
        if self._counted:
            work = TextColumn("{task.description}", markup=False)
            remaining = (TimeRemainingColumn(),) if self._even else ()
            columns = (work, BarColumn(bar_width=20), MofNCompleteColumn(), *remaining, text)
        console = Console(file=self._environment.stderr, force_terminal=True)
        # What is not counted may be measuring times: nothing draws in the background then.
        drawn = Progress(*columns, console=console, transient=True, auto_refresh=self._counted)
        drawn.start()
        return drawn

    def close(self) -> None:
        if self._drawn is not None:
            self._drawn.stop()


@contextmanager
def steps(environment: Environment) -> Iterator[Callable[[str], None] | None]:
    """A function that is told what is being done now; it shows only the last of it. None where nobody is watching."""
    with progress(environment, "", counted=False) as report:
        if report is None:
            yield None
        else:
            yield lambda text: report(0, 0, text)
