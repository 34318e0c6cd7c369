"""What a workload's `build` returns: model, loss, data, and what cannot be guessed about the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model to train, on what, and against which loss.

    model: in fp32 on the CPU; a `torch.nn.Sequential` can be cut into pipeline stages between its children.
    loss: (outputs, targets) -> scalar, the mean over the samples, so that the mean over equal shares is the mean
        over the batch.
    dataset: map-style; `dataset[i]` is (input, target), tensors of the same shape for every i.
    tensor_plan: which linear layers tensor parallelism cuts, by module name; `*` matches any part of it.
        "columns" divides the output features, "rows" the input features and sums the partial results.
    """

    model: torch.nn.Module
    loss: Loss
    dataset: Dataset[Any]
    tensor_plan: Mapping[str, Literal["columns", "rows"]] = field(default_factory=dict)
