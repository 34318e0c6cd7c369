"""The optimizer of a run, over this rank's parameters; with ZeRO-1 each replica updates its part of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hpc_accel.parallel import planted
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.study.run import Optimizer


def kind_of(spec: Optimizer) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """The class of torch that `spec` names, and its options."""
    options: dict[str, Any] = {"lr": spec.learning_rate, "weight_decay": spec.weight_decay}
    if spec.name == "sgd":
        return torch.optim.SGD, options | {"momentum": spec.momentum}
    return torch.optim.AdamW, options


def make_optimizer(
    spec: Optimizer, parameters: Sequence[nn.Parameter], place: RankCoordinates, *, fused: bool = False
) -> torch.optim.Optimizer | None:
    """The torch optimizer; None on a stage without parameters.

    With `shard: optimizer` it is torch's ZeroRedundancyOptimizer (Rajbhandari et al., ZeRO stage 1, arXiv 1910.02054).
    """
    if not parameters:
        return None
    kind, options = kind_of(spec)
    if planted.is_on("update_scaled"):
        options["lr"] *= 1.5
    if fused:
        options["fused"] = True
    if place.layout.shard != "optimizer":
        return kind(_groups(parameters), **options)
    from torch.distributed.optim import ZeroRedundancyOptimizer

    # As views of one bucket for each rank: what a rank updated is sent in one message, not one for each parameter.
    return ZeroRedundancyOptimizer(
        parameters, kind, process_group=place.group("dp"), parameters_as_bucket_view=True, **options
    )


def _groups(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Divided parameters and whole ones apart: torch's loops over many tensors at once take no mixture."""
    divided = [each for each in parameters if hasattr(each, "to_local")]
    whole = [each for each in parameters if not hasattr(each, "to_local")]
    return [{"params": group} for group in (divided, whole) if group]
