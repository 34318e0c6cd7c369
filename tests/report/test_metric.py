"""What a recipe did to the metric stands beside its speed."""

from __future__ import annotations

from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import run_table
from tests.report.editing import edit_all, edit_summary, row_of

ACCURACY = {"name": "accuracy", "value": 0.9, "higher_is_better": True, "also": {}, "num_samples": 50, "reason": ""}


def note(study, label, workload="mlp"):
    """What stands below the metric, and why it is missing."""
    index = [column.key for column in run_table.COLUMNS].index("metric_value")
    found = {(run.workload, run.label): cells[index] for run, cells in run_table.table(load(study))}
    cell, _, words = found[workload, label]
    return {"note": words, "reason": cell.reason}


def test_the_metric_is_compared_with_the_plain_serial_run(study):
    edit_all(study, lambda summary: summary.update(metric=dict(ACCURACY)))
    edit_summary(study, "mlp", "dp2 fp32 x1", lambda summary: summary["metric"].update(value=0.875))
    assert row_of(study, "mlp", "serial fp32 x1")["metric_value"] == 0.9
    assert abs(row_of(study, "mlp", "dp2 fp32 x1")["metric_difference"] + 0.025) < 1e-12
    assert note(study, "dp2 fp32 x1")["note"] == "accuracy, -0.025 against serial fp32"
    assert note(study, "serial fp32 x1")["note"] == "accuracy"


def test_runs_that_trained_longer_are_not_compared(study):
    edit_all(study, lambda summary: summary.update(metric=dict(ACCURACY)))
    edit_summary(study, "mlp", "dp2 fp32 x1", lambda summary: summary["steps"].update(num_timed=60))
    found = row_of(study, "mlp", "dp2 fp32 x1")
    assert found["metric_difference"] is None
    assert "trained as long" in found["metric_difference_reason"]
    assert note(study, "dp2 fp32 x1")["note"] == "accuracy"


def test_no_metric_has_a_reason(study):
    none = {"name": None, "value": None, "also": {}, "num_samples": 0, "reason": "the workload names no metric"}
    edit_all(study, lambda summary: summary.update(metric=none))
    found = row_of(study, "mlp", "dp2 fp32 x1")
    assert (found["metric_value"], found["metric_value_reason"]) == (None, "the workload names no metric")
    assert note(study, "dp2 fp32 x1")["reason"] == "the workload names no metric"


def test_a_wrong_run_has_no_metric_because_it_is_wrong(study):
    edit_all(study, lambda summary: summary.update(metric=dict(ACCURACY)))
    found = row_of(study, "digits", "tp2 bf16 x4")
    assert (found["metric_value"], found["metric_value_reason"]) == (None, "the run is wrong")
