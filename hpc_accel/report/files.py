"""Writing a result whole or not at all: into a `.part` file of this process, then renamed over the target."""

from __future__ import annotations

import os
from pathlib import Path

from hpc_accel.errors import CannotCreateError


def write_text(path: Path, content: str) -> None:
    """Atomically replace `path`. Raises CannotCreateError and leaves the old file as it was."""
    # The job id keeps two tries of one job apart, the process id two processes of one job.
    part = path.with_name(f"{path.name}.part.{os.environ.get('SLURM_JOB_ID', 'local')}.{os.getpid()}")
    try:
        with part.open("w", encoding="utf-8", errors="replace", newline="") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CannotCreateError(
            f"{path}: {error.strerror or error}",
            "the report is written beside the records of its study",
            "free space or fix the directory's permissions, then run the report again",
        ) from error
