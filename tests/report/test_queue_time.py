"""What a run waited for before its first rank: Slurm's queue, and the workflow on top, each from its own source."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from hpc_accel.report.judge import queue_time
from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import job_tables
from hpc_accel.report.write import write
from tests.report.make_study import make_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_study(tmp_path / "made", faults=False)


def book(study: Path, *, before_s: float, **facts: object) -> str:
    """Slurm's books of the first run, whose job began `before_s` before its ranks; its id."""
    run = load(study).runs[0]
    run_id = run.run_id
    facts["started_unix_s"] = datetime.fromisoformat(run.summary.started_utc).timestamp() - before_s
    (study / "accounting.json").write_text(json.dumps({"format": 1, "jobs": {run_id: facts}}))
    job = study / "runs" / run_id / "job.json"
    job.write_text(json.dumps(json.loads(job.read_text()) | {"job_id": "12"}))
    return run_id


def test_outside_slurm_it_counts_from_the_script(study: Path):
    records = load(study)
    assert {queue_time.workflow_s(run) for run in records.runs} == {1.5}
    assert job_tables.rows(records)[0]["job_id"] == job_tables.NO_JOB
    assert job_tables.words(records) == "Median per run: 1.50 s from job start to first rank."


def test_a_job_of_its_own_counts_from_its_start(study: Path):
    book(study, job_id="12", state="COMPLETED", queued_s=40.0, before_s=4, num_runs=1, elapsed_s=30)
    records = load(study)
    assert queue_time.workflow_s(records.runs[0]) == 4.0
    row = job_tables.rows(records)[0]
    assert (row["job_id"], row["state"], row["queued"], row["elapsed"]) == ("12", "COMPLETED", "40.0 s", "30.0 s")
    assert "40.0 s in Slurm's queue" in job_tables.words(records)
    write(study)
    assert "Start to first rank" in (study / "report.html").read_text()


def test_runs_that_took_turns_count_from_their_own_script(study: Path):
    book(study, job_id="12", state="COMPLETED", queued_s=40.0, before_s=400, num_runs=9)
    assert queue_time.workflow_s(load(study).runs[0]) == 1.5


def test_unknown_is_not_measured(study: Path):
    run_id = load(study).runs[0].run_id
    (study / "runs" / run_id / "job.json").write_text(json.dumps({"job_id": "7"}))
    run = load(study).runs[0]
    assert queue_time.workflow_s(run) is None
    assert job_tables.rows(load(study))[0]["workflow"] == "not measured"
