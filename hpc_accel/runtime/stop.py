"""A warning (SIGUSR1: time is nearly up) becomes a decision all ranks take after the same step.

The handler only notes the signal; it is installed before torch is imported, because until then the signal would end
the process. Which rank notices first differs, so the notes are reduced over the ranks, without blocking: what is sent
after one check is read at the next. Checks are some 50 ms apart, so that short steps do not pay for them.
"""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

CHECK_EVERY_S = 0.05
READY = ".ready"
"""Exists once all ranks listen; the job script forwards the signal only from then on."""
STOP = ".stop"
"""Written by the job script when the signal came before that."""

_asked: list[int] = []


def listen() -> None:
    """Note SIGUSR1 from now on, instead of dying of it."""
    _asked.clear()
    signal.signal(signal.SIGUSR1, _note)


def _note(number: int, _frame: FrameType | None) -> None:
    _asked.append(number)


def announce(directory: Path) -> None:
    """Rank 0, when all ranks listen: tell the job script, and hear what it could not deliver before.

    The script writes STOP and then looks for READY; here it is the other way round, so one of the two sees it.
    """
    (directory / READY).touch()
    if (directory / STOP).exists():
        _asked.append(signal.SIGUSR1)


def asked() -> bool:
    """Whether this rank has been told to stop; others may not know yet."""
    return bool(_asked)


class StopRequest:
    """Whether the ranks of `comm` have agreed to stop. All ranks make the same calls."""

    def __init__(self, comm: Any) -> None:
        import numpy as np

        self._comm = comm.Dup() if comm.size > 1 else None
        self._mine, self._any = np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.int32)
        self._request: Any = None
        self.every = 1
        self._num_steps = 0

    def pace(self, step_s: float) -> None:
        """Check as often as steps of this length allow; rank 0's answer holds for all. Collective."""
        every = max(1, int(CHECK_EVERY_S / max(step_s, 1e-9)))
        self.every = self._comm.bcast(every) if self._comm is not None else every

    def agreed(self) -> bool:
        """Called after each step: true on all ranks after the same step, at most two checks after a signal."""
        self._num_steps += 1
        if self._comm is None:
            return bool(_asked)
        if self._num_steps % self.every:
            return False
        if self._finish():
            return True
        from mpi4py import MPI

        self._mine[0] = bool(_asked)
        self._request = self._comm.Iallreduce(self._mine, self._any, MPI.MAX)
        return False

    def _finish(self) -> bool:
        if self._request is None:
            return False
        self._request.Wait()
        self._request = None
        return bool(self._any[0])

    def close(self) -> None:
        """Complete what is under way. Collective."""
        self._finish()
        if self._comm is not None:
            self._comm.Free()
