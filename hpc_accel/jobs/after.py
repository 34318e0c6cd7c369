"""What a job script does when its ranks have ended: complete the record, decide on a restart, choose the exit code.

Called as `python -m hpc_accel.jobs.after RUN_DIR ...`. Success is a summary of this very attempt that says so;
a launcher's exit code alone proves nothing (MPICH returns 0 when a rank leaves early).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_accel import record
from hpc_accel.errors import HpcAccelError
from hpc_accel.files import read_object, write_atomically
from hpc_accel.jobs.failure import Failure, diagnose, summary_of_failure
from hpc_accel.study.run import Run

MAX_WITHOUT_PROGRESS = 3
"""Exit codes 75 in a row with the same newest checkpoint after which a job gives up."""
RETRYABLE = 75


@dataclass(frozen=True, kw_only=True)
class Restart:
    """Whether this job goes back into the queue, and what a person is told."""

    requeue: bool
    exit_code: int
    message: str
    num_without_progress: int


def decide_restart(
    exit_code: int, *, restarts: int, max_restarts: int, own_batch_shell: bool, progress: str, earlier: dict[str, Any]
) -> Restart:
    """Only 75 restarts, only in the job's own batch shell, within the site's limit, while checkpoints advance."""
    if exit_code != RETRYABLE:
        return Restart(requeue=False, exit_code=exit_code, message="", num_without_progress=0)
    stuck = earlier.get("num_without_progress", 0) + 1 if earlier.get("progress") == progress else 1
    if stuck >= MAX_WITHOUT_PROGRESS:
        message = f"no progress since restart: {stuck} attempts ended at checkpoint {progress or 'none'!r}"
        return Restart(requeue=False, exit_code=70, message=message, num_without_progress=stuck)
    if not own_batch_shell or max_restarts == 0:
        return Restart(requeue=False, exit_code=RETRYABLE, message="", num_without_progress=stuck)
    if restarts >= max_restarts:
        message = f"restarted {restarts} time(s) and the site's max_restarts is {max_restarts}: not again"
        return Restart(requeue=False, exit_code=RETRYABLE, message=message, num_without_progress=stuck)
    message = f"back into the queue: restart {restarts + 1} of at most {max_restarts}"
    return Restart(requeue=True, exit_code=RETRYABLE, message=message, num_without_progress=stuck)


def complete_record(run_dir: Path, failure: Failure | None, facts: dict[str, Any]) -> int:
    """Make sure summary.json tells how this attempt ended. The exit code that follows from it."""
    path, marker = run_dir / "summary.json", run_dir / ".attempt"
    fresh = path.is_file() and marker.is_file() and path.stat().st_mtime_ns >= marker.stat().st_mtime_ns
    status = read_json(path).get("status") if fresh else None
    if status in {"completed", "wrong"} and failure is None:
        return 0
    code = failure.exit_code if failure else 70
    if status and status not in {"completed", "wrong"}:
        return code or 1
    if failure is None:
        failure = Failure.without_record()
    run = Run.model_validate_json((run_dir / "run.json").read_bytes())
    record.write(path, summary_of_failure(run, failure, facts))
    return failure.exit_code


def newest_checkpoint(run_dir: Path) -> str:
    """The name of the newest checkpoint, empty when there is none."""
    latest = run_dir / "checkpoints" / "latest"
    if latest.is_symlink():
        return str(latest.readlink())
    return latest.read_text().strip() if latest.is_file() else ""


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`; empty when it is missing or broken."""
    content = read_object(path)
    return {} if isinstance(content, str) else content


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Whole or not at all. Raises what `write_atomically` raises."""
    write_atomically(path, json.dumps(data, indent=2) + "\n")


def job_facts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where and when this attempt ran, as the batch environment says."""
    variables = {"job_id": "SLURM_JOB_ID", "job_name": "SLURM_JOB_NAME"}
    facts: dict[str, Any] = {key: os.environ.get(name) for key, name in variables.items()}
    facts |= {"partition": _of_all("SLURM_JOB_PARTITION"), "node_list": _of_all("SLURM_JOB_NODELIST")}
    return facts | {
        "attempt": int(os.environ.get("SLURM_RESTART_COUNT") or 0) + 1,
        "script_started_unix_s": arguments.script_started,
        "launched_unix_s": arguments.launched,
        "ended_unix_s": time.time(),
        "exit_code": arguments.exit_code,
        "exclusive": had_nodes_to_itself(os.environ.get("SLURM_JOB_ID")),
    }


def _of_all(name: str) -> str | None:
    """A variable of Slurm's; of a heterogeneous job that of every component, joined by commas."""
    size = os.environ.get("SLURM_HET_SIZE", "1")
    if not size.isdigit() or int(size) == 1:
        return os.environ.get(name)
    return ",".join(os.environ.get(f"{name}_HET_GROUP_{k}", "") for k in range(int(size)))


def had_nodes_to_itself(job_id: str | None) -> bool | None:
    """Whether Slurm gave the job whole nodes; None outside Slurm, or when it does not answer."""
    if job_id is None:
        return None
    command = ["scontrol", "--oneliner", "show", "job", job_id]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.findall(r"\bOverSubscribe=(\S+)", answer)  # one for each component
    return all(word == "NO" for word in found) if found else None


def main() -> int:
    """Read the script's arguments, write summary.json and job.json, and say how the script should end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--exit-code", type=int, required=True)
    parser.add_argument("--signal", default="")
    parser.add_argument("--script-started", type=float, required=True)
    parser.add_argument("--launched", type=float, required=True)
    parser.add_argument("--max-restarts", type=int, required=True)
    parser.add_argument("--own-batch-shell", choices=("true", "false"), required=True)
    arguments = parser.parse_args()
    facts = job_facts(arguments)
    failure = diagnose(arguments.exit_code, arguments.signal, facts["job_id"]) if arguments.exit_code else None
    if failure and failure.status == "cancelled" and facts["job_id"] is None:
        # Ctrl-C on one's own machine is no result: without a record, the next start measures this run again.
        (arguments.run_dir / "summary.json").unlink(missing_ok=True)
        return failure.exit_code
    code = complete_record(arguments.run_dir, failure, facts)
    progress = newest_checkpoint(arguments.run_dir)
    restart = decide_restart(
        code,
        restarts=facts["attempt"] - 1,
        max_restarts=arguments.max_restarts,
        own_batch_shell=arguments.own_batch_shell == "true",
        progress=progress,
        earlier=read_json(arguments.run_dir / "job.json"),
    )
    facts |= {"format": 1, "progress": progress, "num_without_progress": restart.num_without_progress}
    write_json(arguments.run_dir / "job.json", facts)
    if restart.message:
        sys.stderr.write(restart.message + "\n")
    if restart.requeue:
        subprocess.run(["scontrol", "requeue", facts["job_id"]], check=True)
    return restart.exit_code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HpcAccelError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
