"""Job after job until a training is done: here one after the other, on a cluster as a chain in Slurm's queue.

Every job of a chain is the same script. They have one name and the dependency `singleton`, so that each waits until
those before it have ended, and goes on from their checkpoint. One that finds the training done ends at once.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from hpc_accel.errors import ConfigError
from hpc_accel.jobs import history
from hpc_accel.jobs.child import Child
from hpc_accel.jobs.restart import RETRYABLE
from hpc_accel.jobs.submit import KEPT

START_UP_SHARE = 1.2
"""Of the steps' time: what starting, saving and evaluating may take on top."""


def num_submitted(num_jobs: int, max_restarts: int) -> int:
    """Jobs of a chain that may put themselves back into the queue so often; one more than expected where it is long."""
    return 1 if num_jobs == 1 else math.ceil(num_jobs / (max_restarts + 1)) + 1


def num_jobs(time_s: float | None, time_limit_min: int) -> int:
    """Jobs that a training of so long is expected to need."""
    return max(1, math.ceil((time_s or 0.0) * START_UP_SHARE / (time_limit_min * 60)))


def run_here(script: Path, tell: Callable[[str], None]) -> int:
    """Start the script again and again while it asks for that; its last exit code.

    The script itself gives up after several attempts without a new checkpoint, and ends at its time limit. One that
    did not even begin an attempt, because another process is at the training, is not started again.
    """
    child, attempts = Child(), 0
    while True:
        attempts += 1
        begun = _num_begun(script.parent)
        code = child.run(["bash", str(script)], os.environ)
        if code != RETRYABLE or child.asked_to_stop or _num_begun(script.parent) == begun:
            return code
        tell(f"attempt {attempts} ended before the training did; it goes on from the last checkpoint")


def _num_begun(directory: Path) -> int:
    return sum(event.get("event") == "begin" for event in history.read(directory))


def submit_chain(script: Path, count: int) -> list[str]:
    """Put the script into Slurm's queue `count` times; the jobs' ids. Raises ConfigError."""
    environment = {
        key: value for key, value in os.environ.items() if key in KEPT or not key.startswith(("SLURM_", "SBATCH_"))
    }
    found = []
    for _ in range(count):
        try:
            done = subprocess.run(
                ["sbatch", "--parsable", str(script)], env=environment, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise ConfigError(
                "no sbatch here", "jobs are sent from a machine of the cluster", "run it on its login node"
            ) from None
        if done.returncode:
            raise ConfigError(
                f"sbatch refused {script}: {done.stderr.strip()}",
                "a job fits what the site allows",
                "correct the study or the site file",
            )
        found.append(done.stdout.strip().partition(";")[0])
    return found


def cancel(job_ids: list[str]) -> None:
    """Take the other jobs of a chain out of the queue; those that have ended are none of scancel's."""
    subprocess.run(["scancel", "--quiet", *job_ids], check=False, timeout=60)
