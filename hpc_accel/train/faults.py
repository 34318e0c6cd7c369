"""Faults on demand, for tests of what happens then: `HPC_ACCEL_FAULT=kind@rank:step[:point]`.

Honoured only with HPC_ACCEL_TESTING=1, so that no variable left in an environment can end a training run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time

KINDS = ("kill", "raise", "exit", "usr1", "term", "hang", "spin", "hold", "stop", "crash")


def reach(point: str, rank: int, step: int) -> None:
    """A place in the run: `step`, or a phase of saving. Here the fault asked for happens, if it is this one."""
    wanted = os.environ.get("HPC_ACCEL_FAULT")
    if not wanted or os.environ.get("HPC_ACCEL_TESTING") != "1":
        return
    kind, _, where = wanted.partition("@")
    if where not in {f"{rank}:{step}:{point}", f"{rank}:{step}" if point == "step" else ""}:
        return
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "exit":
        os._exit(0)
    elif kind == "raise":
        raise RuntimeError(f"injected at {point} of step {step} on rank {rank}")
    elif kind in {"usr1", "term"}:
        os.kill(os.getppid() if kind == "term" else os.getpid(), signal.SIGUSR1 if kind == "usr1" else signal.SIGTERM)
    elif kind in {"hang", "spin", "hold"}:
        _hang(kind)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "crash":
        ctypes.string_at(0)
    else:
        raise ValueError(f"HPC_ACCEL_FAULT {wanted!r}: kinds are {', '.join(KINDS)}")


def _hang(kind: str) -> None:
    """For an hour: asleep, in a loop of Python, or in C with the interpreter held."""
    if kind == "hold":
        ctypes.PyDLL(None).sleep(3600)
    end_s = time.monotonic() + 3600
    while time.monotonic() < end_s:
        if kind == "hang":
            time.sleep(1)
