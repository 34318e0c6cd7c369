"""The optimizer of a run, over this rank's parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hpc_accel.study.schema import Optimizer


def make_optimizer(spec: Optimizer, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer | None:
    """The torch optimizer; None on a stage without parameters."""
    if not parameters:
        return None
    if spec.name == "adamw":
        return torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    return torch.optim.SGD(parameters, lr=spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay)
