"""Faults on demand, for tests of what happens then: `HPC_ACCEL_FAULT=kind@rank:step[:point]`.

Honoured only with HPC_ACCEL_TESTING=1, so that no variable left in an environment can end a training run.
"""

from __future__ import annotations

import os
import signal

KINDS = ("kill", "raise", "exit", "usr1", "term")


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
    else:
        raise ValueError(f"HPC_ACCEL_FAULT {wanted!r}: kinds are {', '.join(KINDS)}")
