"""Room on the device: what the compared steps held is let go of before the run is set up anew."""

from __future__ import annotations

import gc
from types import MethodType

import torch

from hpc_accel.runtime.step import Stepper
from hpc_accel.workloads.workload import Workload


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
        workload.model.cpu()
    gc.collect()  # schedules and wrapped stages refer to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()
