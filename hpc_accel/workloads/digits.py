"""Handwritten digits (scikit-learn's copy of the UCI test set, 1,797 images of 8 x 8) and a small CNN.

Data: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.workload import Workload


def build(width: int = 32) -> Workload:
    """Convolutional classifier; `width` is the number of channels of the second convolution."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigError(
            "workload digits without scikit-learn",
            "the images come with the scikit-learn package",
            "pip install scikit-learn",
        ) from None
    images, labels = load_digits(return_X_y=True)
    inputs = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    model = nn.Sequential(
        nn.Conv2d(1, width // 2, 3, padding=1),  # [n, 1, 8, 8] -> [n, width/2, 8, 8]
        nn.ReLU(),
        nn.Conv2d(width // 2, width, 3, padding=1),  # -> [n, width, 8, 8]
        nn.ReLU(),
        nn.MaxPool2d(2),  # -> [n, width, 4, 4]
        nn.Flatten(),
        nn.Linear(width * 16, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    return Workload(
        model=model,
        loss=nn.functional.cross_entropy,
        dataset=TensorDataset(inputs, torch.as_tensor(labels, dtype=torch.long)),
        tensor_plan={"6": "columns", "8": "rows"},
    )
