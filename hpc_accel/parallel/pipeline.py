"""Pipeline stages: contiguous children of a Sequential, run by a schedule of torch.distributed.pipelining."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.pipelining.schedules import PipelineScheduleSingle

from hpc_accel.parallel.mesh import Place
from hpc_accel.workloads.workload import Loss

SCHEDULES: dict[str, type[PipelineScheduleSingle]] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


def stage_layers(model: nn.Sequential, sizes: tuple[int, ...], stage: int) -> nn.Sequential:
    """The children of `model` that stage `stage` runs, under their own names."""
    start = sum(sizes[:stage])
    children = list(model.named_children())[start : start + sizes[stage]]
    return nn.Sequential(OrderedDict(children))


def make_schedule(module: nn.Module, place: Place, device: torch.device, loss: Loss) -> PipelineScheduleSingle:
    """The schedule that runs this rank's stage.

    `loss` must already be divided by the number of micro-batches, so gradients are not scaled again.
    """
    layout = place.layout
    stage = PipelineStage(module, place.pp_rank, layout.pp, device, group=place.group("pp"))
    return SCHEDULES[layout.schedule or "1f1b"](
        stage, n_microbatches=layout.accumulation_steps, loss_fn=loss, scale_grads=False
    )
