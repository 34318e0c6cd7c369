"""summary.csv: the promised columns, empty where nothing was measured, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json

import polars as pl
import pytest

from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import summary_table
from hpc_accel.report.show.summary_csv import render
from hpc_accel.report.write import write
from tests.report.editing import edit, edit_summary, set_time
from tests.report.make_inference import add_inference

# As promised to users, letter by letter; not taken from the code.
PROMISED = (
    "run_id, workload, label, status, num_nodes, num_ranks, dp, pp, tp, shard, schedule, micro_batch_size, "
    "accumulation_steps, global_batch_size, precision, options, backend, device, mode, step_time_ms, "
    "step_time_ci_low_ms, step_time_ci_high_ms, throughput_samples_per_s, speed_up, efficiency, comm_exposed_ms, "
    "bubble_fraction, mfu, peak_memory_bytes, latency_p50_ms, latency_p99_ms, energy_j, energy_per_sample_j, "
    "energy_scope, energy_reason, cost, final_loss, metric, metric_value, parity_max_rel_err, "
    "predicted_step_time_ms, prediction_error, warnings, reasons"
)


def rows_of(study) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render(summary_table.rows(load(study))), newline="")))


def row_of(study, workload: str, label: str) -> dict[str, str]:
    return next(row for row in rows_of(study) if (row["workload"], row["label"]) == (workload, label))


def reasons_of(row: dict[str, str]) -> dict[str, str]:
    return json.loads(row["reasons"])


def test_the_columns_are_those_promised_in_order(study):
    write(study)
    header = (study / "summary.csv").read_text().splitlines()[0]
    assert header == PROMISED.replace(", ", ",")
    assert len(header.split(",")) <= 45
    assert len(rows_of(study)) == 25


def test_every_empty_cell_has_a_reason_and_no_other(study):
    add_inference(study)
    rows = rows_of(study)
    assert {row["status"] for row in rows} == {"completed", "wrong", "failed", "missing"}
    for row in rows:
        empty = {column for column, value in row.items() if value == ""}
        # These two are remarks: empty where there is nothing to say.
        assert empty - {"warnings", "energy_reason"} == set(reasons_of(row)), row["run_id"]
        assert all(reasons_of(row).values())


def test_not_applicable_is_a_reason_of_its_own(study):
    add_inference(study)
    rows = rows_of(study)
    trains = next(row for row in rows if row["label"] == "serial fp32 x1")
    infers = next(row for row in rows if row["mode"] == "infer")
    assert reasons_of(trains)["latency_p99_ms"].startswith("not applicable: the run trains")
    assert reasons_of(trains)["bubble_fraction"] == "not applicable: no pipeline"
    assert reasons_of(infers)["final_loss"] == "not applicable: inference has no loss"
    assert reasons_of(infers)["speed_up"].startswith("not applicable: ")
    assert not reasons_of(trains)["energy_j"].startswith("not applicable")


def test_options_are_all_that_the_recipe_sets_beside_precision(study):
    options = {"recompute": "full", "compile": True, "gpu_freq_mhz": 1200}
    edit(study / "plan.json", lambda plan: plan["candidates"][0]["recipe"].update(options))
    path = study / "runs" / rows_of(study)[0]["run_id"] / "run.json"
    edit(path, lambda run: run["recipe"].update(options))
    first, second, *_ = rows_of(study)
    assert first["options"] == "compile recompute=full gpu_freq_mhz=1200"
    assert second["options"] == "none"


def test_the_parquet_file_has_every_column_typed_with_its_reason(energy_study):
    add_inference(energy_study)
    write(energy_study)
    frame = pl.read_parquet(energy_study / "summary.parquet")
    assert frame.columns[:19] == PROMISED.split(", ")[:19]
    assert set(PROMISED.split(", ")) < set(frame.columns)
    assert frame.schema["num_ranks"] == pl.Int64
    assert frame.schema["carbon_g"] == pl.Float64
    assert frame.schema["deadline_passed"] == pl.Boolean
    figures = [column for column in frame.columns if f"{column}_reason" in frame.columns and column != "status"]
    assert len(figures) > 50
    for column in figures:
        known = frame[column].is_not_null()
        assert (known ^ frame[f"{column}_reason"].is_not_null()).all(), column
    serial = frame.filter(pl.col("run_id").str.starts_with("digits-serial-fp32-b1")).row(0, named=True)
    assert (serial["batch_size"], serial["max_rate_per_s"], serial["deadline_passed"]) == (1, 280.0, False)


def test_a_study_without_runs_leaves_the_same_columns(study):
    write(study)
    schema = pl.read_parquet_schema(study / "summary.parquet")
    edit(study / "plan.json", lambda plan: plan.update(candidates=[]))
    write(study)
    assert pl.read_parquet_schema(study / "summary.parquet") == schema
    assert (study / "summary.csv").read_text() == PROMISED.replace(", ", ",") + "\n"


def test_what_was_not_measured_is_empty_with_a_reason(study):
    row = row_of(study, "digits", "dp2 fp32 x1")
    for column in ("energy_j", "energy_per_sample_j", "energy_scope", "cost", "latency_p50_ms", "bubble_fraction"):
        assert row[column] == "", column
    assert row["energy_reason"] == reasons_of(row)["energy_j"]
    assert reasons_of(row)["cost"] == "the site gives no price"
    missing = row_of(study, "digits", "pp2.gpipe bf16 x4")
    assert missing["status"] == "missing"
    assert [missing[key] for key in ("step_time_ms", "comm_exposed_ms", "peak_memory_bytes", "final_loss")] == [""] * 4
    assert missing["energy_reason"] == "the run is missing"


def test_numbers_are_the_records(energy_study):
    edit_summary(energy_study, "digits", "dp2 fp32 x1", set_time(20.0, 19.0, 22.0))
    row = row_of(energy_study, "digits", "dp2 fp32 x1")
    assert (row["step_time_ms"], row["step_time_ci_low_ms"], row["step_time_ci_high_ms"]) == ("20", "19", "22")
    assert float(row["throughput_samples_per_s"]) == pytest.approx(64 / 0.020)
    assert (row["num_ranks"], row["dp"], row["pp"], row["global_batch_size"]) == ("2", "2", "1", "64")
    predicted = float(row["predicted_step_time_ms"])
    assert float(row["prediction_error"]) == pytest.approx((predicted - 20) / 20)
    assert float(row["energy_per_sample_j"]) == pytest.approx(float(row["energy_j"]) / (30 * 64))
    assert row["energy_scope"] == "gpu-board"


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
    assert row["warnings"] == "NonFiniteError: loss is NaN at step 12; rank 3"
    assert reasons_of(row)["step_time_ms"] == "no result: loss is NaN at step 12"
