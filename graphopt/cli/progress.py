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

Report = Callable[[int, int, str], None]
"""Called with how many are done, how many there are (0 when not known), and what is being done."""


@contextmanager
def progress(environment: Environment, work: str) -> Iterator[Report | None]:
    """A function that work reports its progress to; None where nobody is watching.

    Args:
        environment: the world that is drawn in.
        work: what is being done, in a word or two.

    Yields:
        the function. What it draws is gone when the block ends.
    """
    if not environment.progress or quiet():
        yield None
        return
    bars = _Bars(environment, work)
    try:
        yield bars.report
    finally:
        bars.close()


class _Bars:
    """A bar that is drawn once the patience is over."""

    def __init__(self, environment: Environment, work: str) -> None:
        self._environment = environment
        self._work = work
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
        self._drawn.update(self._task, completed=done, total=total or None, text=text[-30:])

    def _open(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
        )
        drawn = Progress(*columns, console=Console(file=self._environment.stderr, force_terminal=True), transient=True)
        drawn.start()
        return drawn

    def close(self) -> None:
        if self._drawn is not None:
            self._drawn.stop()
