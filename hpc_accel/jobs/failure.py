"""The record of an attempt whose ranks could not write one."""

from __future__ import annotations

import datetime
from typing import Any

from hpc_accel.jobs.diagnosis import Failure
from hpc_accel.study.run import Run

NOT_MEASURED = (
    "step_time_ms",
    "throughput_samples_per_s",
    "phases_ms",
    "bubble_fraction",
    "startup_ms",
    "peak_memory_bytes",
    "losses",
    "parity",
)


def summary_of_failure(run: Run, failure: Failure, facts: dict[str, Any]) -> dict[str, Any]:
    """A summary for an attempt whose ranks could not write one. Nothing was measured, so nothing has a number."""
    reason = f"no result: {failure.message}"
    not_measured = dict.fromkeys(NOT_MEASURED)
    no_energy: dict[str, Any] = {
        "energy_j": None,
        "window_s": None,
        "scope": None,
        "method": "none",
        "sensors": [],
        "reason": reason,
    }
    return {
        "format": 1,
        "run_id": run.run_id,
        "study": run.study,
        "site": run.site,
        "status": failure.status,
        "error": {"rank": None, "kind": failure.kind, "message": failure.message, "remedy": failure.remedy},
        "device": None,
        "device_name": None,
        "num_nodes": run.resources.num_nodes,
        "num_ranks": run.resources.num_ranks,
        "hosts": [],
        "started_utc": _utc(facts["launched_unix_s"]),
        "ended_utc": _utc(facts["ended_unix_s"]),
        "attempt": facts["attempt"],
        "job_id": facts["job_id"],
        "steps": None,
        **not_measured,
        **{f"{key}_reason": reason for key in not_measured},
        "energy": no_energy,
        "provenance": {},
    }


def _utc(unix_s: float) -> str:
    return datetime.datetime.fromtimestamp(unix_s, tz=datetime.UTC).isoformat(timespec="seconds")
