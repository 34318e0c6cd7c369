"""Residual networks of 18 and 50 layers. One Sequential of blocks, so that it can be cut into stages between them.

K. He et al., "Deep Residual Learning for Image Recognition" (2016), table 1, with the stride in the 3 x 3 convolution.
Images of up to 64 pixels get the paper's small first layer (section 4.2): 3 x 3, no pooling.

Norms are over groups of channels by default (Y. Wu, K. He, "Group Normalization", 2018). A batch norm makes a sample's
result depend on which others share its rank and micro-batch: every layout then computes something else, but for
replicas with the recipe `sync_batch_norm`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

Norm = Callable[[int], nn.Module]
NUM_GROUPS = 32
SMALL_IMAGE = 64


class Size(NamedTuple):
    """Blocks in each of the four groups, and whether they are bottlenecks."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool


SIZES = {"resnet18": Size((2, 2, 2, 2), False), "resnet50": Size((3, 4, 6, 3), True)}


def group_norm(channels: int) -> nn.Module:
    """Over 32 groups of channels of one sample."""
    return nn.GroupNorm(NUM_GROUPS, channels)


def batch_norm(channels: int) -> nn.Module:
    """Over the batch of one rank, or with `sync_batch_norm` of all replicas."""
    return nn.BatchNorm2d(channels)


def residual_network(size: Size, image: int, num_classes: int, norm: Norm) -> nn.Sequential:
    """[n, 3, image, image] -> [n, num_classes]."""
    layers: list[nn.Module]
    if image <= SMALL_IMAGE:
        layers = [nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), norm(64), nn.ReLU())]
    else:
        convolution = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        layers = [nn.Sequential(convolution, norm(64), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))]
    channels = 64
    for group, count in enumerate(size.blocks):
        width = 64 * 2**group
        for index in range(count):
            stride = 2 if group > 0 and index == 0 else 1
            layers.append(Residual(channels, width, stride, norm, bottleneck=size.bottleneck))
            channels = width * (4 if size.bottleneck else 1)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
    return nn.Sequential(*layers, head)


class Residual(nn.Module):
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3 and 1 x 1 four times as wide, beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, norm: Norm, *, bottleneck: bool) -> None:
        super().__init__()
        out = width * (4 if bottleneck else 1)
        if bottleneck:
            kernels = [(channels, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        else:
            kernels = [(channels, width, 3, stride), (width, out, 3, 1)]
        layers: list[nn.Module] = []
        for before, after, kernel, step in kernels:
            convolution = nn.Conv2d(before, after, kernel, stride=step, padding=kernel // 2, bias=False)
            layers += [convolution, norm(after), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), norm(out))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(self.body(images) + self.shortcut(images))
