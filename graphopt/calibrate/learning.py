"""Learning rates from the log of predictions: which classes of operators are slower or faster than a machine says.

Each record says by how much the prediction of a pattern was wrong; the roofline says which share of that prediction
comes from the arithmetic of each class. Least squares on the logarithms give one factor per class that explains all
records best (ridge regression towards one): where little speaks for a class, its factor stays near one, and where fewer
than LEAST_RECORDS times do, it is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log

import numpy as np

from graphopt import roofline
from graphopt.errors import GraphoptError
from graphopt.machine import Machine, Quantity
from graphopt.prediction_log import Record

STIFFNESS = 0.5
"""Weight of staying at a factor of one: that of half a record all of whose time is of the class."""
LEAST_RECORDS = 3
"""Times that a class must have part in before its rate is corrected at all."""
LARGEST_STEP = 1.5
ROUNDS = 8
LEAST_SECONDS = 20e-6
"""Records of ``apply`` that take less for each operator are left out: they tell of the profiler, not of rates."""
PROFILED = "apply"


@dataclass(frozen=True)
class Learned:
    """A machine with learnt rates.

    Attributes:
        machine: the machine.
        records: records that it was learnt from.
        error_before: mean absolute percentage error of all times before.
        error_after: the same after.
    """

    machine: Machine
    records: int
    error_before: float
    error_after: float


def learn(machine: Machine, records: Sequence[Record], source: str) -> Learned:
    """Rates of a machine, corrected by what was measured.

    Args:
        machine: where to start from.
        records: the log; those that are too short to tell anything, or cannot be predicted, are left out.
        source: name of the log, for the source of the numbers.

    Raises:
        GraphoptError: nothing is left to learn from.
    """
    used = [record for record in records if _tells(record, machine)]
    if not used:
        raise GraphoptError(f"{source}: none of its {len(records)} records can teach rates")
    text = f"learnt from {len(used)} predictions of the local log, beginning with {machine.name}"
    before = mean_error(machine, used)
    best, least = machine, before
    learnt = machine
    for _ in range(ROUNDS):
        learnt = _corrected(learnt, used, text)
        error = mean_error(learnt, used)
        if error < least:
            best, least = learnt, error
    return Learned(best, len(used), before, least)


def _tells(record: Record, machine: Machine) -> bool:
    nodes = len(record.capture.graph.nodes)
    least = LEAST_SECONDS if record.origin == PROFILED else 0.0
    if min(record.measured) <= 0.0 or record.measured[0] < least * nodes or record.measured[1] < least:
        return False
    return None not in (*roofline.operator_times(record.capture, machine), _fused(record, machine))


def _fused(record: Record, machine: Machine) -> float | None:
    return roofline.fused_seconds(record.capture, range(len(record.capture.graph.nodes)), machine)


def _predicted(record: Record, machine: Machine) -> tuple[float, float]:
    times = roofline.operator_times(record.capture, machine)
    return sum(seconds or 0.0 for seconds in times), _fused(record, machine) or 0.0


def mean_error(machine: Machine, records: Sequence[Record]) -> float:
    """Mean absolute percentage error of a machine's predictions for all times of some records."""
    errors = [
        abs(predicted / measured - 1.0)
        for record in records
        for predicted, measured in zip(_predicted(record, machine), record.measured, strict=True)
    ]
    return float(np.mean(errors))


def _corrected(machine: Machine, records: Sequence[Record], source: str) -> Machine:
    """One round: factors for all classes at once."""
    keys: dict[tuple[bool, str], int] = {}
    rows: list[dict[int, float]] = []
    logs: list[float] = []
    for record in records:
        for fused, (predicted, measured) in enumerate(zip(_predicted(record, machine), record.measured, strict=True)):
            shares: dict[int, float] = {}
            for key, seconds in roofline.arithmetic_by_rate(record.capture, machine, fused=bool(fused)).items():
                column = keys.setdefault((bool(fused), key), len(keys))
                shares[column] = min(1.0, seconds / predicted)
            rows.append(shares)
            logs.append(log(measured / predicted))
    table = np.zeros((len(rows), len(keys)))
    for row, shares in enumerate(rows):
        for column, share in shares.items():
            table[row, column] = share
    table[:, np.count_nonzero(table, axis=0) < LEAST_RECORDS] = 0.0
    square = table.T @ table + STIFFNESS * np.eye(len(keys))
    solution = np.linalg.solve(square, table.T @ np.array(logs))
    limit = log(LARGEST_STEP)
    factors = {key: exp(float(np.clip(solution[column], -limit, limit))) for key, column in keys.items()}
    rates = _scaled(machine.rates, {key: f for (fused, key), f in factors.items() if not fused}, source)
    kernel_rates = _scaled(machine.kernel_rates, {key: f for (fused, key), f in factors.items() if fused}, source)
    return replace(machine, rates=rates, kernel_rates=kernel_rates)


def _scaled(table: Mapping[str, Quantity], factors: Mapping[str, float], source: str) -> dict[str, Quantity]:
    """A class whose factor is above one takes longer: its rate is lower."""
    return {
        key: replace(quantity, value=quantity.value / factors[key], kind="measured", source=source)
        if key in factors
        else quantity
        for key, quantity in table.items()
    }
