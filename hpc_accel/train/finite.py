"""A run ends at its first NaN, with the rank, the step and the tensor named, and keeps the checkpoints from before.

Losses are looked at when steps are read, some at a time, and weights before each checkpoint: a gradient that is NaN
while its loss is not reaches the weights first.
"""

from __future__ import annotations

import math

import torch

from hpc_accel.errors import NonFiniteError
from hpc_accel.runtime.step import Stepper

SKIPS = 20
"""Losses in a row that fp16 may lose: its scaler leaves such steps out and halves the scale."""
RULE = "losses and weights are finite numbers"
REMEDY = "lower the learning rate, clip gradients, use precision bf16 or fp32, or look for such a value in the data"


class LossWatch:
    """Looks at one rank's losses in the order of its steps."""

    def __init__(self, rank: int, precision: str) -> None:
        self._rank, self._left = rank, SKIPS if precision == "fp16" else 0
        self._allowed = self._left

    def see(self, step: int, loss: float | None) -> None:
        """Raise NonFiniteError for a loss that is one too many."""
        if loss is None:
            return
        if math.isfinite(loss):
            self._left = self._allowed
            return
        self._left -= 1
        if self._left < 0:
            raise NonFiniteError(f"loss of step {step} is {loss} on rank {self._rank}", RULE, REMEDY, step)


def refuse_broken_weights(stepper: Stepper, rank: int, step: int) -> None:
    """Raise NonFiniteError where a trained weight is NaN or infinite: such a state is never saved."""
    for stage, module in stepper.model.modules.items():
        for name, parameter in module.named_parameters():
            value = parameter.detach()
            value = value.to_local() if hasattr(value, "to_local") else value
            if parameter.requires_grad and value.is_floating_point() and not bool(torch.isfinite(value).all()):
                where = f"stage {stage}, " if len(stepper.model.modules) > 1 else ""
                raise NonFiniteError(
                    f"weight {where}{name} is not finite after step {step} on rank {rank}", RULE, REMEDY, step
                )
