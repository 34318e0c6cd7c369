"""Micro-batches forward through the stages of all ranks: for figures, not for speed.

Torch's schedules run forward alone only where no rank holds neighbouring stages, which the V-shaped ones do, so stages
of a Sequential or of blocks are run here. Traced stages may skip each other; of those torch knows the ways.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from hpc_accel.parallel.apply import ParallelModel
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.nested import joined


def forward(model: ParallelModel, place: RankCoordinates, batch: Batch, device: torch.device) -> Any:
    """Outputs as the model returns them; None on ranks that do not hold the last stage.

    With stages `batch` is a share, which goes through them in micro-batches. Collective over the stages; inputs are
    read on the rank with the first, those of blocks on all.
    """
    if model.schedule is None:
        return batch.call(model.module)
    if not model.boundaries:
        return _through_schedule(model.schedule, place, batch.args)
    size = place.micro_batch_size
    parts = [batch.cut(slice(begin, begin + size)) for begin in range(0, batch.count, size)]
    results = [_through_stages(model, place, part, device) for part in parts]
    return joined(results, [part.count for part in parts]) if place.is_last_stage else None


def _through_schedule(schedule: Any, place: RankCoordinates, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor | None:
    loss, schedule._loss_fn = schedule._loss_fn, None  # there are no targets
    try:
        outputs: torch.Tensor | None = schedule.eval(*(inputs if place.is_first_stage else ()))
    finally:
        schedule._loss_fn = loss
    return outputs if place.is_last_stage else None


def _through_stages(model: ParallelModel, place: RankCoordinates, batch: Batch, device: torch.device) -> Any:
    holder = {stage: rank for rank, stages in enumerate(place.layout.stages) for stage in stages}
    group, last = place.group("pp"), place.layout.num_stages - 1
    states: tuple[Any, ...] = () if model.given else batch.args
    named: dict[str, Any] = {"given": (batch.args, batch.kwargs)} if model.given else {}
    for stage in range(last + 1):
        if holder[stage] != place.pp_rank:
            continue
        if stage and holder[stage - 1] != place.pp_rank:
            states = tuple(torch.empty_like(each, device=device) for each in model.boundaries[stage])
            for state in states:
                dist.recv(state, group=group, group_src=holder[stage - 1])
        if model.given and stage == last:
            named |= {"whole": True}
        states = (model.modules[stage](*states, **named),)
        if stage < last and holder[stage + 1] != place.pp_rank:
            dist.send(states[0].contiguous(), group=group, group_dst=holder[stage + 1])
    return states[0] if holder[last] == place.pp_rank else None
