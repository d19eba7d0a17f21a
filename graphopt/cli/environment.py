"""What a command needs from the world around it, in one object, so that tests can hand in another world."""

import os
import shutil
import sys
from dataclasses import dataclass
from enum import IntEnum
from typing import TextIO

WIDTH_OF_A_PIPE = 80
"""Columns of text that goes to a file or a pipe."""


class Exit(IntEnum):
    """What the command line returns to its caller."""

    DONE = 0  # the work is done; where there is a verdict, it is positive
    NEGATIVE = 1  # the work is done and its verdict is negative (outputs differ)
    USAGE = 2  # the command line itself is wrong
    BAD_INPUT = 3  # a file or a name that was given is wrong, missing or unreadable
    INTERRUPTED = 130  # stopped by the user; files are as they were before or complete


@dataclass(frozen=True)
class Environment:
    """The world around a command.

    Attributes:
        stdin: where ``-`` is read from.
        stdout: data goes here.
        stderr: progress, logs and errors go here.
        terminal: whether stdout is a terminal: colour, and as many columns as there are.
        progress: whether stderr is a terminal: progress bars.
        width: columns that tables may use.
        jobs: worker processes when a command does not say.
    """

    stdin: TextIO
    stdout: TextIO
    stderr: TextIO
    terminal: bool = False
    progress: bool = False
    width: int = WIDTH_OF_A_PIPE
    jobs: int = 1

    @classmethod
    def of_this_process(cls) -> "Environment":
        """The real one: standard streams, and a job for each processor that this process may use."""
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size((WIDTH_OF_A_PIPE, 24)).columns if terminal else WIDTH_OF_A_PIPE
        return cls(
            stdin=sys.stdin,
            stdout=sys.stdout,
            stderr=sys.stderr,
            terminal=terminal and "NO_COLOR" not in os.environ,
            progress=sys.stderr.isatty(),
            width=width,
            jobs=available_processors(),
        )


def available_processors() -> int:
    """Processors that this process may run on (a container may allow fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
