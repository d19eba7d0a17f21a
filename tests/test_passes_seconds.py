"""Measured seconds turn by turn, and the interval of their ratio."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from graphopt.passes.seconds import Seconds, ratio_interval

RATIOS = st.lists(st.floats(0.1, 10.0), min_size=2, max_size=8)


@given(RATIOS)
def test_interval_is_students_over_logarithms(ratios: list[float]) -> None:
    middle, low, high = ratio_interval(ratios)
    logs = np.log(ratios)
    assert math.isclose(middle, stats.gmean(ratios), rel_tol=1e-9)
    if logs.std() > 1e-9:
        expected = stats.t.interval(0.95, len(logs) - 1, loc=logs.mean(), scale=stats.sem(logs))
        np.testing.assert_allclose([low, high], np.exp(expected), rtol=1e-6)
    else:
        assert low <= middle * (1 + 1e-6) and high >= middle * (1 - 1e-6)


def test_each_operator_counts_with_its_fastest_turn() -> None:
    found = Seconds.of([np.array([1.0, 2.0]), np.array([5.0, 3.0])], np.array([2.0, 4.0]))
    assert (found.before, found.after) == (4.0, 2.0)
    assert found.turns == ((6.0, 2.0), (5.0, 4.0))
    both = Seconds.total([found, found])
    assert (both.before, both.after, both.turns) == (8.0, 4.0, ((12.0, 4.0), (10.0, 8.0)))
    assert found.interval is not None and found.interval[0] < math.sqrt(3.0 * 1.25) < found.interval[1]
    assert both.interval == found.interval


def test_without_turns_that_took_time_there_is_no_interval() -> None:
    assert Seconds(1.0, 1.0).interval is None
    assert Seconds.of([np.zeros(3)], np.ones(3)).interval is None
    assert Seconds.total([]) == Seconds(0, 0)
