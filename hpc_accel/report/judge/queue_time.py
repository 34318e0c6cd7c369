"""What a run waited for before its first rank ran: Slurm's queue, and the workflow itself on top of that.

The workflow's part is from the job's start on its nodes to the first rank's first line, without the queue: the script,
staging an environment, the launcher. Of runs that took turns in one job, each counts from its own script's start.
"""

from __future__ import annotations

from datetime import datetime

from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord


def workflow_s(run: RunRecord) -> float | None:
    """Seconds from the start of the job (of the script, outside Slurm and in a shared job) to the first rank."""
    ranks = _unix_s(run.summary.started_utc)
    alone = safe_json.number(run.accounting, "num_runs") == 1
    began = safe_json.positive(run.accounting, "started_unix_s") if alone else None
    # Slurm's accounting counts whole seconds, so a quick start may seem to begin before its script.
    script = safe_json.positive(run.job, "script_started_unix_s")
    began = min(began, script) if began and script else began or script
    if ranks is None or began is None or ranks < began:
        return None
    return ranks - began


def _unix_s(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None
