"""`hpc-accel train RUN.json`: one run on all ranks that mpirun started, from reading the run to its record.

A rank that fails prints its traceback once, leaves error.rank<k>.json, and aborts the others, which would
otherwise wait for it for ever.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from hpc_accel.errors import CannotCreateError, ConfigError, HpcAccelError, NonFiniteError, RetryableError
from hpc_accel.study.schema import Run
from hpc_accel.train import stop


def read_run(path: Path) -> Run:
    """The run in a run.json. Raises ConfigError when it is missing, broken or was edited by hand."""
    try:
        return Run.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}", "a run is described by its run.json", "run `hpc-accel plan` first"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(
            f"{path}: {where}: {first['msg']}",
            "run.json is written by `hpc-accel plan`; its run_id is a digest of its content",
            "change the study and plan again",
        ) from None


def run_training(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Any] | None:
    """Train the run at `path` and write its record beside it. Rank 0 gets the summary, the others None."""
    stop.listen()
    began, started_utc = time.perf_counter(), datetime.now(UTC).isoformat(timespec="milliseconds")
    run, directory = read_run(path), path.resolve().parent
    if run.infer is not None:
        raise ConfigError(f"{path}: an inference run", "what serves is not trained", f"hpc-accel infer {path}")
    try:
        from hpc_accel.train.loop import train
        from hpc_accel.train.record import write_record
        from hpc_accel.train.session import open_session

        check_writable(directory)
        session = open_session(run, directory, (time.perf_counter() - began) * 1e3)
        if session.rank == 0:
            stop.announce(directory)
        try:
            seen = train(session, progress)
        except RetryableError as error:
            leave(session.rank, error)
        summary = write_record(session, seen, started_utc)
        session.checkpoints.discard()
        import hpc_accel.mpi

        hpc_accel.mpi.shutdown()
    except Left as left:
        raise SystemExit(left.exit_code) from None
    except BaseException as error:
        fail(directory, error)
        raise
    if summary is not None and summary["error"] and summary["error"]["kind"] == "non-finite loss":
        raise NonFiniteError(summary["error"]["message"], "losses are finite", summary["error"]["remedy"])
    return summary


class Left(Exception):
    """All ranks have ended together, in good order, with this exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def leave(rank: int, error: RetryableError) -> NoReturn:
    """End all ranks in good order. Nobody is aborted: every rank comes here at the same point of the run."""
    import hpc_accel.mpi

    if rank == 0:
        sys.stderr.write(f"{error}\n")
    hpc_accel.mpi.shutdown()
    raise Left(error.exit_code)


def fail(directory: Path, error: BaseException) -> None:
    """Leave error.rank<k>.json, say what happened, and end all ranks with this error's exit code."""
    from mpi4py import MPI

    rank = MPI.COMM_WORLD.Get_rank()
    code = error.exit_code if isinstance(error, HpcAccelError) else 1
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        code = error.code or 1  # leaving early is a failure whatever the code says
    content = {
        "rank": rank,
        "time_ns": time.time_ns(),
        "kind": type(error).__name__,
        "message": str(error),
        "remedy": getattr(error, "remedy", None),
        "exit_code": code,
        "traceback": traceback.format_exc(),
    }
    try:
        (directory / f"error.rank{rank}.json").write_text(json.dumps(content, indent=1))
    except OSError as problem:
        sys.stderr.write(f"rank {rank}: error.rank{rank}.json not written: {problem}\n")
    alone = MPI.COMM_WORLD.Get_size() == 1
    text = str(error) if isinstance(error, HpcAccelError) else traceback.format_exc()
    sys.stderr.write(f"rank {rank}: {text}\n" if not alone else f"{text}\n")
    sys.stderr.flush()
    if not alone:
        # A ConfigError holds on every rank; a moment lets each say so before the first abort ends them all.
        MPI.COMM_WORLD.Abort(code)
    raise SystemExit(code)


def check_writable(directory: Path) -> None:
    """Raise CannotCreateError before anything is measured if no record can be written."""
    probe = directory / ".writable"
    try:
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise CannotCreateError(
            f"{directory}: {error.strerror}", "records are written beside run.json", "make it writable"
        ) from None
