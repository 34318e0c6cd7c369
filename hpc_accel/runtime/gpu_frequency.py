"""The clock a GPU really runs at while it works: what held it back, and whether it is the one the run is named after.

A request for a clock can be ignored without an error: by a Slurm that knows no GPUs, or by a board at its power or
temperature limit. So NVML is asked what the clock is while steps run, by a thread of its own, so that a driver that
hangs costs the answer and not the run. Looks at which NVML itself calls the GPU idle do not count.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

from hpc_accel.measure.energy.sensors import nvml_boards

TOLERANCE = 0.02
"""Drivers round to the steps they have."""
PERIOD_S = 0.2
CALM_PERIOD_S = 1.0
"""Where no clock was asked for: only whether something slows the GPU down is looked at."""
TIMEOUT_S = 2.0
MAX_RANKS_NAMED = 4
IDLE = 0x1
LIMITS = {
    0x4: "the power limit",
    0x8: "a hardware slowdown",
    0x10: "a group of GPUs that share one clock",
    0x20: "temperature (software)",
    0x40: "temperature (hardware)",
    0x80: "the power brake",
    0x100: "a display's setting",
}
"""NVML's bits for why a clock is below the highest; 0x2 only says that somebody asked for one."""
DISTURBING = 0x8 | 0x20 | 0x40 | 0x80
"""Those that come from the room and the node, not from the work: a power limit holds in every run of such work."""


class Look(NamedTuple):
    """One look: the clock, and why it is not higher, as NVML's bits (0 where it does not say)."""

    mhz: int
    reasons: int


class GpuFrequency:
    """What was seen of one rank's GPU; with `wanted_mhz` None, only whether something slowed it down."""

    def __init__(self, wanted_mhz: int | None, uuid: str) -> None:
        self._wanted_mhz = wanted_mhz
        self._uuid = uuid
        self._looks: list[Look] = []
        self._failed = "" if uuid else "the run computes on no GPU"

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look while the block runs: it should hold nothing but work. Once at its end if it is a short one."""
        if self._failed:
            yield
            return
        stop = threading.Event()
        thread = threading.Thread(target=self._look, args=(stop,), name="gpu-clock", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # a limit on threads or memory
            self._failed = f"no thread to look at the clock: {error}"
            yield
            return
        try:
            yield
        finally:
            stop.set()
            thread.join(TIMEOUT_S)
            if thread.is_alive():
                self._failed = f"NVML did not answer within {TIMEOUT_S:g} s"

    def _look(self, stop: threading.Event) -> None:
        try:
            nvml = nvml_boards.load()
            handle = nvml.nvmlDeviceGetHandleByUUID(self._uuid)
            seen = 0
            period_s = CALM_PERIOD_S if self._wanted_mhz is None else PERIOD_S
            while not (stopped := stop.wait(period_s)) or not seen:
                self._looks.append(
                    Look(int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)), _why(nvml, handle))
                )
                seen += 1
                if stopped:
                    return
        except Exception as error:  # whatever the library raises is the reason
            self._failed = f"NVML: {nvml_boards.said(error)}"

    def _slowdown(self) -> str:
        """What slowed this rank's GPU down; empty where nothing did, or NVML does not say."""
        slowed = [look._replace(reasons=look.reasons & DISTURBING) for look in self._looks if look.reasons & DISTURBING]
        return f"{len(slowed)} of {len(self._looks)} looks{_limits(slowed)}" if slowed else ""

    def _finding(self) -> str:
        """What is wrong with this rank's clock; empty where it was as asked."""
        wanted_mhz = self._wanted_mhz or 0
        at_work = [look for look in self._looks if not look.reasons & IDLE]
        if not at_work:
            return self._failed or (
                "the GPU was idle at every look" if self._looks else "nobody looked while it worked"
            )
        typical_mhz = median(look.mhz for look in at_work)
        if abs(typical_mhz / wanted_mhz - 1) <= TOLERANCE:
            return ""
        return f"{typical_mhz:g} MHz under load (median of {len(at_work)} looks{_limits(at_work)})"

    def told(self, comm: Any) -> str:
        """A sentence for the record where any rank's clock was not as asked or is not known, else "". Collective."""
        findings = comm.allgather(self._slowdown() if self._wanted_mhz is None else self._finding())
        wrong = [(rank, finding) for rank, finding in enumerate(findings) if finding]
        if not wrong:
            return ""
        named = "; ".join(f"rank {rank}: {finding}" for rank, finding in wrong[:MAX_RANKS_NAMED])
        if self._wanted_mhz is None:
            return (
                f"disturbed: the GPUs of {len(wrong)} of {len(findings)} ranks were slowed down while steps were timed "
                f"({named}): measure again on a node that is cooled and has its power"
            )
        return (
            f"gpu_freq_mhz {self._wanted_mhz} was not seen on {len(wrong)} of {len(findings)} ranks ({named}): a run "
            "is measured at the clock it is named after; leave gpu_freq_mhz out, choose a clock the GPU can hold, or "
            "ask an administrator (Slurm sets clocks only with AutoDetect=nvml)"
        )


def _why(nvml: Any, handle: Any) -> int:
    """Older boards do not say why; that is no reason not to know the clock."""
    try:
        return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    except Exception:
        return 0


def _limits(looks: Sequence[Look]) -> str:
    found = [words for bit, words in LIMITS.items() if any(look.reasons & bit for look in looks)]
    return f", held back by {' and '.join(found)}" if found else ""
