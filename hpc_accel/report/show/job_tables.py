"""The section of the page on jobs: their state, and what each run waited for before its first rank ran."""

from __future__ import annotations

from statistics import median
from typing import Any

from hpc_accel.report.judge import wording
from hpc_accel.report.judge.queue_time import workflow_s
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.study_records import StudyRecords

NO_JOB = "not a Slurm job"


def rows(records: StudyRecords) -> list[dict[str, Any]]:
    """A row a run that left a record of its job: the job, its state, queue and workflow seconds, attempts."""
    found = []
    for run in records.measurements:
        if not run.job:
            continue
        facts = run.accounting
        found.append(
            {
                "name": f"{run.workload} {run.label}",
                "job_id": safe_json.text(run.job, "job_id") or NO_JOB,
                "state": safe_json.text(facts, "state") or safe_json.text(facts, "state_reason") or run.status,
                "queued": _seconds(safe_json.number(facts, "queued_s")),
                "workflow": _seconds(workflow_s(run)),
                "elapsed": _elapsed(facts),
                "attempts": f"{run.summary.attempt}",
            }
        )
    return found


def words(records: StudyRecords) -> str:
    """The medians over all runs in one sentence; "" where nothing is known."""
    own = [value for run in records.measurements if (value := workflow_s(run)) is not None]
    queue = [
        value for run in records.measurements if (value := safe_json.number(run.accounting, "queued_s")) is not None
    ]
    parts = [f"{_seconds(median(own))} from job start to first rank"] if own else []
    parts += [f"{_seconds(median(queue))} in Slurm's queue"] if queue else []
    return f"Median per run: {', '.join(parts)}." if parts else ""


def _elapsed(facts: dict[str, Any]) -> str:
    num_runs = int(safe_json.positive(facts, "num_runs") or 1)
    words = _seconds(safe_json.positive(facts, "elapsed_s"))
    return f"{words} for {num_runs} runs" if num_runs > 1 else words


def _seconds(value: float | None) -> str:
    return wording.duration(value * 1e3) if value is not None else wording.NOT_MEASURED
