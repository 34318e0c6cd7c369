"""The BatchNorm layers of a model, and which of them compute what torch's own do."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

STOCK = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def batch_norms_of(model: nn.Module) -> dict[str, _BatchNorm]:
    """BatchNorm layers of any dimension with torch's forward, by name."""
    return {name: each for name, each in _all(model).items() if type(each).forward in STOCK}


def other_batch_norms_of(model: nn.Module) -> tuple[str, ...]:
    """Names of layers whose class is derived from BatchNorm and has a forward of its own."""
    return tuple(name for name, each in _all(model).items() if type(each).forward not in STOCK)


def _all(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: each for name, each in model.named_modules() if isinstance(each, _BatchNorm)}
