"""A layout applied to a model: this rank's stage, its tensor shards, and the data-parallel wrapper around them.

Pipelining and DTensor are imported only by the layouts that use them: each costs a second of start-up on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hpc_accel.parallel.mesh import Place
from hpc_accel.workloads.tensor_plan import planned_linears
from hpc_accel.workloads.workload import Loss, Workload

if TYPE_CHECKING:
    from torch.distributed.pipelining.schedules import PipelineScheduleSingle


@dataclass(frozen=True, kw_only=True)
class ParallelModel:
    """What one rank runs: `module` directly, or through `schedule` when the layout has stages."""

    module: nn.Module
    schedule: PipelineScheduleSingle | None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """This rank's trainable parameters."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]


def parallelize(
    workload: Workload,
    split: tuple[int, ...] | None,
    place: Place,
    device: torch.device,
    *,
    loss: Loss,
    autocast_dtype: torch.dtype | None,
) -> ParallelModel:
    """Apply `place.layout` to the workload's model. Collective over all ranks.

    `split` is the number of layers of each stage, None for a layout without stages. The whole model is built with the
    same seed on every rank, so each keeps its part of the same weights.
    `loss` is the loss of one micro-batch, divided by their number.
    """
    layout, model = place.layout, workload.model
    stages = _cut_into_stages(workload, split, place, autocast_dtype) if split else None
    module: nn.Module = stages.module if stages else model
    module.to(device)
    tp_mesh = place.submesh("tp")
    if tp_mesh is not None:
        from hpc_accel.parallel.tensor import cut_linears

        cut_linears(module, planned_linears(model, workload.tensor_plan), tp_mesh)
    if autocast_dtype is not None:
        # On forward only: a schedule runs backward in between, which must not see autocast.
        module.forward = torch.autocast(device.type, dtype=autocast_dtype)(module.forward)
    if layout.dp > 1:
        device_ids = [device.index] if device.type == "cuda" else None
        module = DistributedDataParallel(
            module, process_group=place.group("dp"), device_ids=device_ids, gradient_as_bucket_view=True
        )
    if stages is None:
        return ParallelModel(module=module, schedule=None)
    from hpc_accel.parallel.pipeline import make_schedule

    schedule = make_schedule(module, place, device, loss, stages.boundaries)
    return ParallelModel(module=module, schedule=schedule)


@dataclass(frozen=True, kw_only=True)
class _Stages:
    module: nn.Module
    boundaries: list[torch.Tensor]


def _cut_into_stages(
    workload: Workload, split: tuple[int, ...], place: Place, autocast_dtype: torch.dtype | None
) -> _Stages:
    from hpc_accel.parallel.pipeline import boundary_tensors, stage_layers

    layout, model = place.layout, workload.model
    assert isinstance(model, nn.Sequential)  # the layout rules refused anything else
    micro_batch = torch.stack([workload.dataset[0][0]] * layout.micro_batch_size)
    boundaries = boundary_tensors(model, split, micro_batch, autocast_dtype)
    return _Stages(module=stage_layers(model, split, place.pp_rank), boundaries=boundaries)
