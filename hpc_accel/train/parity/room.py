"""Room on the device: what the compared steps held is let go of, and how much of a model fits into what is free."""

from __future__ import annotations

import gc
from pathlib import Path
from types import MethodType

import torch

from hpc_accel.record.parity import Twin
from hpc_accel.runtime.step import Stepper
from hpc_accel.study.run import Run
from hpc_accel.workloads import entry
from hpc_accel.workloads.deferred import moved
from hpc_accel.workloads.twin import alike_blocks, bytes_of_blocks
from hpc_accel.workloads.workload import Workload

COPIES_HELD = 3
"""Of the weights: themselves, those of the beginning, and gradients or changes."""
SHARE_OF_WEIGHTS = 0.7
"""Of the memory that is free; activations take what is left."""


def twins_that_may_fit(run: Run, device: torch.device) -> list[Twin | None]:
    """What to try as the serial run, the largest first: None is the whole model.

    A model without alike blocks has no twin. Of another the estimate says how many blocks to begin with; each further
    try has a quarter fewer.
    """
    workload = entry.build_deferred(run.workload, run.seed)
    whole, one = bytes_of_blocks(workload)
    alike = alike_blocks(workload)
    del workload
    if alike is None:
        return [None]
    budget = SHARE_OF_WEIGHTS * free_bytes(run, device) / COPIES_HELD
    fitting = alike.count if whole <= budget else max(1, alike.count - int(-(-(whole - budget) // one)))
    found: list[Twin | None] = [None] if fitting == alike.count else []
    blocks = min(fitting, alike.count - 1)
    while blocks >= 1:
        found.append(Twin(blocks=blocks, of=alike.count))
        blocks = min(blocks - 1, blocks * 3 // 4)
    return found


def free_bytes(run: Run, device: torch.device) -> float:
    """Memory that the serial run may take: what is free, on a CPU at most what the run asked for."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free, asked_mb = float(lines["MemAvailable"].split()[0]) * 1024, run.resources.memory_mb
    return min(free, asked_mb * 2.0**20) if asked_mb else free


def forget(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def make_room(stepper: Stepper, workload: Workload, device: torch.device) -> None:
    """Free what training holds on `device`; no step of `stepper` can follow."""
    for module in [each for stage in stepper.model.modules.values() for each in stage.modules()]:
        if isinstance(reshard := getattr(module, "reshard", None), MethodType):
            reshard()  # FSDP2 keeps the last gathered block for a backward that never comes
    stepper.release()
    shards = [each for each in workload.model.parameters() if hasattr(each, "to_local")]
    for shard in shards:  # the modules' FSDP state refers to them as well, and they have no use outside their group
        storage = shard.to_local().untyped_storage()
        if storage.resizable():  # pinned host memory, where parameters are offloaded to, is not
            storage.resize_(0)
    if not shards:
        moved(workload.model, "cpu")
    forget(device)  # schedules and wrapped stages refer to each other
