"""Copies of modules that share, or have none of, the originals' parameters: what stages of blocks are built of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map


class Zeros:
    """Returns zeros in the form seen once, for as many samples as there are now."""

    def __init__(self, returned: Any, batch: Callable[[], tuple[int, torch.device]]) -> None:
        self.returned, self.batch = returned, batch

    def __call__(self, *_: Any, **__: Any) -> Any:
        size, device = self.batch()

        def zeros(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return torch.zeros((size, *value.shape[1:]) if value.dim() else (), dtype=value.dtype, device=device)

        return tree_map(zeros, self.returned)


def shell(module: nn.Module) -> nn.Module:
    """A copy with the same parameters, buffers and children, to which others can be given."""
    clone = copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict) and name.startswith("_"):  # parameters, buffers, children, hooks
            clone.__dict__[name] = OrderedDict(value) if isinstance(value, OrderedDict) else dict(value)
    return clone


def emptied(module: nn.Module) -> nn.Module:
    """A copy, children too, with plain values in place of parameters and buffers."""
    clone = shell(module)
    for key, value in [*clone._parameters.items(), *clone._buffers.items()]:
        clone.__dict__[key] = None if value is None else zeros_like(value)
    clone._parameters.clear()
    clone._buffers.clear()
    for key, child in clone._modules.items():
        clone._modules[key] = None if child is None else emptied(child)
    return clone


def zeros_like(tensor: torch.Tensor) -> torch.Tensor:
    """Zeros of this shape that take no room; on the CPU where the tensor has no values."""
    return tensor.detach().new_zeros((), device="cpu" if tensor.is_meta else None).expand(tensor.shape)


def is_hollow(module: nn.Module) -> bool:
    """Whether the module stands for one of another stage: there are no weights of it to divide or to train."""
    return next(module.parameters(), None) is None
