"""A model whose scalar stays whole, whose spare layer never trains, and whose branch looks at values."""

import torch
from torch import nn


class Odd(nn.Module):
    """`branches`: whether forward looks at values."""

    def __init__(self, *, branches):
        super().__init__()
        self.branches = branches
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.spare = nn.Linear(8, 2)

    def forward(self, inputs):
        found = self.body(inputs) * self.scale.exp()
        return found + 0 * self.spare(inputs) if self.branches and inputs.sum() > 1e6 else found


def build(branches=False):
    torch.manual_seed(0)
    inputs = torch.randn(64, 8)
    dataset = torch.utils.data.TensorDataset(inputs, (inputs.sum(1) > 0).long())
    return Odd(branches=branches), nn.functional.cross_entropy, dataset
