"""Measured seconds before and after a fusion, turn by turn, and how sure their ratio is."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Turns = NDArray[np.float64]
"""Seconds per execution in each turn, shape (turns,)."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Seconds:
    """Seconds per execution of operators one by one, and as one kernel.

    Attributes:
        before: of the operators, each in the fastest of its turns: what else the machine does meanwhile slows some.
        after: of the kernel, likewise.
        turns: (before, after) of every turn.
    """

    before: float
    after: float
    turns: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, before: Sequence[Turns], after: Turns) -> Self:
        """From the turns of the operators, one array each, and of their kernel."""
        apart = np.sum(before, axis=0)
        pairs = tuple(zip(apart.tolist(), after.tolist(), strict=True))
        return cls(float(sum(turns.min() for turns in before)), float(after.min()), pairs)

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """Of several kernels together, measured in the same turns or in as many."""
        known = list(parts)
        turns = zip(*(part.turns for part in known), strict=False)
        pairs = tuple((sum(pair[0] for pair in turn), sum(pair[1] for pair in turn)) for turn in turns)
        return cls(sum(part.before for part in known), sum(part.after for part in known), pairs)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of how many times faster the kernel is; None with fewer than two turns that took time."""
        ratios = [before / after for before, after in self.turns if before > 0.0 < after]
        if len(ratios) < 2:
            return None
        _, low, high = ratio_interval(ratios)
        return low, high

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "before": self.before,
            "after": self.after,
            "interval": None if self.interval is None else list(self.interval),
        }


def ratio_interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of two ratios or more, and the ends of Student's interval over their logarithms."""
    logs = np.log(ratios)
    middle = float(logs.mean())
    half = float(stdtrit(len(logs) - 1, (1 + CONFIDENCE) / 2) * logs.std(ddof=1) / math.sqrt(len(logs)))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)
