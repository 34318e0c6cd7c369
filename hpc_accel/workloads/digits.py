"""Handwritten digits (scikit-learn's copy of the UCI test set, 1,797 images of 8 x 8) and a small CNN.

Data: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.workload import Workload


def table_path() -> Path:
    """The table inside the scikit-learn package, which is not imported: that alone takes longer than a small run.

    Raises ConfigError when scikit-learn is not installed.
    """
    spec = importlib.util.find_spec("sklearn")
    for directory in spec.submodule_search_locations or [] if spec else []:
        path = Path(directory) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return path
    raise ConfigError(
        "workload digits without scikit-learn",
        "the images come with the scikit-learn package",
        "pip install scikit-learn",
    )


def build(width: int = 32) -> Workload:
    """Convolutional classifier; `width` is the number of channels of the second convolution."""
    table = np.loadtxt(
        table_path(), delimiter=",", dtype=np.float32
    )  # [1797, 64 grey values of 0 to 16, and the label]
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
        dataset=TensorDataset(inputs, labels),
        tensor_plan={"6": "columns", "8": "rows"},
    )
