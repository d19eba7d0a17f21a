"""What the ``graphopt`` fixture gives."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., Outcome]
"""Call it with the words of a command line; ``stdin=`` bytes, ``width=`` columns, ``terminal=`` for colour."""
