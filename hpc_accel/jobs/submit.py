"""Send a job script to Slurm and wait for the job: what Snakemake's plugin does, for jobs that it cannot send.

The plugin composes an sbatch call of its own, which has one set of resources; a heterogeneous job has several, and
they stand in the script. So here sbatch gets the script as it is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from hpc_accel.errors import ConfigError

STOPPED = 143
"""Exit code when the job was cancelled because whoever waits for it was stopped."""
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")
"""Slurm's variables that say where it is; the others, of a job one may be in, would change what is asked for."""


def submit_and_wait(script: Path, tell: Callable[[str], None]) -> int:
    """Submit, `tell` the job's id, wait, and give the job's exit code. SIGINT and SIGTERM cancel the job.

    Raises ConfigError when sbatch is not here or refuses the script.
    """
    environment = {
        key: value for key, value in os.environ.items() if key in KEPT or not key.startswith(("SLURM_", "SBATCH_"))
    }
    command = ["sbatch", "--parsable", "--wait", str(script)]
    stopped: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)
        if job_id:
            subprocess.run(["scancel", "--quiet", job_id], env=environment, check=False, timeout=60)

    job_id = ""
    handlers: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # In a session of its own: a Ctrl-C must end the job first, not the one who waits for it.
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, start_new_session=True
        ) as waiting:
            assert waiting.stdout is not None
            job_id = waiting.stdout.readline().strip().partition(";")[0]
            if job_id:
                tell(job_id)
                if stopped:
                    stop(stopped[0], None)
            code = waiting.wait()
    except FileNotFoundError:
        raise ConfigError(
            "no sbatch here", "jobs are sent from a machine of the cluster", "run it on its login node"
        ) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if not job_id:
        raise ConfigError(f"sbatch refused {script}", "its reason stands above", "correct the study or the site file")
    return STOPPED if stopped else code
