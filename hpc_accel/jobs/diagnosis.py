"""Why an attempt ended without a result, in the report's words: status, message, remedy."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_accel.files import read_json
from hpc_accel.jobs import allocation

if TYPE_CHECKING:
    from hpc_accel.record.parts import Status

MORE_TIME = "raise resources.time_limit_min in the study"
MORE_MEMORY = "raise resources.memory_mb in the study, or choose a layout with more ranks or a smaller micro-batch"
SEE_LOG = "the cause stands in log.txt beside summary.json"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How an attempt ended. `exit_code` is what the script should end with."""

    status: Status
    kind: str
    message: str
    remedy: str
    exit_code: int
    rank: int | None = None
    """The rank whose error came first, where one told its error."""

    @classmethod
    def without_record(cls) -> Failure:
        """The launcher reported success, but no rank left a summary of this attempt."""
        message = "the launcher ended with exit code 0 but this attempt left no summary"
        return cls(status="failed", kind="no record", message=message, remedy=SEE_LOG, exit_code=70)


def diagnose(exit_code: int, asked_to_stop: str, job_id: str | None) -> Failure:
    """The failure behind a launcher's exit code and the signal that the script had got before."""
    if exit_code == 75:
        status: Status = "preempted" if asked_to_stop else "failed"
        message = "stopped after a warning signal; it can be continued" if asked_to_stop else "hung or lost a peer"
        remedy = "start it again: it continues from its last checkpoint"
        return Failure(status=status, kind="retryable", message=message, remedy=remedy, exit_code=75)
    if asked_to_stop:
        return _stopped(exit_code, asked_to_stop, job_id)
    number = exit_code - 128 if exit_code > 128 else exit_code if exit_code in {6, 9, 11} else 0
    if number == signal.SIGKILL:
        message = "a rank was killed (SIGKILL), most often because the node ran out of memory"
        return Failure(status="failed", kind="killed", message=message, remedy=MORE_MEMORY, exit_code=137)
    if 0 < number < 65:
        message = f"a rank was killed by {signal.Signals(number).name}"
        return Failure(status="failed", kind="killed", message=message, remedy=SEE_LOG, exit_code=128 + number)
    message = f"the launcher ended with exit code {exit_code}"
    return Failure(status="failed", kind="exit code", message=message, remedy=SEE_LOG, exit_code=exit_code)


def told_by_ranks(failure: Failure, run_dir: Path, since_unix_s: float) -> Failure:
    """`failure` with the first error that a rank of this attempt left in error.rank<k>.json: the others follow from it.

    How the job was stopped from outside explains itself, and stays.
    """
    told = [read_json(path) for path in run_dir.glob("error.rank*.json") if path.stat().st_mtime >= since_unix_s]
    known = [each for each in told if isinstance(each.get("time_ns"), int) and each.get("message") is not None]
    if failure.kind not in ("exit code", "no record") or not known:
        return failure
    first = min(known, key=lambda each: each["time_ns"])
    lines = str(first["message"]).splitlines() or [""]
    where = f" ({first['where']})" if first.get("where") else ""
    return replace(
        failure,
        kind=str(first.get("kind")),
        message=f"rank {first.get('rank')}: {first.get('kind')}: {lines[0]}{where}",
        remedy=str(first.get("remedy") or SEE_LOG),
        rank=first["rank"] if isinstance(first.get("rank"), int) else None,
    )


def _stopped(exit_code: int, asked_to_stop: str, job_id: str | None) -> Failure:
    end_unix_s = allocation.limit_unix_s(job_id) if job_id else None
    late = end_unix_s is not None and time.time() >= end_unix_s - 5
    if late or asked_to_stop == "USR1":
        message = "the job's time limit came before the run was done"
        return Failure(status="timeout", kind="time limit", message=message, remedy=MORE_TIME, exit_code=exit_code)
    message = f"stopped by SIG{asked_to_stop}: cancelled by a person, or by Slurm for a job of higher priority"
    remedy = "start it again when it is wanted"
    return Failure(status="cancelled", kind="cancelled", message=message, remedy=remedy, exit_code=143)
