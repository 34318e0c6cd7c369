"""What a loss is the mean over, and how much a micro-batch counts in the mean of the global batch.

A mean over samples counts samples. A mean over items that count (tokens that are not padding, class weights) counts
their weights: the global mean is sum(w_i L_i) / sum(w_i) over micro-batches and replicas, w_i being a function of the
targets. It is measured (`train.parity.mean`), or said by the workload's `weight`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict

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

    def __init__(self, mean: MeanOver, said: Callable[[torch.Tensor], torch.Tensor | float] | None = None) -> None:
        self.mean = mean
        self._said = said if mean.said_by_workload else None

    def __call__(self, targets: torch.Tensor) -> float:
        if self._said is not None:
            return float(self._said(targets))
        mean = self.mean
        special = mean.weights
        if len(special) <= FEW:
            total = mean.default * targets.numel()
            return total + sum((weight - mean.default) * int((targets == v).sum()) for v, weight in special.items())
        values, counts = torch.unique(targets, return_counts=True)
        pairs = zip(values.tolist(), counts.tolist(), strict=True)
        return float(sum(special.get(int(value), mean.default) * count for value, count in pairs))
