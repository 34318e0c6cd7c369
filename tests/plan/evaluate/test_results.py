"""A study's own runs against its plan: errors, order, regret and memory, on round numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.plan.evaluate.results import Outcome, evaluate_results, scores


def outcome(predicted_ms: float | None, measured_ms: float, *, half_ms: float = 0.1, **more: Any) -> Outcome:
    known: dict[str, Any] = {"predicted_bytes": 90, "measured_bytes": 100.0, "disturbed": False, "reason": None}
    return Outcome(
        workload="lm",
        run_id="lm-serial-fp32-a1-0",
        label="lm-serial-fp32-a1",
        predicted_ms=predicted_ms,
        measured_ms=measured_ms,
        low_ms=measured_ms - half_ms,
        high_ms=measured_ms + half_ms,
        **known | more,
    )


def test_errors_are_relative_to_what_was_measured_and_refused_runs_are_counted():
    found = scores([outcome(11, 10), outcome(16, 20), outcome(None, 30)])
    assert (found["num_rows"], found["num_refused"]) == (2, 1)
    assert found["median_error"] == pytest.approx(15) and found["signed_error"] == pytest.approx(-5)
    assert found["max_error"] == pytest.approx(20)
    assert found["memory_signed_error"] == pytest.approx(-10) and found["memory_max_under"] == pytest.approx(10)


def test_only_pairs_whose_intervals_differ_are_ordered():
    apart = scores([outcome(1, 10), outcome(3, 20), outcome(2, 30)])
    assert apart["num_pairs"] == 3 and apart["pairs_in_order"] == pytest.approx(200 / 3)
    assert apart["mean_spearman"] == pytest.approx(0.5)
    near = scores([outcome(2, 10, half_ms=20), outcome(1, 11, half_ms=20)])
    assert "num_pairs" not in near and near["regret_first_1"] == 0


def test_a_wrong_choice_costs_what_it_is_slower():
    assert scores([outcome(1, 15), outcome(2, 10)])["max_regret"] == pytest.approx(50)
    assert scores([outcome(1, 10), outcome(2, 15)])["max_regret"] == 0


def test_results_without_a_plan_or_without_runs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"plan\.json is missing"):
        evaluate_results(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps({"candidates": [{"chosen": True, "run_id": "a", "workload": "w"}]}))
    with pytest.raises(ConfigError, match=r"no run was measured \(a: "):
        evaluate_results(tmp_path)
