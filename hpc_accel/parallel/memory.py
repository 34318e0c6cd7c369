"""Where and in which order tensors lie: channels last, and activations kept on the host until backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def set_channels_last(module: nn.Module) -> None:
    """Store the weights of 2-D and 3-D convolutions with channels innermost, as their fastest kernels want them."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() in CHANNELS_LAST:
                parameter.data = parameter.data.contiguous(memory_format=CHANNELS_LAST[parameter.dim()])


def channels_last(inputs: torch.Tensor) -> torch.Tensor:
    """Images or volumes with channels innermost; anything else as it is."""
    form = CHANNELS_LAST.get(inputs.dim())
    return inputs if form is None else inputs.contiguous(memory_format=form)


def offload_activations(module: nn.Module) -> None:
    """Keep what backward needs in pinned host memory instead of the device's, in place."""
    forward: Callable[..., Any] = module.forward

    def offloaded(*inputs: Any) -> Any:
        with torch.autograd.graph.save_on_cpu(pin_memory=True):
            return forward(*inputs)

    module.forward = offloaded
