"""Activation recomputation (Chen et al., arXiv 1604.06174): keep a block's input, compute the rest again in backward.

`full` keeps nothing inside a block. `selective` keeps the results of matrix products, convolutions and attention, which
cost most to compute, and recomputes what is cheap but large (Korthikanti et al., arXiv 2205.05198, the same idea).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from hpc_accel.workloads.blocks import blocks_with_parameters

_aten = torch.ops.aten
KEPT = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten.bmm.default,
        _aten.baddbmm.default,
        _aten._scaled_mm.default,  # products in float8
        _aten.convolution.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)


def recompute_blocks(module: nn.Module, kind: str) -> None:
    """Make every block of `module` with parameters recompute itself in backward, in place. `kind`: selective, full.

    Random numbers are drawn again alike, so a block with dropout stays right.
    """
    options: dict[str, Any] = {"use_reentrant": False}
    if kind == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in blocks_with_parameters(module):
        block.forward = _recomputed(block.forward, options)


def _recomputed(forward: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    def wrapper(*inputs: Any) -> Any:
        return checkpoint(forward, *inputs, **options) if torch.is_grad_enabled() else forward(*inputs)

    return wrapper


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
