"""One micro-batch forward through the stages of all ranks, without a schedule: for figures, not for speed.

Torch's schedules run forward alone only where no rank holds neighbouring stages, which the V-shaped ones do.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from hpc_accel.parallel.apply import ParallelModel
from hpc_accel.parallel.mesh import Place


def forward(
    model: ParallelModel, place: Place, inputs: tuple[torch.Tensor, ...], device: torch.device
) -> torch.Tensor | None:
    """Outputs [n, ...] of the model on the rank with the last stage, None on others. Collective over the stages.

    `inputs` are read on the rank with the first stage.
    """
    holder = {stage: rank for rank, stages in enumerate(place.layout.stages) for stage in stages}
    group, last = place.group("pp"), place.layout.num_stages - 1
    states = inputs
    for stage in range(last + 1):
        if holder[stage] != place.pp_rank:
            continue
        if stage and holder[stage - 1] != place.pp_rank:
            states = tuple(torch.empty_like(each, device=device) for each in model.boundaries[stage])
            for state in states:
                dist.recv(state, group=group, group_src=holder[stage - 1])
        states = (model.modules[stage](*states),)
        if stage < last and holder[stage + 1] != place.pp_rank:
            dist.send(states[0].contiguous(), group=group, group_dst=holder[stage + 1])
    return states[0] if holder[last] == place.pp_rank else None
