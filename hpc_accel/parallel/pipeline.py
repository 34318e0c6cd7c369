"""Pipeline stages: children of a Sequential, or blocks of another model, by schedules of torch.distributed.pipelining.

gpipe                     Huang et al., arXiv 1811.06965
1f1b, interleaved_1f1b    Narayanan et al., arXiv 2104.04473
looped_bfs                Lamy-Poirier, arXiv 2211.05953
interleaved_zero_bubble, zbv_zero_bubble    Qi et al., arXiv 2401.10241
dualpipev                 DeepSeek-AI, arXiv 2412.19437, in its V form
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleDualPipeV,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleLoopedBFS,
    ScheduleZBVZeroBubble,
)
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle

from hpc_accel.parallel.block_stages import block_stage, boundaries_of
from hpc_accel.parallel.boundary import Dtypes, own_inputs
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.parallel.seen import chain_without_values, see
from hpc_accel.parallel.tensor import SEQUENCE
from hpc_accel.parallel.ties import first_names, shared_names
from hpc_accel.parallel.traced import TracedStages, trace
from hpc_accel.study.layout import SINGLE
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.chain import Chain, is_sequence, layers_of
from hpc_accel.workloads.control_flow import LOOKS
from hpc_accel.workloads.deferred import NOT_FOLLOWED, needs_values, without_values
from hpc_accel.workloads.nested import in_their_places, tensors_alone
from hpc_accel.workloads.tensor_plan import Cut, planned
from hpc_accel.workloads.tracer import buffers_kept
from hpc_accel.workloads.workload import Loss, Workload

Schedule = PipelineScheduleSingle | PipelineScheduleMulti
SCHEDULES: dict[str, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved_1f1b": ScheduleInterleaved1F1B,
    "looped_bfs": ScheduleLoopedBFS,
    "interleaved_zero_bubble": ScheduleInterleavedZeroBubble,
    "zbv_zero_bubble": ScheduleZBVZeroBubble,
    "dualpipev": ScheduleDualPipeV,
}


@dataclass(frozen=True, kw_only=True)
class Stages:
    """This rank's stages by number, and what enters each stage of the model and leaves the last: no values."""

    modules: dict[int, nn.Module]
    boundaries: list[tuple[torch.Tensor, ...]]
    shared: dict[str, tuple[int, ...]]
    """Parameters, by first name, that several stages have: which."""
    given: bool = False
    """Whether every stage is given the model's inputs, as `given`."""
    restore: Callable[[Any], Any] = lambda outputs: outputs
    """What the loss takes, of what leaves the last stage."""

    def output_dtypes(self, stage: int) -> Dtypes:
        """What leaves `stage`."""
        return [each.dtype for each in self.boundaries[stage + 1]]

    def stages(
        self, modules: dict[int, nn.Module], place: RankCoordinates, device: torch.device
    ) -> list[PipelineStage]:
        """Torch's stages around `modules`, which are those of this record, wrapped."""
        return [
            PipelineStage(
                module,
                index,
                place.layout.num_stages,
                device,
                input_args=self.boundaries[index],
                output_args=self.boundaries[index + 1],
                group=place.group("pp"),
            )
            for index, module in modules.items()
        ]


def cut(
    workload: Workload, split: tuple[int, ...], place: RankCoordinates, autocast_dtype: torch.dtype | None
) -> Stages | TracedStages:
    """The model in stages of `split` layers; this rank keeps its own."""
    model = workload.model
    batch = workload.batch_of([0] * place.micro_batch_size)
    if not is_sequence(model):
        found = _between_blocks(workload, batch, split, place, autocast_dtype)
        return trace(workload, split, place, autocast_dtype) if found is None else found
    written: set[int] = set()
    with buffers_kept(model):
        boundaries = boundary_tensors(model, split, batch.args, autocast_dtype, written)
    if place.layout.sequence_parallel:
        for index in divided_boundaries(model, split, planned(model, workload.tensor_plan)):
            (whole,) = boundaries[index]
            part = whole.detach().chunk(place.layout.tp, dim=SEQUENCE)[0].contiguous()
            boundaries[index] = (part.requires_grad_(),)
    names = first_names(model)
    layers = [
        frozenset(names[f"{name}.{each}"] for each, _ in layer.named_parameters()) for name, layer in layers_of(model)
    ]
    modules: dict[int, nn.Module] = {index: stage_layers(model, split, index) for index in place.stages}
    for index in written & modules.keys():
        own_inputs(modules[index])
    return Stages(modules=modules, boundaries=boundaries, shared=shared_names(layers, split))


