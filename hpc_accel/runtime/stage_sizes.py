"""Layers of each pipeline stage of a built workload: as the run says, balanced by arithmetic, or by measured times."""

from __future__ import annotations

from typing import Any

import torch

from hpc_accel.runtime.precision import AUTOCAST
from hpc_accel.study.run import Run
from hpc_accel.study.stage_partition import automatic_split
from hpc_accel.workloads.deferred import needs_values
from hpc_accel.workloads.workload import Workload


def stage_sizes(run: Run, workload: Workload, device: torch.device, comm: Any) -> tuple[int, ...] | None:
    """Layers of each pipeline stage, None without stages. The same on every rank; collective if they are measured."""
    if run.layout.pp == 1:
        return None
    if isinstance(run.layout.split, tuple):
        return run.layout.split
    from hpc_accel.workloads.facts_without_weights import (
        facts_of_built,  # imports torch's compiler: a second others need not spend
    )

    facts = facts_of_built(workload, run.workload, run.seed)
    if run.layout.split == "auto":
        return automatic_split(facts, run.layout.num_stages)
    needs_values(workload.model, "split: measured, for which one rank runs every layer")
    times_s = None
    if comm.Get_rank() == 0:
        from hpc_accel.parallel.layer_times import layer_times_s

        times_s = layer_times_s(workload, run.layout.micro_batch_size, device, AUTOCAST[run.recipe.precision])
        workload.model.cpu()
    return automatic_split(facts, run.layout.num_stages, times_s=comm.bcast(times_s))
