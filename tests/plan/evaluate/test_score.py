"""Figures of merit against values worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from hpc_accel.plan.evaluate.predict import Answer
from hpc_accel.plan.evaluate.score import Judged, choice_scores, memory_scores, time_scores


def row(number, predicted, measured, *, group=("a",), ran=True, need=None, peak=None):
    case = SimpleNamespace(
        number=number,
        group=group,
        step_time_s=measured,
        scored=True,
        ran=ran,
        peak_memory_bytes=peak,
        layout=None,
        allocated_bytes=None,
        arguments=(),
    )
    return Judged(case=case, answer=Answer(step_time_s=predicted, peak_memory_bytes=need))  # type: ignore[arg-type]


def test_errors_and_regret():
    # 10 % over and 50 % under; the second group chooses 30 where 20 was there.
    rows = [row(1, 11, 10), row(2, 22, 20), row(3, 15, 30, group=("b",)), row(4, 22, 20, group=("b",))]
    scores = time_scores(rows)
    assert scores["mape"] == pytest.approx((10 + 10 + 50 + 10) / 4)
    assert scores["signed_error"] == pytest.approx((10 + 10 - 50 + 10) / 4)
    assert (scores["regret_first_1"], scores["max_regret"]) == (pytest.approx(25), pytest.approx(50))
    assert (scores["best_picked"], scores["num_groups"], scores["min_spearman"]) == (50, 2, -1)
    assert scores["regret_first_3"] == 0


def test_a_refused_row_costs_regret_where_it_is_the_best_and_says_nothing_of_the_order():
    scores = time_scores([row(1, None, 10), row(2, 20, 20), row(3, 30, 30)])
    assert (scores["num_rows"], scores["num_refused"]) == (2, 1)
    assert (scores["regret_first_1"], scores["regret_first_3"]) == (pytest.approx(100), 0)
    assert scores["mean_spearman"] == 1


def test_rows_sorted_by_speed_do_not_help_who_cannot_tell_them_apart():
    scores = time_scores([row(number, 1.0, float(number)) for number in range(1, 50)])
    assert scores["regret_first_1"] > 100


def test_a_rule_of_tuples_is_judged_by_its_order():
    scores = choice_scores([[((1, 2), 5.0), ((1, 1), 4.0), ((2, 0), 9.0)]])
    assert scores["regret_first_1"] == 0 and scores["mean_spearman"] == pytest.approx(1.0)


def test_memory_counts_both_ways_of_being_wrong():
    rows = [
        row(1, 1, 1, need=8, peak=10),
        row(2, 1, 1, need=12, peak=10),
        row(3, 1, None, ran=False, need=9),
        row(4, 1, None, ran=False, need=11),
    ]
    scores = memory_scores(rows, 10)
    assert (scores["memory_signed_error"], scores["memory_max_under"]) == (pytest.approx(0), pytest.approx(20))
    assert (scores["ran_but_refused"], scores["failed_but_called_fit"]) == (50, 50)
    assert math.isclose(scores["under_by_10_percent"], 50)
