"""What a loss is the mean over, and how much a micro-batch counts in the mean of the global batch.

A mean over samples counts samples. A mean over items that count (tokens that are not padding, class weights) counts
their weights: the global mean is sum(w_i L_i) / sum(w_i) over micro-batches and replicas, w_i being a function of the
targets. It is measured (`train.parity.mean`), or said by the workload's `weight`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from hpc_accel.workloads.nested import tensors_of

Over = Literal["samples", "items", "sum", "neither", "unknown"]
IGNORED = -100
"""What torch's losses and Hugging Face leave out by default."""
FEW = 4


class MeanOver(BaseModel):
    """What one value of a loss is over. `weights` are those of target values which differ from `default`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    over: Over = "samples"
    weights: dict[int, float] = {}
    default: float = 1.0
    leaf: int = 0
    """Which of the tensors inside the targets has the items; of one tensor, itself."""
    shifted: bool = False
    """Items begin at the second position of a sample: the loss compares each position with the next one's label."""
    said_by_workload: bool = False
    takes_total: bool = False
    """The loss itself divides by `num_items_in_batch`, as Hugging Face's do."""
    reason: str = ""

    @property
    def told(self) -> str:
        """In words, for the record."""
        by = "by the workload's weight()" if self.said_by_workload else "found by measurement"
        words = {
            "samples": "the mean over samples",
            "items": f"the mean over the items that count, {by}",
            "sum": "a sum over samples",
            "neither": "no mean over samples or items: it depends on which samples are computed together",
            "unknown": "unknown",
        }
        return words[self.over] + (f": {self.reason}" if self.reason else "")


class Weigh:
    """The weight of the targets of a micro-batch, as a number; computed where the targets are."""

    def __init__(self, mean: MeanOver, said: Callable[[Any], torch.Tensor | float] | None = None) -> None:
        self.mean = mean
        self._said = said if mean.said_by_workload else None

    def __call__(self, targets: Any) -> float:
        if self._said is not None:
            return float(self._said(targets))
        mean = self.mean
        items = targets if isinstance(targets, torch.Tensor) else tensors_of(targets)[mean.leaf]
        items = items[:, 1:] if mean.shifted else items
        special = mean.weights
        if len(special) <= FEW:
            total = mean.default * items.numel()
            return total + sum((weight - mean.default) * int((items == v).sum()) for v, weight in special.items())
        values, counts = torch.unique(items, return_counts=True)
        pairs = zip(values.tolist(), counts.tolist(), strict=True)
        return float(sum(special.get(int(value), mean.default) * count for value, count in pairs))
