"""A launcher that somebody froze (SIGSTOP) is woken: its ranks train on, but nobody would pass on signals or their end.

A job that Slurm suspends is left alone: this process is frozen with it, and does not count that time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

PERIOD_S = 5.0
MOST_PERIODS = 12
"""A minute: long enough to look at it with a debugger."""


class Awake:
    """Looks at process `pid` now and then until `close`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        threading.Thread(target=self._watch, name="hpc_accel:awake", daemon=True).start()

    def close(self) -> None:
        """The process has ended."""
        self._done.set()

    def _watch(self) -> None:
        num_periods = 0
        while not self._done.wait(PERIOD_S):
            num_periods = num_periods + 1 if _is_frozen(self._pid) else 0
            if num_periods < MOST_PERIODS:
                continue
            num_periods = 0
            sys.stderr.write(
                f"the launcher, process {self._pid}, was frozen for {MOST_PERIODS * PERIOD_S:g} s: woken\n"
            )
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGCONT)


def _is_frozen(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False
