"""What `make demo` left: run by .ci/run on a fresh clone, with HPC_ACCEL_DEMO naming its results."""

import csv
import json
import os
from pathlib import Path

import pytest

from hpc_accel.report.show.summary_table import CSV_COLUMNS

RESULTS = os.environ.get("HPC_ACCEL_DEMO")
pytestmark = [pytest.mark.demo, pytest.mark.skipif(not RESULTS, reason="HPC_ACCEL_DEMO names no results")]


def rows():
    with (Path(RESULTS) / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_table_has_the_columns_and_the_five_layouts():
    table = rows()
    assert tuple(table[0]) == CSV_COLUMNS
    for workload in ("digits", "lm"):
        layouts = {(row["dp"], row["pp"], row["tp"]) for row in table if row["workload"] == workload}
        expected = {("1", "1", "1"), ("2", "1", "1"), ("1", "2", "1"), ("1", "1", "2"), ("2", "2", "1")}
        assert layouts == expected
    assert {row["precision"] for row in table} == {"fp32", "bf16"}
    assert {row["accumulation_steps"] for row in table} == {"1", "4"}
    assert any(row["workload"] == "mlp" for row in table)


def test_every_run_computed_the_same_and_was_timed():
    for row in rows():
        assert row["status"] == "completed", row["run_id"]
        assert float(row["parity_max_rel_err"]) <= (1e-4 if row["precision"] == "fp32" else 0.05)
        low, middle, high = (float(row[f"step_time_{name}ms"]) for name in ("ci_low_", "", "ci_high_"))
        assert 0 < low <= middle <= high
        why = json.loads(row["reasons"]).get("predicted_step_time_ms", "")
        if why:  # ranks beyond cores are not predicted, nor is what a disturbed calibration tells
            assert not row["predicted_step_time_ms"]
            assert "core(s) of a node" in why or "disturbed" in why
        else:
            assert float(row["predicted_step_time_ms"]) > 0


def test_nothing_unmeasured_is_zero():
    for row in rows():
        assert row["energy_j"] == "" or float(row["energy_j"]) > 0
        assert bool(row["energy_j"]) != bool(row["energy_reason"])
        for name in ("latency_p50_ms", "latency_p99_ms", "cost", "comm_exposed_ms", "bubble_fraction"):
            assert row[name] == "" or float(row[name]) > 0, (row["run_id"], name)


def test_each_run_left_its_whole_record():
    for row in rows():
        run = Path(RESULTS) / "runs" / row["run_id"]
        for name in (
            "run.json",
            "job.sbatch",
            "steps.parquet",
            "energy.parquet",
            "trace.json",
            "summary.json",
            "log.txt",
        ):
            assert (run / name).stat().st_size > 0, (run, name)
        assert json.loads((run / "run.json").read_text())["layout"]["dp"] == int(row["dp"])


def test_the_answer_has_five_lines():
    answer = (Path(RESULTS) / "answer.txt").read_text()
    assert len(answer.strip().splitlines()) == 5


def test_jobs_of_a_cluster_are_in_its_books():
    books = Path(RESULTS) / "accounting.json"
    if json.loads((Path(RESULTS) / "plan.json").read_text())["site"] == "local":
        assert not books.exists()
        return
    jobs = json.loads(books.read_text())["jobs"]
    for row in rows():
        assert jobs[row["run_id"]]["state"] == "COMPLETED"
        assert int(row["num_nodes"]) == (2 if int(row["num_ranks"]) == 4 else 1)
        summary = json.loads((Path(RESULTS) / "runs" / row["run_id"] / "summary.json").read_text())
        assert len(set(summary["hosts"])) == int(row["num_nodes"])
