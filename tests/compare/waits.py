"""A workload whose step takes as long as it says, busy machine or not: its forward pass waits most of the time."""

from __future__ import annotations

import os
import time

import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.workloads.workload import Workload

WAIT_S = 0.06
FACTOR = "TEST_WAIT_FACTOR"


class Waiting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 2)

    def forward(self, inputs):
        time.sleep(WAIT_S * float(os.environ.get(FACTOR, "1")))
        return self.linear(inputs)


def build():
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(64, 8, generator=generator), torch.randn(64, 2, generator=generator)
    return Workload(model=Waiting(), loss=nn.functional.mse_loss, dataset=TensorDataset(inputs, targets))
