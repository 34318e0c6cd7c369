"""One attempt at a run, as its directory tells it: that it began, what a warning left, how it ended.

    .attempt       written first: the job's number. A summary older than it belongs to an earlier attempt.
    .ready         exists once all ranks listen to signals; written by them
    .stop          a warning that came before that, for the ranks to find
    job.json       facts of the last attempt: where, when, exit code, newest checkpoint
    summary.json   written by the ranks; by this module where they could not

Success is a summary of this very attempt that says so; a launcher's exit code alone proves nothing (MPICH returns 0
when a rank leaves early).
"""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from hpc_accel.errors import CannotCreateError
from hpc_accel.files import read_json
from hpc_accel.jobs import allocation
from hpc_accel.jobs.diagnosis import Failure

MARKER, READY, STOP = ".attempt", ".ready", ".stop"
SUCCESSFUL = frozenset({"completed", "wrong"})


def begin(run_dir: Path, job_id: str | None) -> None:
    """Mark that an attempt begins."""
    for name in (READY, STOP):
        (run_dir / name).unlink(missing_ok=True)
    (run_dir / MARKER).write_text(f"{job_id or ''}\n")


def check_writable(run_dir: Path) -> None:
    """Raise CannotCreateError where records cannot be written."""
    probe = run_dir / ".writable"
    try:
        probe.write_text("records\n")
        probe.unlink()
    except OSError as error:
        raise CannotCreateError(
            f"{run_dir} cannot be written: {error.strerror or error}",
            "records go beside run.json",
            "make room there, or make it writable",
        ) from error


def keep_warning(run_dir: Path) -> bool:
    """Leave a warning where ranks that do not listen yet will find it; whether they listen already."""
    (run_dir / STOP).touch()
    return (run_dir / READY).exists()


def facts(environ: MutableMapping[str, str], *, launched_unix_s: float, exit_code: int) -> dict[str, Any]:
    """Where and when this attempt ran, as the batch environment says."""
    job_id = environ.get("SLURM_JOB_ID") or None
    return {
        "job_id": job_id,
        "job_name": environ.get("SLURM_JOB_NAME"),
        "partition": allocation.of_all_components(environ, "SLURM_JOB_PARTITION"),
        "node_list": allocation.of_all_components(environ, "SLURM_JOB_NODELIST"),
        "attempt": int(environ.get("SLURM_RESTART_COUNT") or 0) + 1,
        "script_started_unix_s": process_started_unix_s(),
        "launched_unix_s": launched_unix_s,
        "ended_unix_s": time.time(),
        "exit_code": exit_code,
        "exclusive": allocation.had_nodes_to_itself(job_id),
        "neighbours": allocation.neighbours(environ),
    }


def process_started_unix_s() -> float:
    """When this process began: the script's first line, because the script has become this process by `exec`."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22, since boot
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)


def complete_record(run_dir: Path, failure: Failure | None, job: dict[str, Any]) -> int:
    """Make sure summary.json tells how this attempt ended. The exit code that follows from it."""
    status = _status(run_dir)
    if status in SUCCESSFUL:  # whole and of this attempt: a crash while the interpreter ends takes nothing back
        return 0
    if status and status not in SUCCESSFUL:
        return (failure.exit_code if failure else 70) or 1
    failure = failure or Failure.without_record()
    # Needs the run's schema, which takes a third of a second to import: only here, where there is no result.
    from hpc_accel import record
    from hpc_accel.jobs.failure import summary_of_failure
    from hpc_accel.study.run_file import read_run

    record.write(run_dir / "summary.json", summary_of_failure(read_run(run_dir / "run.json"), failure, job))
    return failure.exit_code


def has_succeeded(run_dir: Path) -> bool:
    """Whether the ranks of this attempt left a result."""
    return _status(run_dir) in SUCCESSFUL


def _status(run_dir: Path) -> str | None:
    """What the summary of this attempt says; None where there is none, or an earlier attempt's."""
    path, marker = run_dir / "summary.json", run_dir / MARKER
    fresh = path.is_file() and marker.is_file() and path.stat().st_mtime_ns >= marker.stat().st_mtime_ns
    return read_json(path).get("status") if fresh else None


def newest_checkpoint(run_dir: Path) -> str:
    """The name of the newest checkpoint, empty when there is none."""
    latest = run_dir / "checkpoints" / "latest"
    if latest.is_symlink():
        return str(latest.readlink())
    return latest.read_text().strip() if latest.is_file() else ""
