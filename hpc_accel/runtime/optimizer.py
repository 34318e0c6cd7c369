"""The optimizer of a run, over this rank's parameters; with ZeRO-1 each replica updates its part of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from hpc_accel.parallel import planted
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.workloads.optimizers import Groups, Named, build_optimizer, construct
from hpc_accel.workloads.parameter_groups import Grouping, Part


def make_optimizer(
    grouping: Grouping, named: Sequence[Named], place: RankCoordinates, *, fused: bool = False
) -> torch.optim.Optimizer | None:
    """The optimizer of the run; None on a rank without parameters. `named` have the whole model's names."""
    more: dict[str, Any] = {"fused": True} if fused else {}
    optimizer = build_optimizer(grouping, named, partial(_divided if _divides(place) else _whole, place, more))
    if optimizer is not None and planted.is_on("update_scaled"):
        for group in optimizer.param_groups:
            group["lr"] *= 1.5
    return optimizer


def _divides(place: RankCoordinates) -> bool:
    return place.layout.shard == "optimizer" and place.layout.dp > 1


def _whole(_place: RankCoordinates, more: dict[str, Any], part: Part, groups: Groups) -> list[torch.optim.Optimizer]:
    """As torch has it; FSDP's divided parameters and those that it leaves whole apart, as torch's loops over many
    tensors at once take no mixture.
    """
    kinds = {hasattr(each, "to_local") for members, _ in groups for _, each in members}
    apart = [
        [([each for each in members if hasattr(each[1], "to_local") == kind], options) for members, options in groups]
        for kind in sorted(kinds)
    ]
    return [construct(part, each, **more) for each in apart]


def _divided(place: RankCoordinates, more: dict[str, Any], part: Part, groups: Groups) -> list[torch.optim.Optimizer]:
    """Torch's ZeroRedundancyOptimizer (Rajbhandari et al., ZeRO stage 1, arXiv 1910.02054), one for each type.

    It takes one type of parameters at a time, because what a rank updates is sent as one flat bucket. As views of that
    bucket: one message for each rank, not one for each parameter.
    """
    from torch.distributed.optim import ZeroRedundancyOptimizer

    found: list[torch.optim.Optimizer] = []
    dtypes = dict.fromkeys(each.dtype for members, _ in groups for _, each in members)
    for dtype in dtypes:
        mine = [
            ([(name, each) for name, each in members if each.dtype == dtype], options) for members, options in groups
        ]
        names = {id(each): name for members, _ in mine for name, each in members}

        def local(
            held: list[dict[str, Any]], names: dict[int, str] = names, groups: Groups = mine, **_: Any
        ) -> torch.optim.Optimizer:
            """This rank's part: the same groups, with the parameters that are its own."""
            parts = zip(held, groups, strict=True)
            own = [([(names[id(each)], each) for each in group["params"]], options) for group, (_, options) in parts]
            return construct(part, own, **more)

        local_class: Any = local  # it is only called
        tensors = [{"params": [each for _, each in members], **options} for members, options in mine]
        made = ZeroRedundancyOptimizer(
            tensors, local_class, process_group=place.group("dp"), parameters_as_bucket_view=True, **part.keywords
        )
        made.defaults = dict(made.optim.defaults)  # by which schedulers know whether there is momentum
        found.append(made)
    return found


def held_here(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """What has this rank's state: of a divided optimizer the one inside, which has this rank's parameters only."""
    inside: torch.optim.Optimizer = getattr(optimizer, "optim", optimizer)
    return inside
