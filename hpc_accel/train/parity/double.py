"""A workload in fp64, in which parity is proven where fp32 would only show rounding.

A ReLU whose input rounds to the other side of 0 moves a gradient by 1e-4 to 1e-1, and with BatchNorm one does so in
most honest orders of sums; in fp64 none does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

from hpc_accel.workloads.workload import Workload


def doubled(workload: Workload) -> Workload:
    """`workload` with its weights and the floating-point values of its samples in fp64."""
    workload.model.double()
    if isinstance(workload.loss, nn.Module):
        workload.loss.double()
    return replace(workload, dataset=Doubled(workload.dataset))


class Doubled(Dataset[Any]):
    """Samples in fp64 where they are floating point."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> Any:
        return tree_map(_doubled, self.dataset[index])


def _doubled(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, np.ndarray | np.floating):
        return value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value
    return value
