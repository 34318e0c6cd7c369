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
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from hpc_accel.parallel.boundary import may_write, on_copies
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

    Random numbers are drawn again alike, so a block with dropout stays right. So does one whose buffers change in
    forward (running statistics, power iteration): it is computed again from the buffers of the first time, which are
    then left as they were.
    """
    _keep_no_cache(module)
    options: dict[str, Any] = {"use_reentrant": False}
    if kind == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in blocks_with_parameters(module):
        block.forward = _recomputed(block.forward, list(block.buffers()), options)


def _keep_no_cache(module: nn.Module) -> None:
    """A cache of keys and values serves generation; in training a block that runs again would write into it twice.

    As transformers has it, for its own checkpointing.
    """
    for part in module.modules():
        config: Any = getattr(part, "config", None)
        if getattr(config, "use_cache", None) is True:
            config.use_cache = False


def _recomputed(
    forward: Callable[..., Any], buffers: list[torch.Tensor], options: dict[str, Any]
) -> Callable[..., Any]:
    writes = [True]  # into its inputs: until a call shows that it does not

    def wrapper(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        again = on_copies(forward, writes) if may_write(writes) else forward
        again = _with_first_buffers(again, buffers) if buffers else again
        return checkpoint(again, *inputs, **options, **named)

    return wrapper


def _with_first_buffers(forward: Callable[..., Any], buffers: list[torch.Tensor]) -> Callable[..., Any]:
    """`forward` for one micro-batch, which is called once, and again in backward."""
    first: list[torch.Tensor] = []

    def call(*inputs: Any, **named: Any) -> Any:
        if not first:
            first.extend(_copies(buffers))
            return forward(*inputs, **named)
        now = _copies(buffers)
        _put(buffers, first)
        try:
            return forward(*inputs, **named)
        finally:
            _put(buffers, now)

    return call


def _copies(buffers: list[torch.Tensor]) -> list[torch.Tensor]:
    with _disable_current_modes():  # `selective` would count these operations to the block's own
        return [each.detach().clone() for each in buffers]


def _put(buffers: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    with _disable_current_modes():
        for buffer, value in zip(buffers, values, strict=True):
            buffer.data.copy_(value)  # by `data`, as autograd would take a saved buffer for one that was changed since


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
