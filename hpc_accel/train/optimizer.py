"""The optimizer of a run, over this rank's parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from hpc_accel.study.schema import Optimizer


def make_optimizer(spec: Optimizer, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer | None:
    """The torch optimizer; None on a stage without parameters.

    Sharded and whole parameters form groups of their own, because torch's multi-tensor kernels cannot mix them.
    """
    if not parameters:
        return None
    sharded = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    groups = [{"params": group} for group in (whole, sharded) if group]
    if spec.name == "adamw":
        return torch.optim.AdamW(groups, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    return torch.optim.SGD(groups, lr=spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay)
