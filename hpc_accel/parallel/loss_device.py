"""The workload's loss beside the outputs: a module is moved, and what cannot be moved is told of in plain words."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.batch import own_loss
from hpc_accel.workloads.nested import all_raised, tensors_of
from hpc_accel.workloads.workload import Loss

ELSEWHERE = ("on the same device", "same device as the indexed tensor", "not on the expected device")
"""How torch says that tensors lie on different devices."""


def move_loss(loss: Loss | None, device: torch.device) -> None:
    """Put what a loss module holds (class weights, for example) on `device`, in place as models are."""
    if isinstance(loss, nn.Module):
        loss.to(device)


def loss_of(loss: Loss | None, outputs: Any, targets: Any) -> torch.Tensor:
    """The loss, of outputs in fp32 at least; without one, that which the model returned.

    Raises ConfigError when it holds tensors that stay on another device.
    """
    if loss is None:
        return own_loss(outputs)
    try:
        return loss(all_raised(outputs), targets)
    except RuntimeError as error:
        if not any(words in str(error) for words in ELSEWHERE):
            raise
        where = ", ".join(sorted({str(each.device) for each in tensors_of(outputs)}))
        raise ConfigError(
            f"the workload's loss, {_name(loss)}, with outputs on {where}: {str(error).splitlines()[0]}",
            "only a loss that is a torch.nn.Module is moved to the device, with its parameters and buffers",
            "keep such tensors as buffers of a Module (register_buffer), or move them in the loss: "
            "weight.to(outputs.device)",
        ) from error


def _name(loss: Any) -> str:
    return str(getattr(loss, "__qualname__", type(loss).__qualname__))
