"""From measured times to rates: what is left when traffic is taken out, shared out over all that is counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from graphopt.machine import Machine
from graphopt.roofline import OVERLAP, Move

LEAST_SHARE = 0.3
"""Share of a measured time that counts as arithmetic at least: what is shorter, traffic hides."""
LEAST_PRICE = 1e-3
"""Share of the time of the case that has most of it below which a count costs nothing."""
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
        moves: bytes read, bytes written and bytes in use meanwhile, one after the other.
        waited: the same of what arithmetic waits for.
        apart: whether the work is done apart from the traffic, not along with it.
    """

    key: str
    seconds: float
    work: float
    unit: str
    counts: Mapping[str, float]
    moves: Sequence[Move]
    waited: Sequence[Move] = ()
    apart: bool = False

    def traffic(self, memory: Machine) -> float:
        """Seconds that what it moves takes."""
        return sum(memory.seconds_to_move(*move) for move in self.moves)

    def waiting(self, memory: Machine) -> float:
        """Seconds that it waits."""
        return sum(memory.seconds_to_move(*move) for move in self.waited)


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
    traffic = measured.traffic(memory)
    if measured.apart:
        return max(measured.seconds - traffic, LEAST_APART * measured.seconds)
    seconds = max(0.0, measured.seconds - measured.waiting(memory))
    left: float = max(0.0, seconds**OVERLAP - traffic**OVERLAP) ** (1.0 / OVERLAP)
    return max(left, LEAST_SHARE * measured.seconds)


def fit(cases: Sequence[Measurement], memory: Machine) -> Rates:
    """Rates that explain all cases of one key with the least relative error.

    Args:
        cases: measurements of one key; those without time are left out by the caller.
        memory: a machine whose memory levels say how long traffic takes.

    Returns:
        Least squares of ``work / rate + counts / rates`` together with the traffic, each case relative to its time. No
        price is negative; what costs next to nothing costs nothing.
    """
    seconds = np.array([arithmetic(case, memory) for case in cases])
    work = np.array([case.work for case in cases])
    names = [name for name in cases[0].counts if _varies([case.counts.get(name, 0) for case in cases], work)]
    names = names[: len(cases) - 1]
    columns = [work, *(np.array([case.counts.get(name, 0) for case in cases]) for name in names)]
    table = np.stack(columns, axis=1)
    start = nnls(table / seconds[:, None], np.ones(len(cases)))[0]
    start[0] = max(start[0], float(np.min(LEAST_SHARE * seconds / work)) / 10)
    solution = _refined(start, table, cases, memory)
    prices = {name: float(price) for name, price in zip(names, solution[1:], strict=True) if price > 0}
    return Rates(1.0 / float(solution[0]), cases[0].unit, {name: 1.0 / price for name, price in prices.items()})


def _refined(
    start: NDArray[np.float64], table: NDArray[np.float64], cases: Sequence[Measurement], memory: Machine
) -> NDArray[np.float64]:
    """Prices that give the measured times together with the traffic, from ones that leave out what traffic hides."""
    seconds = np.array([case.seconds for case in cases])
    traffic = np.array([case.traffic(memory) for case in cases])
    waiting = np.array([case.waiting(memory) for case in cases])
    exponent = 1.0 if cases[0].apart else OVERLAP
    scale = np.max(table / seconds[:, None], axis=0)

    def errors(shares: NDArray[np.float64]) -> NDArray[np.float64]:
        arithmetic = table @ (shares / scale)
        predicted: NDArray[np.float64] = (arithmetic**exponent + traffic**exponent) ** (1.0 / exponent) + waiting
        wrong: NDArray[np.float64] = predicted / seconds - 1.0
        return wrong

    found: NDArray[np.float64] = least_squares(errors, np.maximum(start * scale, LEAST_PRICE), bounds=(0.0, np.inf)).x
    least = np.array([LEAST_PRICE, *(0.0 for _ in found[1:])])
    prices: NDArray[np.float64] = np.where(found > LEAST_PRICE, found, least) / scale
    return prices


def _varies(numbers: Sequence[float], work: NDArray[np.float64]) -> bool:
    """Whether a count can be told apart from the work."""
    ratios = np.array(numbers) / work
    return bool(np.ptp(ratios) > 1e-9 * np.max(np.abs(ratios))) if len(ratios) > 1 and np.any(ratios) else False
