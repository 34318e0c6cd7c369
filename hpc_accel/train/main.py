"""`hpc-accel train RUN.json`: one run on all ranks that mpirun started, from reading the run to its record."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from hpc_accel.errors import ConfigError, NonFiniteError, RetryableError
from hpc_accel.record import Summary
from hpc_accel.runtime import stop
from hpc_accel.runtime.exit import exit_cleanly, exit_together
from hpc_accel.study.run_file import read_run


def run_training(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Summary | None:
    """Train the run at `path` and write its record beside it. Rank 0 gets the summary, the others None."""
    stop.listen()
    began, started_utc = time.perf_counter(), datetime.now(UTC).isoformat(timespec="milliseconds")
    run, directory = read_run(path), path.resolve().parent
    if run.infer is not None:
        raise ConfigError(f"{path}: an inference run", "what serves is not trained", f"hpc-accel infer {path}")
    with exit_together(directory):
        from hpc_accel.runtime import hang
        from hpc_accel.train.loop import train
        from hpc_accel.train.record import write_record
        from hpc_accel.train.setup import open_session

        try:
            session = open_session(run, directory, (time.perf_counter() - began) * 1e3)
            if session.rank == 0:
                stop.announce(directory)
            try:
                seen = train(session, progress)
            except RetryableError as error:
                exit_cleanly(session.rank, error)
            session.hang.enter(hang.END)
            summary = write_record(session, seen, started_utc)
            session.checkpoints.discard()
        finally:
            hang.end_watching()
    if summary is not None and summary.error and summary.error.kind.startswith("non-finite"):
        raise NonFiniteError(summary.error.message, "losses and gradients are finite", summary.error.remedy)
    return summary
