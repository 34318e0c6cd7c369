"""How a command ends: with an error for people, or at once, so that nothing in the process spoils its work."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from hpc_accel.errors import HpcAccelError


def run_and_leave(command: Callable[[], Any]) -> NoReturn:
    """Call `command` and end this process: an HpcAccelError is told on standard error and gives its exit code."""
    try:
        command()
    except HpcAccelError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code:
            raise
    leave()


def leave() -> NoReturn:
    """End this process with exit code 0. Threads that never end, and libraries that crash at exit, have no say."""
    mpi = sys.modules.get("mpi4py.MPI")  # not imported here, because to import it is to start MPI
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        getattr(mpi.Finalize, "__wrapped__", mpi.Finalize)()  # the user's code may not call it
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed by the user's code, or nobody reads
            stream.flush()
    os._exit(0)
