"""How the ranks of a run end: all together, in good order or with the code of the one that failed.

A rank that fails prints its traceback once, leaves error.rank<k>.json, and aborts the others, which would
otherwise wait for it for ever.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hpc_accel.errors import CannotCreateError, HpcAccelError, NonFiniteError, RetryableError
from hpc_accel.study.sources import users_frame

FIRST_IN_TIME_S = 0.5


@contextmanager
def exit_together(directory: Path) -> Iterator[None]:
    """What all ranks do inside ends with MPI shut down, or on all of them with the exit code of what was raised.

    Raises CannotCreateError, the same way, before anything is measured if no record can be written to `directory`.
    """
    try:
        _check_writable(directory)
        yield
        import hpc_accel.mpi

        hpc_accel.mpi.shutdown()
    except _EarlyExit as left:
        raise SystemExit(left.exit_code) from None
    except BaseException as error:
        _fail(directory, error)
        raise


class _EarlyExit(Exception):
    """All ranks have ended together, in good order, with this exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def exit_cleanly(rank: int, error: RetryableError) -> NoReturn:
    """End all ranks in good order, inside `exit_together`. Nobody is aborted: every rank comes here at one point."""
    import hpc_accel.mpi

    if rank == 0:
        sys.stderr.write(f"{error}\n")
    hpc_accel.mpi.shutdown()
    raise _EarlyExit(error.exit_code)


def _fail(directory: Path, error: BaseException) -> None:
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
        "where": getattr(error, "where", None) or users_frame(error),
        "remedy": getattr(error, "remedy", None) or _known_remedy(error),
        "exit_code": code,
        "step": getattr(error, "step", None),
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
        if isinstance(error, NonFiniteError):
            time.sleep(FIRST_IN_TIME_S)  # a NaN spreads with gradients: the rank it began on may be about to tell it
        # The others may be waiting for this rank, and would for ever.
        MPI.COMM_WORLD.Abort(code)
    raise SystemExit(code)


def _known_remedy(error: BaseException) -> str | None:
    """For what Python and torch say of a limit, which names no limit."""
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "raise the limits on processes (ulimit -u) and on address space (ulimit -v)"
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return "look for os._exit() in the data set and for too little memory; data_workers: 0 shows where it happens"
    return None


def _check_writable(directory: Path) -> None:
    """Raise CannotCreateError before anything is measured if no record can be written."""
    probe = directory / ".writable"
    try:
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise CannotCreateError(
            f"{directory}: {error.strerror}", "records are written beside run.json", "make it writable"
        ) from None
