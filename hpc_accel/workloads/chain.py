"""A Sequential whose first child takes several inputs: the sensors of one sample, for example."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import nn


class Chain(nn.Sequential):
    """`nn.Sequential` but for its first child, which is given all inputs; each child after it takes one tensor.

    It is a Sequential everywhere else, so it can be cut into pipeline stages between its children.
    """

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Inputs [n, ...] each -> what the last child makes of them."""
        first, *rest = self
        states = first(*inputs)
        for layer in rest:
            states = layer(states)
        return states


def is_sequence(model: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether `model` runs its children one after the other: a Sequential that no subclass runs otherwise."""
    return isinstance(model, nn.Sequential) and type(model).forward in (nn.Sequential.forward, Chain.forward)


def layers_of(model: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """Names and modules of the children, in order; `named_children` leaves out one that stands there twice."""
    return list(zip(model._modules, model, strict=True))
