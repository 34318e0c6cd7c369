"""Medians with intervals: covered as often as promised, empty where nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_accel.measure.statistics import (
    differ,
    median_ci,
    median_of_repeats_ci,
    num_warmup,
    outliers,
    ratio_ci,
    spearman,
)


def test_too_few_values_have_no_interval():
    assert median_ci([]) == (None, None, None)
    assert median_ci([4.0]) == (4.0, None, None)
    assert median_ci([4.0, 6.0]) == (5.0, None, None)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(3).lognormal(size=40)
    assert median_ci(values, seed=7) == median_ci(values, seed=7)
    assert median_ci(values, seed=7) != median_ci(values, seed=8)


def test_the_interval_covers_the_true_median_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        _, low, high = median_ci(rng.lognormal(size=30))
        covered += low <= 1.0 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_a_long_series_is_resampled_in_blocks():
    median, low, high = median_ci(np.random.default_rng(0).normal(10, 1, 20_000))
    assert low < median < high
    assert high - low < 0.06


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="1 of 3 values"):
        median_ci([1.0, float("nan"), 2.0])


def test_layouts_differ_only_when_their_intervals_lie_apart():
    assert differ((1.0, 0.9, 1.1), (2.0, 1.8, 2.2)) is True
    assert differ((1.0, 0.9, 1.1), (1.1, 1.0, 1.2)) is False
    assert differ((1.0, None, None), (2.0, 1.8, 2.2)) is None


def test_ratio_of_two_samples():
    rng = np.random.default_rng(0)
    ratio, low, high = ratio_ci(rng.normal(20, 1, 50), rng.normal(10, 1, 50))
    assert low < 2 < high
    assert ratio == pytest.approx(2, rel=0.05)
    assert ratio_ci([1, 2, 3], [0, 0, 0]) == (None, None, None)


def test_outliers_are_found_not_dropped():
    values = [1.0, 1.1, 0.9, 1.05, 9.0, 1.0, 0.95]
    assert outliers(values) == [4]
    assert median_ci(values)[0] == 1.0
    assert outliers([2.0] * 9) == []


def test_warm_up_ends_where_steps_look_like_the_second_half():
    steady = [1.0, 1.01, 0.99, 1.02, 1.0, 0.98, 1.01, 1.0, 0.99, 1.0]
    assert num_warmup([9.0, 5.0, 3.0, *steady]) == 3
    assert num_warmup(steady) == 0
    assert num_warmup(steady, minimum=2) == 2
    assert num_warmup([1.0, 1.0]) is None
    assert num_warmup([30.0, 28.0, 26.0, 24.0, 22.0, 1.0, 1.0, 1.0, 1.0]) is None


def test_repeats_that_differ_widen_the_interval():

    rng = np.random.default_rng(1)
    alike = [list(rng.normal(10, 0.1, 30)) for _ in range(4)]
    apart = [list(rng.normal(mean, 0.1, 30)) for mean in (8, 9, 11, 12)]
    _, low, high = median_of_repeats_ci(alike)
    assert high - low < 0.2
    _, low, high = median_of_repeats_ci(apart)
    assert low < 9
    assert high > 11
    assert median_of_repeats_ci([[1.0, 2.0, 3.0, 4.0]]) == median_ci([1.0, 2.0, 3.0, 4.0])
    assert median_of_repeats_ci([[], []]) == (None, None, None)


def test_spearman_of_known_data():
    # The textbook example of IQ and hours of television per week: rho = -29/165.
    iq = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110]
    hours = [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    assert spearman(iq, hours) == pytest.approx(-29 / 165)


def test_spearman_is_about_order_alone_and_averages_ties():
    assert spearman([1, 2, 3, 4], [10, 200, 3000, 40000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: Pearson of those.
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_spearman_needs_something_to_correlate():
    assert spearman([], []) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    with pytest.raises(ValueError, match="2 and 3 values"):
        spearman([1, 2], [1, 2, 3])
