"""Parameters that stages share, an embedding and its head for example: each stage has a copy, gradients are added up.

Copies begin alike, get the same gradient and the same optimizer step, so they stay alike (Megatron-LM, arXiv
1909.08053, does so for its word embeddings).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from hpc_accel.parallel.mesh import RankCoordinates


@dataclass(frozen=True, kw_only=True)
class Tie:
    """A parameter of this rank, by its first name in the whole model, and the pipeline ranks that have it, in order."""

    name: str
    parameter: nn.Parameter
    ranks: tuple[int, ...]


def first_names(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter of a whole model, and the one under which it is listed first."""
    found: dict[int, str] = {}
    return {name: found.setdefault(id(each), name) for name, each in model.named_parameters(remove_duplicate=False)}


def state_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all that `state_dict` of a whole model holds."""
    return {name: tuple(each.shape) for name, each in model.state_dict().items() if torch.is_tensor(each)}


def shared_names(parts: Sequence[frozenset[str]], sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Of the parameters that layers use, by first name, those of several stages: which stages. `sizes` count layers."""
    stages: dict[str, set[int]] = {}
    layer_stages = [stage for stage, size in enumerate(sizes) for _ in range(size)]
    for names, stage in zip(parts, layer_stages, strict=True):
        for name in names:
            stages.setdefault(name, set()).add(stage)
    return {name: tuple(sorted(each)) for name, each in sorted(stages.items()) if len(each) > 1}


def ties_of(
    modules: Mapping[int, nn.Module],
    shared: Mapping[str, tuple[int, ...]],
    names: Mapping[str, str],
    place: RankCoordinates,
) -> list[Tie]:
    """What this rank shares with other stages' ranks. `names` are the first names of the whole model's parameters."""
    holder = {stage: rank for rank, stages in enumerate(place.layout.stages) for stage in stages}
    own: dict[str, nn.Parameter] = {}
    for module in modules.values():
        for long_name, parameter in module.named_parameters():
            own[names[plain(long_name)]] = parameter
    found = []
    for name, stages in shared.items():
        ranks = tuple(sorted({holder[stage] for stage in stages}))
        if place.pp_rank in ranks and len(ranks) > 1 and own[name].requires_grad:
            found.append(Tie(name=name, parameter=own[name], ranks=ranks))
    return found


def plain(name: str) -> str:
    """A parameter's name without what wrappers put before it."""
    return ".".join(part for part in name.removeprefix("module.").split(".") if part != "_orig_mod")


def add_up_ties(ties: Sequence[Tie], place: RankCoordinates) -> None:
    """Give each copy the sum of the copies' gradients. Collective over the pipeline ranks that share something."""
    group = place.group("pp")
    with torch.no_grad():
        for tie in ties:
            if tie.parameter.grad is None:
                tie.parameter.grad = torch.zeros_like(tie.parameter)
            gradient = tie.parameter.grad
            own = gradient.to_local() if hasattr(gradient, "to_local") else gradient
            first, *others = tie.ranks
            flat = own.contiguous()
            if place.pp_rank != first:
                dist.send(flat, group=group, group_dst=first)
                dist.recv(flat, group=group, group_src=first)
            else:
                for other in others:
                    part = torch.empty_like(flat)
                    dist.recv(part, group=group, group_src=other)
                    flat += part
                for other in others:
                    dist.send(flat, group=group, group_dst=other)
            if flat is not own:
                own.copy_(flat)
