"""What sacct's table becomes: figures with units and reasons, the last attempt, and the records of ended jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpc_accel import record
from hpc_accel.jobs import accounting
from hpc_accel.jobs.diagnosis import diagnose
from hpc_accel.jobs.failure import summary_of_failure
from tests.record.make_golden import RUNS, golden
from tests.records import summary_in

HEAD = accounting.FIELDS.replace(",", "|")
TABLE = f"""{HEAD}
7|PREEMPTED|0:0|2026-01-01T10:00:00|2026-01-01T10:00:30|2026-01-01T10:01:00|30|2|n[1-2]|main|
7.batch|CANCELLED|0:15|2026-01-01T10:00:30|2026-01-01T10:00:30|2026-01-01T10:01:00|30|1|n1||0
7|TIMEOUT|0:0|2026-01-01T10:01:00|2026-01-01T10:03:00|2026-01-01T10:13:00|600|2|n[1-2]|main|
7.batch|CANCELLED|0:15|2026-01-01T10:03:00|2026-01-01T10:03:00|2026-01-01T10:13:00|600|1|n1||1234
8|CANCELLED by 0|0:0|2026-01-01T10:00:00|Unknown|Unknown|0|1|None assigned|main|
"""


def left(directory: Path, status: str) -> None:
    """The record of a run that ended so."""
    if status == "completed":
        record.write(directory / "summary.json", golden("train").changed(run_id=directory.name))
        return
    run = RUNS["train"]
    summary = summary_of_failure(
        run, diagnose(1, "", None), {"launched_unix_s": 0.0, "ended_unix_s": 1.0, "attempt": 1, "job_id": None}
    )
    record.write(directory / "summary.json", summary.changed(run_id=directory.name))


@pytest.fixture
def results(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(accounting, "ask", lambda ids: (accounting.parse(TABLE), "unknown"))
    for run_id, job_id, status in (
        ("a", "7", "failed"),
        ("b", "8", "completed"),
        ("c", None, "failed"),
        ("d", "9", "failed"),
    ):
        run = tmp_path / "runs" / run_id
        run.mkdir(parents=True)
        (run / ".attempt").write_text(f"{job_id or ''}\n")
        (run / "job.json").write_text(json.dumps({"job_id": job_id}))
        left(run, status)
    return tmp_path


def test_last_attempt_counts(results: Path):
    jobs = accounting.collect(results)["jobs"]
    assert jobs == json.loads((results / "accounting.json").read_text())["jobs"]
    a = jobs["a"]
    assert (a["state"], a["elapsed_s"], a["queued_s"], a["num_runs"]) == ("TIMEOUT", 600, 120.0, 1)


def test_what_is_unknown_is_null_with_a_reason(results: Path):
    jobs = accounting.collect(results)["jobs"]
    assert (jobs["b"]["state"], jobs["b"]["queued_s"], jobs["b"]["energy"]["energy_j"]) == ("CANCELLED", None, None)
    assert jobs["b"]["energy"]["reason"]
    assert (jobs["d"]["state"], jobs["d"]["state_reason"]) == (None, "unknown")
    assert "c" not in jobs, "not a Slurm job"


def test_jobs_that_slurm_ended_are_recorded_so_with_a_remedy(results: Path):
    assert accounting.complete_statuses(results) == ["a"]
    summary = summary_in(results / "runs/a")
    assert summary.status == "timeout" and "time_limit_min" in summary.error.remedy
    assert summary_in(results / "runs/b").status == "completed", "a result stands"
    assert accounting.complete_statuses(results) == [], "the second time there is nothing to correct"


def test_an_accounting_that_does_not_answer_takes_nothing_back(results: Path, monkeypatch):
    known = accounting.collect(results)["jobs"]
    monkeypatch.setattr(accounting, "ask", lambda ids: ({}, "sacct does not answer"))
    now = accounting.collect(results)["jobs"]
    assert {run_id: now[run_id] for run_id in "ab"} == {run_id: known[run_id] for run_id in "ab"}
    (results / "runs/a/job.json").write_text(json.dumps({"job_id": "12"}))
    now = accounting.collect(results)["jobs"]
    assert (now["a"]["state"], now["a"]["state_reason"]) == (None, "sacct does not answer"), "another job"
    assert now["b"] == known["b"]


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ("PREEMPTED", "PENDING", "in favour of one of higher priority; it is in the queue again"),
        ("NODE_FAIL", "RUNNING", "a node of the job was lost; it runs again"),
        ("REQUEUED", "PENDING", None),
    ],
)
def test_a_job_that_slurm_took_back_is_said_to_wait(before, now, words):
    rows = f"{HEAD}\n7|{before}|0:0|S|S|E|30|1|n1|main||7|00:00:12\n7|{now}|0:0|S|S|E|0|1|n1|main||7|00:00:00\n"
    ended = accounting.facts_of(accounting.parse(rows)["7"], "", {})["ended"]
    assert ended is None if words is None else (ended["status"], words in ended["message"]) == ("preempted", True)


def test_how_long_a_job_was_suspended_is_known():
    rows = f"{HEAD}\n7|COMPLETED|0:0|S|S|E|30|1|n1|main||7|00:00:12\n"
    assert accounting.facts_of(accounting.parse(rows)["7"], "", {})["suspended_s"] == 12


ENERGY = f"""{HEAD}
5|COMPLETED|0:0|2026-01-01T10:00:00|2026-01-01T10:00:30|2026-01-01T10:01:00|30|2|n[1-2]|main|
5.batch|COMPLETED|0:0|2026-01-01T10:00:30|2026-01-01T10:00:30|2026-01-01T10:01:00|30|1|n1||700
5.0|COMPLETED|0:0|2026-01-01T10:00:30|2026-01-01T10:00:30|2026-01-01T10:01:00|28|2|n[1-2]||1300
"""


@pytest.mark.parametrize(
    ("exclusive", "num_runs", "energy_j", "reason"),
    [
        (True, 1, 1300.0, ""),
        (False, 1, None, "shares its nodes"),
        (None, 1, None, "not known"),
        (True, 2, None, "turns"),
    ],
)
def test_energy_is_a_run_s_only_alone_on_whole_nodes(exclusive, num_runs, energy_j, reason):
    facts = accounting.facts_of(accounting.parse(ENERGY)["5"], "", {"exclusive": exclusive}, num_runs=num_runs)
    assert facts["energy"]["energy_j"] == energy_j
    assert reason in facts["energy"]["reason"]


@pytest.mark.parametrize("state", [*accounting.ENDED_BY_SLURM, "FAILED"])
def test_every_way_to_end_has_a_remedy(state: str):
    row = {**accounting.parse(ENERGY)["5"][0], "State": state, "ExitCode": "0:9"}
    ended = accounting.facts_of([row], "", {})["ended"]
    assert ended["remedy"] and ended["status"] in {"timeout", "failed", "preempted", "cancelled"}
    for state, code in (("COMPLETED", "0:0"), ("FAILED", "1:0")):
        assert accounting.facts_of([row | {"State": state, "ExitCode": code}], "", {})["ended"] is None


def test_a_job_killed_without_a_word_is_known_by_its_number(results: Path):
    (results / "runs/a/job.json").unlink()
    (results / "runs/a/summary.json").unlink()
    assert accounting.collect(results)["jobs"]["a"]["state"] == "TIMEOUT"
    assert accounting.complete_statuses(results) == [], "no record is made up: the run can be started again"


def test_without_sacct_the_reason_is_recorded(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert accounting.ask(["7"]) == ({}, "there is no sacct here")
