"""Memory that is freed goes back to the system, where a model is larger than a rank.

FSDP2 gathers one block after another. On CPUs glibc keeps such blocks when they are freed (it takes up to 32 MiB from
a heap, with smaller pieces between), and cannot use them again for the next: ranks of a 124M model in shard full 4 held
4.4 to 5.8 times their weights and gradients. Blocks with a mapping of their own are given back at once; each new one
then costs its page faults, so only runs that ask for `meta: true` do so.
"""

from __future__ import annotations

import ctypes

import torch

from hpc_accel.study.run import Run

M_MMAP_THRESHOLD = -3
"""mallopt(3)."""
OWN_MAPPING_FROM_BYTES = 1 << 20


def give_back_freed_blocks(run: Run, device: torch.device) -> None:
    """Where `run` gathers blocks of a large model on CPUs. C libraries without mallopt do as they do."""
    if device.type != "cpu" or run.layout.shard != "full" or not run.workload.meta:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_FROM_BYTES)
