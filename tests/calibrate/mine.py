"""Workloads for the test of a calibration on real ranks: one that works, and one that fails when it is trained."""

from __future__ import annotations

import torch
from torch import nn


class Broken(nn.Module):
    """Works on the two samples that facts are counted with, and on no others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > 2:
            raise RuntimeError("this model takes two samples")
        return self.layer(inputs)


def build(broken: bool = False):
    """A small network, or the broken one."""
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.randn(64, 8))
    good = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    return Broken() if broken else good, nn.functional.mse_loss, data
