"""A rank that hangs ends the run, with the stacks of every rank and the name of the one that did not come.

A thread of each rank looks whether its rank is still in the phase it entered `limit` ago. Then it writes the stacks
(stacks.rank<k>.txt) and what the rank was doing (hang.rank<k>.json), waits for the other ranks to do the same, and
aborts all. A rank that holds the interpreter in C code cannot run that thread: a timer in C writes its stacks, and the
thread of another rank aborts. The limit of a step is learnt: 20 times the median of those done, at least a minute.
"""

from __future__ import annotations

import faulthandler
import json
import os
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from hpc_accel.mpi import watchdog

START_UP, READY, FIRST_STEPS, STEP, CHECKPOINT, EVALUATION, END = (
    "start-up", "before step", "first steps", "step", "checkpoint", "evaluation", "end",
)  # fmt: skip
LIMIT_S = {
    START_UP: 1800.0,
    READY: 600.0,
    FIRST_STEPS: 1800.0,
    STEP: 60.0,
    CHECKPOINT: 600.0,
    EVALUATION: 1800.0,
    END: 600.0,
}
"""A compiler, a tracer or a data set may take many minutes before the first step; what is learnt replaces STEP's."""
TIMES_MEDIAN = 20.0
LEARNT_FROM = 10
"""Steps; compiled and warm ones outnumber the first."""
PERIOD_S = 0.25
MAX_TICK_S = 1.0
"""A process that was stopped (by `scontrol suspend`, a debugger) finds the clock far on: that is no hang."""
OTHERS_S = 2.0
"""For the other ranks to write what they see, before this one aborts all."""


_watching: list[HangWatch] = []


def end_watching() -> None:
    """A run is over on this rank, however it ended; a process may start another."""
    while _watching:
        _watching.pop().close()


class HangWatch:
    """Watches one rank from its creation to `end_watching`. `hang_after_s` replaces all limits but the start's.

    The start may take `start_up_s`: it can contain the serial run that this one is compared with. Between it and the
    first step the ranks rest for `idle_s`.
    """

    def __init__(
        self,
        directory: Path,
        rank: int,
        host_of_rank: Sequence[str],
        *,
        hang_after_s: float | None,
        start_up_s: float = 0.0,
        idle_s: float = 0.0,
    ) -> None:
        self._directory, self._rank, self._host_of_rank = directory, rank, list(host_of_rank)
        self._fixed_s, self._start_up_s, self._idle_s = hang_after_s, start_up_s, idle_s
        self._phase, self._step = START_UP, 0
        self._waited_s = 0.0
        self._entered_s = self._armed_s = self._armed_for_s = 0.0
        self._steps_s: list[float] = []
        self._learnt_s: float | None = None
        self._done = threading.Event()
        for stale in (self._path("hang", "json"), self._path("stacks", "txt")):
            stale.unlink(missing_ok=True)
        self._stacks: IO[str] = self._path("stacks", "txt").open("w")
        faulthandler.enable(self._stacks)
        self._arm()
        threading.Thread(target=self._watch, name="hpc_accel:hang", daemon=True).start()
        _watching.append(self)

    def enter(self, phase: str, step: int = 0) -> None:
        """The rank begins something else; called for each step, so it costs a microsecond."""
        now_s = time.monotonic()
        if self._phase == phase == STEP and len(self._steps_s) < LEARNT_FROM:
            self._steps_s.append(now_s - self._entered_s)
        self._phase, self._step, self._waited_s, self._entered_s = phase, step, 0.0, now_s
        if now_s - self._armed_s > MAX_TICK_S or self._armed_for_s != self.limit_s:
            self._arm()

    @property
    def limit_s(self) -> float:
        """How long the present phase may last."""
        if self._phase == START_UP:
            return max(LIMIT_S[START_UP], self._start_up_s)
        if self._phase == READY:
            return self._idle_s + (LIMIT_S[READY] if self._fixed_s is None else self._fixed_s)
        if self._fixed_s is not None:
            return self._fixed_s
        if self._phase == STEP:
            if self._learnt_s is None and len(self._steps_s) == LEARNT_FROM:
                self._learnt_s = max(LIMIT_S[STEP], TIMES_MEDIAN * statistics.median(self._steps_s))
            return LIMIT_S[FIRST_STEPS] if self._learnt_s is None else self._learnt_s
        return LIMIT_S[self._phase]

    def close(self) -> None:
        """The rank is done; an empty file of stacks is removed."""
        self._done.set()
        faulthandler.cancel_dump_traceback_later()
        faulthandler.disable()
        self._stacks.close()
        path = self._path("stacks", "txt")
        if path.exists() and path.stat().st_size == 0:
            path.unlink()

    def _path(self, name: str, ending: str) -> Path:
        return self._directory / f"{name}.rank{self._rank}.{ending}"

    def _arm(self) -> None:
        """Anew at most every second, which is what the timer in C may come late."""
        self._armed_s, self._armed_for_s = time.monotonic(), self.limit_s
        self._empty()
        faulthandler.dump_traceback_later(self.limit_s + MAX_TICK_S, file=self._stacks)

    def _empty(self) -> None:
        self._stacks.seek(0)  # what is written next begins at the file's begin, not behind a hole
        self._stacks.truncate()

    def _watch(self) -> None:
        last_s = time.monotonic()
        while not self._done.wait(PERIOD_S):
            now_s = time.monotonic()
            self._waited_s += min(now_s - last_s, MAX_TICK_S)
            last_s = now_s
            if self._waited_s > self.limit_s:
                self._end()
                return

    def _end(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._empty()
        faulthandler.dump_traceback(self._stacks)
        told: dict[str, Any] = {
            "rank": self._rank,
            "host_of_rank": self._host_of_rank,
            "phase": self._phase,
            "step": self._step,
            "limit_s": self.limit_s,
            "waits_in": watchdog.under_way(),
            "time_ns": time.time_ns(),
        }
        part = self._path("hang", "part")
        part.write_text(json.dumps(told))
        part.replace(self._path("hang", "json"))
        time.sleep(OTHERS_S)
        watchdog.end_job(f"{self._phase} {self._step} took longer than {self.limit_s:g} s")
        os._exit(watchdog.EXIT_CODE)  # MPI has ended, or hangs itself
