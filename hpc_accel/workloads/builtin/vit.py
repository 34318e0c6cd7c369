"""Vision transformer: an image as a sequence of patches. One Sequential, so that it can be cut into stages anywhere.

A. Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021), table 1: base and large; H. Touvron et al., "Training
data-efficient image transformers" (2021), table 1: tiny and small.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from hpc_accel.workloads.builtin.transformer import Block


class Size(NamedTuple):
    """Blocks, width and attention heads."""

    layers: int
    hidden: int
    heads: int


SIZES = {
    "vit-tiny": Size(12, 192, 3),
    "vit-small": Size(12, 384, 6),
    "vit-base": Size(12, 768, 12),
    "vit-large": Size(24, 1024, 16),
}


def vision_transformer(size: Size, image: int, patch: int, num_classes: int) -> nn.Sequential:
    """[n, 3, image, image] -> [n, num_classes]; `patch` divides `image`."""
    blocks = [Block(size.hidden, size.hidden // size.heads, causal=False) for _ in range(size.layers)]
    return nn.Sequential(Patches(size.hidden, image, patch), *blocks, ClassHead(size.hidden, num_classes))


class Patches(nn.Module):
    """[n, 3, image, image] -> [n, 1 + patches, hidden]: a class token, then the patches, with learned positions."""

    def __init__(self, hidden: int, image: int, patch: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, hidden, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, hidden))
        self.position = nn.Parameter(torch.empty(1, 1 + (image // patch) ** 2, hidden).normal_(std=0.02))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.project(images).flatten(2).transpose(1, 2)  # [n, patches, hidden]
        token = self.token.expand(len(images), -1, -1)
        return torch.cat([token, patches], dim=1) + self.position


class ClassHead(nn.Module):
    """Final norm, and classes from the class token: [n, 1 + patches, hidden] -> [n, classes]."""

    def __init__(self, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, num_classes)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.project(self.norm(states[:, 0]))
