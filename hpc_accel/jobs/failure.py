"""The record of an attempt whose ranks could not write one."""

from __future__ import annotations

import datetime
from typing import Any

from hpc_accel.jobs.diagnosis import Failure
from hpc_accel.record import Summary, without_result
from hpc_accel.record.parts import Error
from hpc_accel.study.run import Run


def summary_of_failure(run: Run, failure: Failure, facts: dict[str, Any]) -> Summary:
    """A summary for an attempt whose ranks could not write one. Nothing was measured, so nothing has a number."""
    return without_result(
        run,
        status=failure.status,
        error=Error(rank=failure.rank, kind=failure.kind, message=failure.message, remedy=failure.remedy),
        started_utc=_utc(facts["launched_unix_s"]),
        ended_utc=_utc(facts["ended_unix_s"]),
        attempt=facts["attempt"],
        job_id=facts["job_id"],
    )


def _utc(unix_s: float) -> str:
    return datetime.datetime.fromtimestamp(unix_s, tz=datetime.UTC).isoformat(timespec="seconds")
