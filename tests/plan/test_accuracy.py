"""Figures of merit against values worked out by hand."""

from __future__ import annotations

import pytest

from hpc_accel.plan.accuracy import choice_accuracy, ranks, spearman, time_accuracy


def test_ranks_share_ties():
    assert ranks([3.0, 1.0, 3.0, 2.0]) == [3.5, 1.0, 3.5, 2.0]


def test_spearman():
    assert spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert spearman([1, 1, 1], [1, 2, 3]) is None


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
