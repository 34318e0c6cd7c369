"""Linear layers on fixed random numbers: as much computation and communication as asked for, to measure the engine."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.workload import Workload


def build(width: int = 256, depth: int = 4, samples: int = 1024) -> Workload:
    """`depth` linear layers of `width` x `width`, each but the last with a ReLU, against fixed random targets.

    6 x depth x width^2 floating-point operations a sample and training step, and as many parameters as
    depth x (width^2 + width). There is nothing to learn, so there is no metric. Raises ConfigError for sizes below 1.
    """
    for name, value in (("width", width), ("depth", depth), ("samples", samples)):
        if value < 1:
            raise ConfigError(f"workload synthetic with {name} {value}", f"{name} is at least 1", f"raise {name}")
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, width, generator=generator)
    targets = torch.randn(samples, width, generator=generator)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    # Linear layers have the even numbers; they are cut in pairs, so an odd last one stays whole.
    plan: dict[str, Literal["columns", "rows"]] = {
        str(2 * index): "columns" if index % 2 == 0 else "rows" for index in range(depth - depth % 2)
    }
    return Workload(
        model=nn.Sequential(*layers[:-1]),
        loss=nn.functional.mse_loss,
        dataset=TensorDataset(inputs, targets),
        tensor_plan=plan,
    )
