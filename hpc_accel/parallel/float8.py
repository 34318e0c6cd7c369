"""Linear layers in 8-bit floats with tensor-wise scaling (Micikevicius et al., arXiv 2209.05433), by torchao."""

from __future__ import annotations

import torch
from torch import nn

from hpc_accel.errors import ConfigError

MULTIPLE = 16
"""Sizes the hardware's 8-bit products want of a weight's two dimensions."""


def use_float8(module: nn.Module, device: torch.device, *, emulate: bool = False) -> nn.Module:
    """`module` with its linear layers whose sizes fit computing in float8; weights stay as they are.

    Layers inside `module` are replaced in place; a module that is a linear layer itself is answered by another.
    `emulate` computes the same numbers without the hardware, for tests. Raises ConfigError where device or software
    cannot: float8 needs a GPU of compute capability 8.9 or higher.
    """
    if not emulate and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9)):
        what = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
        raise ConfigError(
            f"precision fp8 on {what}",
            "8-bit matrix products need a GPU of compute capability 8.9 or higher (Ada, Hopper, Blackwell)",
            "use bf16",
        )
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError:
        raise ConfigError(
            "precision fp8 without torchao",
            "float8 training is torchao's",
            "pip install 'hpc-accel[fp8]'",
        ) from None

    def fits(layer: nn.Module, name: str) -> bool:
        return isinstance(layer, nn.Linear) and not layer.in_features % MULTIPLE and not layer.out_features % MULTIPLE

    # A weight's gradient adds up over rows, samples times positions, of which there is any number: a head on one token
    # per sample has as many as the micro-batch. They are padded with zeros, which costs memory only where they must be.
    config = Float8LinearConfig(emulate=emulate, pad_inner_dim=True)
    converted: nn.Module = convert_to_float8_training(module, config=config, module_filter_fn=fits)
    return converted
