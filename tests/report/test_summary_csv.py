"""summary.csv: the promised columns, empty where nothing was measured, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from hpc_accel.report.load.study_records import load
from hpc_accel.report.show.summary_csv import render
from hpc_accel.report.write import write
from tests.report.editing import edit, edit_summary

# As promised to users, letter by letter; not taken from the code.
PROMISED = (
    "run_id, workload, status, num_nodes, num_ranks, dp, pp, tp, shard, schedule, micro_batch_size, "
    "accumulation_steps, global_batch_size, precision, compile, recompute, compression, backend, device, "
    "step_time_ms, step_time_ci_low_ms, step_time_ci_high_ms, throughput_samples_per_s, latency_p50_ms, "
    "latency_p99_ms, comm_exposed_ms, bubble_fraction, peak_memory_bytes, energy_j, energy_per_sample_j, "
    "energy_scope, energy_reason, cost, final_loss, parity_max_rel_err, predicted_step_time_ms, "
    "predicted_energy_j, prediction_error"
)


def rows_of(study) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render(load(study)), newline="")))


def row_of(study, workload: str, label: str) -> dict[str, str]:
    return next(row for row in rows_of(study) if (row["workload"], row["label"]) == (workload, label))


def test_the_promised_columns_come_first_in_order(study):
    write(study)
    header = (study / "summary.csv").read_text().splitlines()[0]
    assert header.startswith(PROMISED.replace(", ", ",") + ",")
    assert len(rows_of(study)) == 25


def test_what_was_not_measured_is_empty_with_a_reason(study):
    row = row_of(study, "digits", "dp2 fp32 x1")
    for column in ("energy_j", "energy_per_sample_j", "energy_scope", "cost", "latency_p50_ms", "bubble_fraction"):
        assert row[column] == "", column
    for column in ("energy_reason", "cost_reason", "latency_reason", "bubble_reason"):
        assert row[column], column
    missing = row_of(study, "digits", "pp2.gpipe bf16 x4")
    assert missing["status"] == "missing"
    assert [missing[key] for key in ("step_time_ms", "comm_exposed_ms", "peak_memory_bytes", "final_loss")] == [""] * 4
    assert missing["energy_reason"] == "the run is missing"


def test_numbers_are_the_records(energy_study):
    change = {"step_time_ms": {"median": 20.0, "ci_low": 19.0, "ci_high": 22.0}}
    edit_summary(energy_study, "digits", "dp2 fp32 x1", lambda s: s.update(change))
    row = row_of(energy_study, "digits", "dp2 fp32 x1")
    assert (row["step_time_ms"], row["step_time_ci_low_ms"], row["step_time_ci_high_ms"]) == ("20", "19", "22")
    assert float(row["throughput_samples_per_s"]) == pytest.approx(64 / 0.020)
    assert (row["num_ranks"], row["dp"], row["pp"], row["global_batch_size"]) == ("2", "2", "1", "64")
    predicted = float(row["predicted_step_time_ms"])
    assert float(row["prediction_error"]) == pytest.approx((predicted - 20) / 20)
    assert float(row["energy_per_sample_j"]) == pytest.approx(float(row["energy_j"]) / (30 * 64))
    assert row["energy_scope"] == "gpu-board"
    assert row["compile"] == "false"


def test_a_partial_energy_keeps_its_reason_beside_it(energy_study):
    change = {"is_partial": True, "reason": "partial: 1 of 2 nodes measured"}
    edit_summary(energy_study, "mlp", "dp2 fp32 x1", lambda s: s["energy"].update(change))
    row = row_of(energy_study, "mlp", "dp2 fp32 x1")
    assert row["energy_j"]
    assert row["energy_reason"] == "partial: 1 of 2 nodes measured"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "\n="])
def test_no_text_cell_is_a_formula(study, start):
    evil = start + 'cmd|"/c calc"!A1'
    edit(study / "plan.json", lambda plan: plan["candidates"][0].update(workload=evil))
    edit_summary(study, "digits", "dp2 fp32 x1", lambda s: s["energy"].update(reason=evil))
    for row in rows_of(study):
        for value in row.values():
            is_number = value.lstrip("-").replace(".", "").replace("e", "").replace("-", "").replace("+", "").isdigit()
            assert is_number or not value.lstrip().startswith(("=", "+", "-", "@")), value
    assert any(value == "'" + evil for row in rows_of(study) for value in row.values())


def test_a_failed_run_says_why(study):
    row = row_of(study, "digits", "dp2.pp2.1f1b bf16 x4")
    assert row["status"] == "failed"
    assert row["status_reason"] == "NonFiniteError: loss is NaN at step 12; rank 3"
