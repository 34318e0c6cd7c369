"""How many threads may call MPI, and what is done when the answer is: one.

With MPI_THREAD_MULTIPLE (asked for, and given by every MPI known to us) each group has a thread of its own. With
less, no thread is started: a collective is executed in the calling thread when it is called, asynchronous or not,
and messages are completed by testing under a lock. That is slower, overlaps nothing, and said once. FUNNELED also
wants every call from the main thread: where a backward pass runs in another (GPUs), it is refused.
"""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

from hpc_accel.mpi.launch import mpi

log = logging.getLogger(__name__)
MPI = mpi()
NAMES = {
    MPI.THREAD_SINGLE: "single",
    MPI.THREAD_FUNNELED: "funneled",
    MPI.THREAD_SERIALIZED: "serialized",
    MPI.THREAD_MULTIPLE: "multiple",
}
LEVEL: int = MPI.Query_thread()
REDUCED = LEVEL < MPI.THREAD_MULTIPLE
_lock = threading.RLock()
_free: AbstractContextManager[Any] = nullcontext()


def gate() -> AbstractContextManager[Any]:
    """What every MPI call of a message passes through."""
    if not REDUCED:
        return _free
    require_thread()
    return _lock


def require_thread() -> None:
    """Refuse a thread that may not call MPI."""
    if LEVEL < MPI.THREAD_SERIALIZED and not MPI.Is_thread_main():
        raise RuntimeError(
            f"a call from {threading.current_thread().name} with MPI_THREAD_{NAMES[LEVEL].upper()}; rule: then only "
            "the main thread may communicate; remedy: an MPI with MPI_THREAD_MULTIPLE (mpi4py asks for it by default)"
        )


@lru_cache(maxsize=1)
def warn_if_reduced() -> None:
    if REDUCED:
        log.warning(
            "MPI gives MPI_THREAD_%s: collectives run when called, without overlap; MPI_THREAD_MULTIPLE is faster",
            NAMES[LEVEL].upper(),
        )
