"""From measured times to rates: what is left when traffic is taken out, shared out over work and pieces."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from graphopt.machine import Machine
from graphopt.roofline import OVERLAP

LEAST_SHARE = 0.3
"""Share of a measured time that counts as arithmetic at least: what is shorter, traffic hides."""


@dataclass(frozen=True)
class Measurement:
    """One case as measured.

    Attributes:
        key: the rate that it belongs to.
        seconds: without the price of a call.
        work: what the rate counts: operations, or elements.
        unit: ``flop/s`` or ``element/s``.
        pieces: see ``operators.pieces``.
        moved: bytes read and written.
    """

    key: str
    seconds: float
    work: float
    unit: str
    pieces: int
    moved: float


@dataclass(frozen=True)
class Rates:
    """What a class does in a second.

    Attributes:
        work: operations or elements.
        unit: ``flop/s`` or ``element/s``.
        pieces: None where pieces cost nothing, or only one case was measured.
    """

    work: float
    unit: str
    pieces: float | None = None


def arithmetic(measured: Measurement, memory: Machine) -> float:
    """Seconds of arithmetic: what together with the traffic gives the measured time (see roofline.together)."""
    traffic = memory.seconds_to_move(measured.moved)
    left: float = max(0.0, measured.seconds**OVERLAP - traffic**OVERLAP) ** (1.0 / OVERLAP)
    return max(left, LEAST_SHARE * measured.seconds)


def fit(cases: Sequence[Measurement], memory: Machine) -> Rates:
    """Rates that explain all cases of one key with the least relative error.

    Args:
        cases: measurements of one key; those without time are left out by the caller.
        memory: a machine whose memory levels say how long traffic takes.

    Returns:
        Non-negative least squares of ``seconds = work / rate + pieces / rate``, each case relative to its time.
    """
    seconds = [arithmetic(case, memory) for case in cases]
    table = np.array([[case.work / s, case.pieces / s] for case, s in zip(cases, seconds, strict=True)])
    if len(cases) < 2 or not np.ptp(table[:, 1] / table[:, 0]):
        table = table[:, :1]
    solution = nnls(table, np.ones(len(cases)))[0]
    # What pieces explain alone leaves no rate for work; then work counts for little, not for nothing.
    least = min(LEAST_SHARE * s / case.work for case, s in zip(cases, seconds, strict=True)) / 10
    each = max(float(solution[0]), least)
    piece = float(solution[1]) if len(solution) > 1 else 0.0
    return Rates(1.0 / each, cases[0].unit, 1.0 / piece if piece else None)
