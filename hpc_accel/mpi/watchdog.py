"""Nobody hangs for ever: a stuck operation, and a rank that died of an exception, end the whole job.

A thread inside a blocking MPI call can neither be interrupted nor raise, and the peers of a rank that is gone wait
for it in theirs. So a daemon thread looks every few seconds whether an operation is past its timeout, says which
one, and calls MPI_Abort; and an uncaught exception does so at the interpreter's exit, after its traceback.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from types import TracebackType

from hpc_accel.mpi.launch import mpi

log = logging.getLogger(__name__)
PERIOD_S = 2.0
GRACE_S = 10.0
"""A waiting thread raises at the timeout; it has this long to end the program in its own way."""
EXIT_CODE = 75
"""EX_TEMPFAIL: the job may succeed when run again."""

_under_way: dict[int, tuple[str, float]] = {}
_state = {"started": False, "failed": False}


def begin(key: int, what: str, timeout_s: float) -> None:
    """An operation went into MPI's hands."""
    _under_way[key] = (what, time.monotonic() + timeout_s)


def end(key: int) -> None:
    """It came back."""
    _under_way.pop(key, None)


def stuck() -> list[str]:
    """Operations past their timeout."""
    now = time.monotonic()
    return [what for what, deadline in list(_under_way.values()) if now > deadline]


def under_way() -> list[str]:
    """Operations that wait for other ranks now."""
    return [what for what, _ in list(_under_way.values())]


def start() -> None:
    """Begin to watch, once per process."""
    if _state["started"]:
        return
    _state["started"] = True
    threading.Thread(target=_watch, name="mpi4py:watchdog", daemon=True).start()
    _hook_exceptions()
    atexit.register(_at_exit)


def _watch() -> None:
    late: dict[str, float] = {}
    while True:
        time.sleep(PERIOD_S)
        now = time.monotonic()
        names = stuck()
        late = {name: late.get(name, now) for name in names}
        overdue = [name for name, since in late.items() if now - since > GRACE_S]
        if overdue:
            _abort(f"{', '.join(overdue)} past the timeout; rule: every rank of the group must take part")


def _hook_exceptions() -> None:
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _state["failed"] = True
        previous(kind, error, trace)

    sys.excepthook = hook


def _at_exit() -> None:
    """Runs before MPI_Finalize, which would wait for the others."""
    if _state["failed"]:
        _abort("an uncaught exception ended this rank", code=1)
    if stuck():
        _abort(f"at exit still in {', '.join(stuck())}")


def end_job(why: str) -> None:
    """Abort all ranks, for an error that no caller can be told of."""
    _abort(why)


def _abort(why: str, code: int = EXIT_CODE) -> None:
    comm = mpi().COMM_WORLD
    if mpi().Is_finalized():
        return
    if comm.Get_size() == 1 and code == 1:
        return
    log.critical("rank %d ends the job: %s", comm.Get_rank(), why)
    sys.stdout.flush()
    sys.stderr.flush()
    comm.Abort(code)
