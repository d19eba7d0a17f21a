"""From measured times to rates: what is left when traffic is taken out, shared out over all that is counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from graphopt.machine import Machine
from graphopt.roofline import OVERLAP

LEAST_SHARE = 0.3
"""Share of a measured time that counts as arithmetic at least: what is shorter, traffic hides."""
LEAST_APART = 0.1
"""The same for work that is done apart from the traffic."""


@dataclass(frozen=True)
class Measurement:
    """One case as measured.

    Attributes:
        key: the rate that it belongs to.
        seconds: without the price of a call.
        work: what the rate counts: operations, or elements.
        unit: ``flop/s`` or ``element/s``.
        counts: see ``operators.pieces.counts``.
        moved: bytes read and written.
        apart: whether the work is done apart from the traffic, not along with it.
    """

    key: str
    seconds: float
    work: float
    unit: str
    counts: Mapping[str, int]
    moved: float
    apart: bool = False


@dataclass(frozen=True)
class Rates:
    """What a class does in a second.

    Attributes:
        work: operations or elements.
        unit: ``flop/s`` or ``element/s``.
        counts: how many a second of what is counted besides, by name; what costs nothing is left out.
    """

    work: float
    unit: str
    counts: Mapping[str, float] = field(default_factory=dict)


def arithmetic(measured: Measurement, memory: Machine) -> float:
    """Seconds of arithmetic: what together with the traffic gives the measured time (see roofline.together)."""
    traffic = memory.seconds_to_move(measured.moved)
    if measured.apart:
        return max(measured.seconds - traffic, LEAST_APART * measured.seconds)
    left: float = max(0.0, measured.seconds**OVERLAP - traffic**OVERLAP) ** (1.0 / OVERLAP)
    return max(left, LEAST_SHARE * measured.seconds)


def fit(cases: Sequence[Measurement], memory: Machine) -> Rates:
    """Rates that explain all cases of one key with the least relative error.

    Args:
        cases: measurements of one key; those without time are left out by the caller.
        memory: a machine whose memory levels say how long traffic takes.

    Returns:
        Non-negative least squares of ``seconds = work / rate + counts / rates``, each case relative to its time.
    """
    seconds = np.array([arithmetic(case, memory) for case in cases])
    work = np.array([case.work for case in cases])
    names = [name for name in cases[0].counts if _varies([case.counts.get(name, 0) for case in cases], work)]
    names = names[: len(cases) - 1]
    columns = [work, *(np.array([case.counts.get(name, 0) for case in cases]) for name in names)]
    solution = nnls(np.stack(columns, axis=1) / seconds[:, None], np.ones(len(cases)))[0]
    # What is counted may explain it all and leave no rate for work; then work counts for little, not for nothing.
    least = float(np.min(LEAST_SHARE * seconds / work)) / 10
    prices = {name: float(price) for name, price in zip(names, solution[1:], strict=True) if price > 0}
    return Rates(
        1.0 / max(float(solution[0]), least), cases[0].unit, {name: 1.0 / price for name, price in prices.items()}
    )


def _varies(numbers: Sequence[int], work: NDArray[np.float64]) -> bool:
    """Whether a count can be told apart from the work."""
    ratios = np.array(numbers) / work
    return bool(np.ptp(ratios) > 1e-9 * np.max(np.abs(ratios))) if len(ratios) > 1 and np.any(ratios) else False
