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


def quantize_linears(module: nn.Module) -> list[str]:
    """Replace the linear layers inside `module` (not itself) in place; what was done. ConfigError without any."""
    linears = [each for each in module.modules() if type(each) is nn.Linear and each is not module]
    if not linears:
        raise ConfigError(
            "quantize int8 on a model without linear layers inside",
            "dynamic int8 is for torch.nn.Linear; others stay as they are",
            "leave quantize out, or put the layer into a torch.nn.Sequential",
        )
    with warnings.catch_warnings():
        # Said once, in this file's first lines; users can do nothing about it.
        warnings.simplefilter("ignore")
        from torch.ao.quantization import quantize_dynamic

        quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8, inplace=True)
    found = f"{len(linears)} linear layers, {torch.backends.quantized.engine} kernels; other layers stay fp32"
    return [f"quantize int8: {found}"]
