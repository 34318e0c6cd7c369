"""The optimizer of a run, over this rank's parameters; with ZeRO-1 each replica updates its part of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.study.run import Optimizer


def make_optimizer(
    spec: Optimizer, parameters: Sequence[nn.Parameter], place: RankCoordinates, *, fused: bool = False
) -> torch.optim.Optimizer | None:
    """The torch optimizer; None on a stage without parameters.

    With `shard: optimizer` it is torch's ZeroRedundancyOptimizer (Rajbhandari et al., ZeRO stage 1, arXiv 1910.02054).
    """
    if not parameters:
        return None
    options: dict[str, Any] = {"lr": spec.learning_rate, "weight_decay": spec.weight_decay}
    kind: type[torch.optim.Optimizer] = torch.optim.AdamW
    if spec.name == "sgd":
        kind, options["momentum"] = torch.optim.SGD, spec.momentum
    if fused:
        options["fused"] = True
    if place.layout.shard != "optimizer":
        return kind(parameters, **options)
    from torch.distributed.optim import ZeroRedundancyOptimizer

    # As views of one bucket for each rank: what a rank updated is sent in one message, not one for each parameter.
    return ZeroRedundancyOptimizer(
        parameters, kind, process_group=place.group("dp"), parameters_as_bucket_view=True, **options
    )