def _between_blocks(
    workload: Workload,
    batch: Batch,
    split: tuple[int, ...],
    place: RankCoordinates,
    autocast_dtype: torch.dtype | None,
) -> Stages | None:
    """Stages of a model whose blocks run one after the other; None of any other model."""
    model = workload.model
    with buffers_kept(model):
        chain = chain_without_values(workload, batch)
        if chain is None or len(chain.names) != sum(split):
            return None
        seen = see(model, chain, (batch.args, batch.kwargs), autocast_dtype)
    starts = [sum(split[:stage]) for stage in range(len(split) + 1)]
    result = partial(_result, workload)
    return Stages(
        modules={
            index: block_stage(model, chain, seen, range(starts[index], starts[index + 1]), result)
            for index in place.stages
        },
        boundaries=boundaries_of(chain, split, seen, result),
        shared=shared_names(chain.layers, split),
        given=True,
        restore=in_their_places(workload.result_of(seen.outputs)),
    )


def _result(workload: Workload, outputs: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
    return tensors_alone(workload.result_of(outputs))


def stage_layers(model: nn.Sequential, sizes: tuple[int, ...], stage: int) -> nn.Sequential:
    """The children of `model` that stage `stage` runs, under their own names."""
    start = sum(sizes[:stage])
    children = layers_of(model)[start : start + sizes[stage]]
    return (Chain if isinstance(model, Chain) and stage == 0 else nn.Sequential)(OrderedDict(children))


def boundary_tensors(
    model: nn.Sequential,
    sizes: tuple[int, ...],
    inputs: Sequence[torch.Tensor],
    autocast_dtype: torch.dtype | None,
    written: set[int] | None = None,
) -> list[tuple[torch.Tensor, ...]]:
    """What enters each stage and what leaves the last one, for a micro-batch `inputs`: shapes and dtypes, no values.

    Stages that change what enters them in place are added to `written`.

    Known beforehand, the schedule need not run the first step twice to find out, which DDP around a stage forbids.
    """
    autocast = torch.autocast("cpu", dtype=autocast_dtype, enabled=autocast_dtype is not None)
    try:
        with without_values(model) as mode, autocast:
            boundaries = _passed_on(model, sizes, tuple(map(mode.from_tensor, inputs)), written)
    except LOOKS:  # layers inside follow values, as a mixture of experts does
        needs_values(model, NOT_FOLLOWED)
        with torch.random.fork_rng(devices=[]), autocast:
            boundaries = _passed_on(model, sizes, tuple(each.clone() for each in inputs), written)
    return [
        tuple(
            torch.empty(
                state.shape, dtype=state.dtype, device="meta", requires_grad=index > 0 and state.is_floating_point()
            )
            for state in states
        )
        for index, states in enumerate(boundaries)
    ]


@torch.no_grad()
def _passed_on(
    model: nn.Sequential, sizes: tuple[int, ...], states: tuple[torch.Tensor, ...], written: set[int] | None
) -> list[tuple[torch.Tensor, ...]]:
    boundaries = [states]
    for stage in range(len(sizes)):
        before = [state._version for state in states]
        left = stage_layers(model, sizes, stage)(*states)
        if written is not None and before != [state._version for state in states]:
            written.add(stage)
        states = (left,)
        boundaries.append(states)
    return boundaries


def divided_boundaries(model: nn.Sequential, sizes: tuple[int, ...], plan: Mapping[str, Cut]) -> list[int]:
    """Boundaries that lie where sequence parallelism divides the states: after the split, up to where it ends."""
    position = {name: index for index, (name, _) in enumerate(layers_of(model))}
    begin = min(position[name.split(".")[0]] for name, way in plan.items() if way == "split")
    end = max(position[name.split(".")[0]] for name, way in plan.items() if way == "gather")
    return [stage for stage in range(1, len(sizes)) if begin < sum(sizes[:stage]) <= end]


def make_schedule(
    modules: dict[int, nn.Module],
    stages: Stages | TracedStages,
    place: RankCoordinates,
    device: torch.device,
    loss: Loss,
) -> Schedule:
    """The schedule that runs this rank's stages.

    `loss` must already be divided by the number of micro-batches, so gradients are not scaled again.
    """
    layout, parts = place.layout, stages.stages(modules, place, device)
    name = layout.schedule or "1f1b"
    what = parts[0] if name in SINGLE else parts
    restore = getattr(stages, "restore", lambda outputs: outputs)  # a tracer's stages return one tensor

    def computed(outputs: Any, targets: Any) -> torch.Tensor:
        return loss(restore(outputs), targets)

    return SCHEDULES[name](what, n_microbatches=layout.accumulation_steps, loss_fn=computed, scale_grads=False)
