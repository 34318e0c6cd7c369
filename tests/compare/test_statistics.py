"""The numbers behind a comparison: tables of Student's t, dependent steps, spreads of few repeats."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpc_accel.compare import autocorrelation, student
from hpc_accel.compare.spread import variances
from tests.compare.simulate import steps_ms


@pytest.mark.parametrize(
    ("p", "df", "expected"),  # tables: two-sided
    [(0.05, 1, 12.7062), (0.05, 4, 2.7764), (0.01, 10, 3.1693), (0.05, 1e6, 1.95997), (0.001, 3, 12.9240)],
)
def test_quantiles_are_those_of_the_tables(p, df, expected):
    assert student.quantile(p, df) == pytest.approx(expected, rel=1e-4)
    assert student.two_sided_p(expected, df) == pytest.approx(p, rel=1e-3)


def test_gamma_functions_have_their_known_values():
    assert student.digamma(1) == pytest.approx(-0.5772156649, rel=1e-9)
    assert student.trigamma(1) == pytest.approx(math.pi**2 / 6, rel=1e-9)
    assert student.inverse_trigamma(student.trigamma(2.5)) == pytest.approx(2.5, rel=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_error_of_a_median_counts_that_steps_depend_on_each_other(correlation):
    rng = np.random.default_rng(3)
    runs = [steps_ms(rng, 10.0, run_spread=0.0, correlation=correlation) for _ in range(300)]
    true = np.std([np.log(np.median(run)) for run in runs])
    told = [autocorrelation.log_error(run, autocorrelation.integrated_time(run)) for run in runs]
    assert 0.75 * true < np.median([each.value for each in told if not each.is_least]) < 1.25 * true


def test_too_few_steps_tell_no_error():
    assert autocorrelation.log_error([1.0, 2.0], 1.0) is None
    assert autocorrelation.log_error([], 1.0) is None
    assert autocorrelation.integrated_time([]) == 1.0


def test_steps_that_drift_or_jump_tell_only_the_least_error():
    for steps in (np.linspace(10, 11, 20), [10.0] * 10 + [11.0] * 10):
        found = autocorrelation.log_error(steps, autocorrelation.integrated_time(steps))
        assert found.is_least
        assert found.value == pytest.approx(math.log(1.1) / (2 * autocorrelation.NORMAL_95))
    assert not autocorrelation.log_error(np.tile([10.0, 11.0], 10), 1.0).is_least


def test_nothing_is_borrowed_from_spreads_that_have_nothing_in_common():
    groups = [[[0.0, spread], [0.0, spread]] for spread in (1e-5, 1e-2, 3.0)]
    assert variances([*groups, [[0.0], [0.1]]])[-1] is None


def test_one_run_on_each_side_has_no_spread():
    assert variances([[[1.0], [1.1]]]) == [None]
    assert variances([[[1.0, 1.2], [1.1]]])[0].df == 1


def test_alike_spreads_are_put_together_and_lend_to_one_without_repeats():
    rng = np.random.default_rng(0)
    groups = [[list(rng.normal(0, 0.01, 3)), list(rng.normal(0, 0.01, 3))] for _ in range(20)]
    found = variances([*groups, [[0.0], [0.05]]])
    assert all(each.df > 20 for each in found)
    assert found[-1].is_borrowed
    assert not found[0].is_borrowed
    assert math.sqrt(found[-1].value) == pytest.approx(0.01, rel=0.25)


def test_spreads_that_are_not_alike_stay_apart():
    rng = np.random.default_rng(0)
    scales = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    groups = [[list(rng.normal(0, scale, 6)), list(rng.normal(0, scale, 6))] for scale in scales]
    found = [math.sqrt(each.value) for each in variances(groups)]
    assert found == pytest.approx(scales, rel=0.6)


def test_repeats_that_are_the_same_to_the_last_digit_have_no_spread():
    assert [each.value for each in variances([[[1.0, 1.0], [2.0, 2.0]]] * 4)] == [0.0] * 4
