"""The comparison after everything was measured: rank 0 builds the serial fp32 model where the served one was.

Both do not fit beside each other on a GPU that the served model fills, so that one gives its memory back first, and the
serial models come one at a time. A serial model that does not fit alone either leaves the comparison unknown, with that
reason: the figures measured before are worth keeping.
"""

from __future__ import annotations

import gc

import torch

from hpc_accel.infer.outputs import Answers, Compared, compare, serial_answers, unknown
from hpc_accel.infer.setup import Session
from hpc_accel.infer.weights import rebuild


def compared(session: Session, served: Answers, apart: float | None) -> Compared:
    """Rank 0 alone: the served answers beside those of the serial fp32 model, pruned alike and unchanged.

    Nothing can be served afterwards.
    """
    run = session.run
    session.model.release()
    if run.recipe.compile:
        torch._dynamo.reset()  # compiled code keeps the weights it was compiled for
    try:
        plain = _serial(session, pruned=False)
        alike = _serial(session, pruned=True) if run.recipe.prune != "none" else plain
    except torch.OutOfMemoryError as error:
        told = str(error).strip().splitlines() or ["out of memory"]
        reason = f"the serial fp32 model does not fit into the memory of rank 0's device: {told[0]}"
        return unknown(run, served, session.workload, reason)
    return compare(run, served, apart, alike, plain, session.workload)


def _serial(session: Session, *, pruned: bool) -> Answers:
    _give_back(session.device)
    return serial_answers(session.run, rebuild(session.run, session.directory), session.device, pruned=pruned)


def _give_back(device: torch.device) -> None:
    """Free what is referred to by cycles only, as modules with a replaced `forward` are, and torch's own reserve."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
