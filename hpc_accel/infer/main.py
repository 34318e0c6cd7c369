"""`hpc-accel infer RUN.json`: one inference run on all ranks that mpirun started, from run to record."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from hpc_accel.errors import ConfigError, RetryableError
from hpc_accel.record import Summary
from hpc_accel.runtime import stop
from hpc_accel.runtime.exit import exit_cleanly, exit_together
from hpc_accel.study.run_file import read_run


def run_inference(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Summary | None:
    """Serve the run at `path` and write its record beside it. Rank 0 gets the summary, the others None.

    Raises ConfigError for a run that trains; ends with 75 after SIGUSR1.
    """
    stop.listen()
    began, started_utc = time.perf_counter(), datetime.now(UTC).isoformat(timespec="milliseconds")
    run, directory = read_run(path), path.resolve().parent
    if run.infer is None:
        raise ConfigError(
            f"{path}: a training run", "what serves has `infer` in its run.json", f"hpc-accel train {path}"
        )
    with exit_together(directory):
        from hpc_accel.infer.loop import infer
        from hpc_accel.infer.record import write_record
        from hpc_accel.infer.setup import open_session

        session = open_session(run, run.infer, directory, (time.perf_counter() - began) * 1e3)
        if session.rank == 0:
            stop.announce(directory)
        try:
            seen = infer(session, progress)
        except RetryableError as error:
            exit_cleanly(session.rank, error)
        summary = write_record(session, seen, started_utc)
        session.replica.close()
    return summary
