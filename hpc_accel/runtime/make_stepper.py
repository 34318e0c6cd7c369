"""A stepper for any layout on this rank: the run's own, and the serial one it is compared with, built alike."""

from __future__ import annotations

from typing import Any

import torch

from hpc_accel.parallel.apply import parallelize
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.parallel.outputs_together import outputs_together
from hpc_accel.parallel.pieces import named_parameters, shapes_by_name
from hpc_accel.runtime.batches import (
    Collate,
    ShareOfStream,
    ShareSampler,
    StreamSampler,
    sampler_for,
    share_loader,
    stream_loader,
)
from hpc_accel.runtime.clip import GradientClip
from hpc_accel.runtime.cuda_timer import CudaTimer
from hpc_accel.runtime.loss import MicroBatchLoss
from hpc_accel.runtime.optimizer import make_optimizer
from hpc_accel.runtime.phase_timer import HostTimer, PhaseTimer
from hpc_accel.runtime.precision import AUTOCAST, make_scaler
from hpc_accel.runtime.seeded import Seeded
from hpc_accel.runtime.step import Stepper
from hpc_accel.runtime.weight import MeanOver, Weigh
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Run
from hpc_accel.workloads.parameter_groups import group_parameters
from hpc_accel.workloads.schedules import build_schedule
from hpc_accel.workloads.stream import Stream
from hpc_accel.workloads.workload import Workload


def make_sampler(
    run: Run, workload: Workload, place: RankCoordinates, first_step: int = 0, *, tells_epoch: bool = False
) -> ShareSampler:
    """Sample order of one data-parallel rank; the same global batches whatever the layout."""
    shares = place.layout.shares
    start = sum(shares[: place.dp_rank]) if shares else place.dp_rank * place.share
    return sampler_for(
        workload.dataset,
        run.workload.global_batch_size,
        start=start,
        share=place.share,
        seed=run.seed,
        first_step=first_step,
        keep_last=run.workload.last_batch == "keep",
        tells_epoch=tells_epoch,
    )


def make_stepper(
    run: Run,
    workload: Workload,
    place: RankCoordinates,
    device: torch.device,
    *,
    recipe: Recipe,
    split: tuple[int, ...] | None,
    first_step: int = 0,
    mean: MeanOver | None = None,
    draws_data: bool = False,
    digests: bool = False,
) -> Stepper:
    """Model, loss, optimizer and data of `run` under `place.layout` and `recipe`. Collective over the layout.

    The first batch is that of `first_step`. `mean` is what the loss is the mean over, by default samples. With
    `draws_data` the random numbers of a sample are those of its number and epoch; with `digests` batches have those of
    their samples.
    """
    mean = mean or MeanOver()
    staged = place.layout.pp > 1
    together = outputs_together(place) if workload.gather_outputs else None
    scaler = make_scaler(recipe.precision, device)
    loss = MicroBatchLoss(workload.loss, place.layout.dp, scaler, mean, together=together, is_padded=staged)
    autocast_dtype = AUTOCAST[recipe.precision]
    # Of the whole model, before it is divided.
    grouping, shapes = group_parameters(run.workload.optimizer, workload.model), shapes_by_name(workload.model)
    model = parallelize(workload, split, place, device, loss=loss, recipe=recipe, autocast_dtype=autocast_dtype)
    named, spec = named_parameters(model), run.workload.optimizer
    optimizer = make_optimizer(grouping, named, place, fused=recipe.fused_optimizer)
    clip = spec.clip_grad_norm
    sampler = make_sampler(run, workload, place, first_step, tells_epoch=draws_data)
    size = place.share if staged else place.micro_batch_size
    collate = Collate(workload.rules, size, digests=digests, seed=run.seed if draws_data else None)
    options: dict[str, Any] = {"num_workers": recipe.data_workers, "pin_memory": recipe.pin_memory}
    stream = None
    if isinstance(workload.dataset, Stream) and isinstance(sampler, StreamSampler):
        stream = ShareOfStream(workload.dataset, sampler)
        shares = stream_loader(stream, collate, **options)
    else:
        dataset = Seeded(workload.dataset, run.seed) if draws_data else workload.dataset
        shares = share_loader(dataset, sampler, collate, **options)
    return Stepper(
        place=place,
        device=device,
        model=model,
        recipe=recipe,
        loss=loss,
        optimizer=optimizer,
        clip=GradientClip(clip, named, place, shapes, device, model.counted_elsewhere) if clip is not None else None,
        course=build_schedule(spec.schedule, optimizer),
        sampler=sampler,
        shares=shares,
        stream=stream,
        clock=make_timer(device),
        weigh=Weigh(mean, workload.weight),
    )


def make_timer(device: torch.device) -> PhaseTimer:
    """The clock for `device`."""
    return CudaTimer(device) if device.type == "cuda" else HostTimer()
