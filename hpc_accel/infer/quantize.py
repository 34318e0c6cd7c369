"""Linear layers in int8 on CPUs: weights once, activations as they come (dynamic quantisation).

B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (CVPR
2018). By torch.ao.quantization, whose kernels (oneDNN, FBGEMM, QNNPACK) come with torch; it is marked as deprecated
there in favour of torchao, whose int8 on CPUs needs torch.compile to be fast.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from hpc_accel.errors import ConfigError


def check_linears(model: nn.Module, device: torch.device) -> list[str]:
    """What will be done to the whole model, in words for the report.

    Raises ConfigError on a device without such kernels, and for a model without a linear layer.
    """
    if device.type != "cpu":
        raise ConfigError(
            f"quantize int8 on {device}",
            "dynamic int8 is torch's kernel for CPUs; there is none for GPUs",
            "set device: cpu, or leave quantize out and use bf16",
        )
    count = sum(type(each) is nn.Linear for each in model.modules())
    if not count:
        raise ConfigError(
            "quantize int8 on a model without linear layers",
            "dynamic int8 is for torch.nn.Linear; others stay as they are",
            "leave quantize out",
        )
    return [f"quantize int8: {count} linear layers, {torch.backends.quantized.engine} kernels; other layers stay fp32"]


def quantize_linears(module: nn.Module) -> None:
    """Replace the linear layers inside `module` (not itself) in place. A stage may have none."""
    with warnings.catch_warnings():
        # Said once, in this file's first lines; users can do nothing about it.
        warnings.simplefilter("ignore")
        from torch.ao.quantization import quantize_dynamic

        quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8, inplace=True)
