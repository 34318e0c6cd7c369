"""Figures of merit against values worked out by hand."""

from __future__ import annotations

import pytest

from hpc_accel.plan.accuracy import choice_accuracy, time_accuracy


def test_errors_and_regret():
    # 10 % over and 50 % under; the second group chooses 30 where 20 was there.
    figures = time_accuracy([[(11.0, 10.0), (22.0, 20.0)], [(15.0, 30.0), (22.0, 20.0)]])
    assert figures["mape"] == pytest.approx((10 + 10 + 50 + 10) / 4)
    assert figures["signed_error"] == pytest.approx((10 + 10 - 50 + 10) / 4)
    assert figures["max_error"] == pytest.approx(50)
    assert (figures["mean_regret"], figures["max_regret"]) == (pytest.approx(25), pytest.approx(50))
    assert (figures["groups_exact"], figures["num_groups"]) == (1, 2)
    assert (figures["mean_spearman"], figures["min_spearman"]) == (0.0, -1.0)


def test_a_rule_of_tuples_is_judged_by_its_order():
    figures = choice_accuracy([[((1, 2), 5.0), ((1, 1), 4.0), ((2, 0), 9.0)]])
    assert figures["mean_regret"] == 0 and figures["mean_spearman"] == pytest.approx(1.0)
