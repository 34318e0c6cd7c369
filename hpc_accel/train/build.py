"""A stepper for any layout on this rank: the run's own, and the serial one it is compared with, built alike."""

from __future__ import annotations

from typing import Any

import torch

from hpc_accel.parallel.apply import parallelize
from hpc_accel.parallel.mesh import Place
from hpc_accel.study.recipe import Precision
from hpc_accel.study.schema import Run
from hpc_accel.train.batches import ShareSampler, share_loader
from hpc_accel.train.clock import make_clock
from hpc_accel.train.optimizer import make_optimizer
from hpc_accel.train.precision import AUTOCAST, make_scaler
from hpc_accel.train.step import MicroBatchLoss, Stepper
from hpc_accel.workloads.workload import Workload


def make_sampler(run: Run, workload: Workload, dp: int, dp_rank: int, first_step: int = 0) -> ShareSampler:
    """Sample order of one data-parallel rank; the same global batches whatever `dp`."""
    dataset: Any = workload.dataset
    return ShareSampler(len(dataset), run.workload.global_batch_size, dp, dp_rank, run.seed, first_step)


def make_stepper(
    run: Run,
    workload: Workload,
    place: Place,
    device: torch.device,
    *,
    precision: Precision,
    split: tuple[int, ...] | None,
    first_step: int = 0,
) -> Stepper:
    """Model, loss, optimizer and data of `run` under `place.layout` and `precision`. Collective over the layout.

    The first batch is that of `first_step`.
    """
    layout = place.layout
    loss = MicroBatchLoss(workload.loss, layout.accumulation_steps, make_scaler(precision, device))
    model = parallelize(workload, split, place, device, loss=loss, autocast_dtype=AUTOCAST[precision])
    return Stepper(
        place=place,
        device=device,
        model=model,
        loss=loss,
        optimizer=make_optimizer(run.workload.optimizer, model.parameters),
        batches=share_loader(workload.dataset, make_sampler(run, workload, layout.dp, place.dp_rank, first_step)),
        clock=make_clock(device),
    )
