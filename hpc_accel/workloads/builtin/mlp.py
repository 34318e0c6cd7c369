"""The field's smallest example: Linear(10,5)-ReLU-Linear(5,3) fitted to 100 random samples by gradient descent."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.workloads.workload import Workload


def build(samples: int = 100) -> Workload:
    """Mean squared error between two random matrices: nothing to learn but the machine's overheads."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, 10, generator=generator)
    targets = torch.randn(samples, 3, generator=generator)
    return Workload(
        model=nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 3)),
        loss=nn.functional.mse_loss,
        dataset=TensorDataset(inputs, targets),
        tensor_plan={"0": "columns", "2": "rows"},
    )
