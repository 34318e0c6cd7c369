"""A layout applied to a model: this rank's stage, its tensor shards, and the data-parallel wrapper around them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.pipelining.schedules import PipelineScheduleSingle
from torch.nn.parallel import DistributedDataParallel

from hpc_accel.parallel.mesh import Place
from hpc_accel.parallel.pipeline import boundary_tensors, make_schedule, stage_layers
from hpc_accel.parallel.split import automatic_split
from hpc_accel.parallel.tensor import cut_linears
from hpc_accel.workloads.facts import ModelFacts
from hpc_accel.workloads.inspect import planned_linears
from hpc_accel.workloads.workload import Loss, Workload


@dataclass(frozen=True, kw_only=True)
class ParallelModel:
    """What one rank runs: `module` directly, or through `schedule` when the layout has stages."""

    module: nn.Module
    schedule: PipelineScheduleSingle | None
    split: tuple[int, ...]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """This rank's trainable parameters."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]


def parallelize(
    workload: Workload,
    facts: ModelFacts,
    place: Place,
    device: torch.device,
    *,
    loss: Loss,
    autocast_dtype: torch.dtype | None,
) -> ParallelModel:
    """Apply `place.layout` to the workload's model. Collective over all ranks.

    The whole model is built with the same seed on every rank, so each keeps its part of the same weights.
    `loss` is the loss of one micro-batch, divided by their number.
    """
    layout = place.layout
    plan = planned_linears(workload.model, workload.tensor_plan)
    module: nn.Module = workload.model
    split: tuple[int, ...] = (len(facts.layers),)
    boundaries: list[torch.Tensor] = []
    if layout.pp > 1:
        split = layout.split if layout.split != "auto" else automatic_split(facts, layout.pp)
        assert isinstance(workload.model, nn.Sequential)
        micro_batch = torch.stack([workload.dataset[0][0]] * layout.micro_batch_size)
        boundaries = boundary_tensors(workload.model, split, micro_batch, autocast_dtype)
        module = stage_layers(workload.model, split, place.pp_rank)
    module.to(device)
    has_parameters = any(parameter.requires_grad for parameter in module.parameters())
    use_ddp = layout.dp > 1 and has_parameters
    tp_mesh = place.submesh("tp")
    if tp_mesh is not None:
        cut_linears(module, plan, tp_mesh)
    if autocast_dtype is not None:
        # On forward only: a schedule runs backward in between, which must not see autocast.
        module.forward = torch.autocast(device.type, dtype=autocast_dtype)(module.forward)
    if use_ddp:
        device_ids = [device.index] if device.type == "cuda" else None
        module = DistributedDataParallel(
            module, process_group=place.group("dp"), device_ids=device_ids, gradient_as_bucket_view=True
        )
    schedule = make_schedule(module, place, device, loss, boundaries) if layout.pp > 1 else None
    return ParallelModel(module=module, schedule=schedule, split=split)
