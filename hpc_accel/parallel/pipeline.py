"""Pipeline stages: contiguous children of a Sequential, run by a schedule of torch.distributed.pipelining."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
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


def boundary_tensors(
    model: nn.Sequential, sizes: tuple[int, ...], inputs: torch.Tensor, autocast_dtype: torch.dtype | None
) -> list[torch.Tensor]:
    """What enters each stage and what leaves the last one, for a micro-batch `inputs`: shapes and dtypes, no values.

    Known beforehand, the schedule need not run the first step twice to find out, which DDP around a stage forbids.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        states = mode.from_tensor(inputs)
        boundaries = [states]
        with torch.autocast(inputs.device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
            for stage in range(len(sizes)):
                states = stage_layers(model, sizes, stage)(states)
                boundaries.append(states)
    return [
        torch.empty(
            states.shape,
            dtype=states.dtype,
            device="meta",
            requires_grad=index > 0 and states.is_floating_point(),
        )
        for index, states in enumerate(boundaries)
    ]


def make_schedule(
    module: nn.Module, place: Place, device: torch.device, loss: Loss, boundaries: list[torch.Tensor]
) -> PipelineScheduleSingle:
    """The schedule that runs this rank's stage.

    `loss` must already be divided by the number of micro-batches, so gradients are not scaled again.
    """
    layout, index = place.layout, place.pp_rank
    stage = PipelineStage(
        module,
        index,
        layout.pp,
        device,
        input_args=boundaries[index],
        output_args=boundaries[index + 1],
        group=place.group("pp"),
    )
    return SCHEDULES[layout.schedule or "1f1b"](
        stage, n_microbatches=layout.accumulation_steps, loss_fn=loss, scale_grads=False
    )
