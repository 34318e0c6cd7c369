"""Handwritten digits (scikit-learn's copy of the UCI test set, 1,797 images of 8 x 8) and a small CNN.

Data: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.workloads.builtin.metrics import accuracy
from hpc_accel.workloads.builtin.optional_packages import package_file
from hpc_accel.workloads.workload import Metric, Workload

NUM_HELD_OUT = 297
"""The last images of the table: mostly other people's writing than those before."""


def build(width: int = 32) -> Workload:
    """Convolutional classifier; `width` is the number of channels of the second convolution."""
    path = package_file("digits", "quickstart", "sklearn", "datasets/data/digits.csv.gz")
    table = np.loadtxt(path, delimiter=",", dtype=np.float32)  # [1797, 64 grey values of 0 to 16, and the label]
    inputs = torch.from_numpy(table[:, :-1]).reshape(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(table[:, -1]).long()
    model = nn.Sequential(
        nn.Conv2d(1, width // 2, 3, padding=1),  # [n, 1, 8, 8] -> [n, width/2, 8, 8]
        nn.ReLU(),
        nn.Conv2d(width // 2, width, 3, padding=1),  # -> [n, width, 8, 8]
        nn.ReLU(),
        nn.AvgPool2d(2),  # -> [n, width, 4, 4]; a maximum's ties would turn rounding into different losses
        nn.Flatten(),
        nn.Linear(width * 16, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    return Workload(
        model=model,
        loss=nn.functional.cross_entropy,
        dataset=TensorDataset(inputs[:-NUM_HELD_OUT], labels[:-NUM_HELD_OUT]),
        tensor_plan={"6": "columns", "8": "rows"},
        metric=Metric(
            name="accuracy",
            compute=accuracy,
            higher_is_better=True,
            dataset=TensorDataset(inputs[-NUM_HELD_OUT:], labels[-NUM_HELD_OUT:]),
        ),
    )
