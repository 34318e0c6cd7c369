"""What would end the process, or its MPI, in the middle of the user's code becomes an error that names the line."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from hpc_accel.errors import ConfigError

RULE = "the workload's code returns to its caller and ends neither its process nor MPI"


@contextmanager
def no_sudden_exit(entry: str) -> Iterator[None]:
    """Inside, `os._exit` raises ConfigError in this process's main thread; so does an MPI that was ended, afterwards.

    Other threads, which may end a process that hangs, and forked processes may leave.
    """
    own, leave = os.getpid(), os._exit

    def refuse(status: int) -> NoReturn:
        if os.getpid() != own or threading.current_thread() is not threading.main_thread():
            leave(status)
        raise ConfigError(
            f"entry {entry!r}: os._exit({status}) at {_caller()}",
            RULE,
            "take os._exit() out; raise an exception where something is wrong",
        )

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_finalized():
        raise ConfigError(f"entry {entry!r}: it called MPI.Finalize()", RULE, "take MPI.Finalize() out")


def refuse_finalize(mpi: Any) -> None:
    """From now on MPI.Finalize raises ConfigError: any call of MPI after it would end the rank without a word.

    `__wrapped__` is the real one.
    """

    def refuse() -> NoReturn:
        raise ConfigError(f"MPI.Finalize() at {_caller()}", RULE, "take MPI.Finalize() out")

    vars(refuse)["__wrapped__"] = getattr(mpi.Finalize, "__wrapped__", mpi.Finalize)
    mpi.Finalize = refuse


def _caller() -> str:
    """`file:line in function` of who called what was replaced."""
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
