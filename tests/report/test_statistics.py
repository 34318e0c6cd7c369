"""The statistics of the report against values worked out by hand and by simulation."""

from __future__ import annotations

import random

import pytest

from hpc_accel.report.judge.statistics import Interval, mean_absolute_percentage_error, ratio


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high)


def test_mean_error_is_relative_to_the_measured():
    assert mean_absolute_percentage_error([90, 220], [100, 200]) == pytest.approx(0.1)
    assert mean_absolute_percentage_error([], []) is None
    assert mean_absolute_percentage_error([1.0], [0.0]) is None


def test_ratio_interval_covers_the_simulated_one():
    rng = random.Random(3)
    above, below = interval(100, 95, 105), interval(40, 37, 43)
    draws = sorted(rng.gauss(100, 5 / 1.96) / rng.gauss(40, 3 / 1.96) for _ in range(20000))
    found = ratio(above, below)
    assert found.value == pytest.approx(2.5)
    assert found.low == pytest.approx(draws[500], rel=0.01)
    assert found.high == pytest.approx(draws[19500], rel=0.01)


def test_ratio_keeps_an_asymmetric_interval_asymmetric():
    found = ratio(interval(10, 10, 20), interval(5, 5, 5))
    assert (found.low, found.high) == (pytest.approx(2), pytest.approx(4))


def test_inverse_turns_the_ends_around():
    rate = interval(10, 8, 20).inverse(1000)
    assert (rate.value, rate.low, rate.high) == (100, 50, 125)


@pytest.mark.parametrize(("low", "high", "overlap"), [(1, 2, True), (2, 3, True), (2.01, 3, False), (0, 9, True)])
def test_overlap(low, high, overlap):
    first, second = interval(1.5, 1, 2), interval((low + high) / 2, low, high)
    assert first.overlaps(second) is overlap
    assert second.overlaps(first) is overlap
