"""The loss of a micro-batch, weighted so that gradients add up to those of the global batch's mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hpc_accel.parallel.loss_device import loss_of, move_loss
from hpc_accel.workloads.workload import Loss

if TYPE_CHECKING:
    from hpc_accel.runtime.scaler import Scaler


class MicroBatchLoss:
    """The workload's loss of one micro-batch in fp32, weighted, and scaled for fp16 if asked.

    Replicas average their gradients, so a micro-batch of n samples counts n x dp / global batch: 1 / accumulation_steps
    where all are alike. `begin` says how many samples count in each micro-batch of the step that comes; schedules call
    the loss in the order of the micro-batches.
    """

    def __init__(self, loss: Loss, dp: int, scaler: Scaler | None) -> None:
        self.loss = loss
        self.dp = dp
        self.scaler = scaler
        self._device: torch.device | None = None
        self._counts: list[int] = []
        self._total = 1
        self._next = 0

    def begin(self, counts: list[int], total: int) -> None:
        """A step of `total` samples in all, of which this rank's micro-batches hold `counts`."""
        self._counts, self._total, self._next = counts, total, 0

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The scalar to differentiate, of the next micro-batch."""
        count = self._counts[self._next]
        self._next += 1
        if outputs.device != self._device:  # only now, because one loss object may serve a model on the CPU before
            move_loss(self.loss, outputs.device)
            self._device = outputs.device
        outputs = outputs.float() if outputs.is_floating_point() else outputs
        if count == 0:
            loss = outputs.sum() * 0.0  # nothing counts, and still every gradient exists
        else:
            loss = loss_of(self.loss, outputs[:count], targets[:count]) * (count * self.dp / self._total)
        return self.scaler.scale(loss) if self.scaler is not None else loss

    @property
    def scale(self) -> torch.Tensor | float:
        """What the scaler multiplies losses with at present; on the device, or everybody would wait for it."""
        return self.scaler.now() if self.scaler is not None else 1.0


def counts_of(valid: int, num_micro_batches: int, size: int) -> list[int]:
    """How many of the first `valid` samples fall into each micro-batch of `size`."""
    return [max(0, min(size, valid - index * size)) for index in range(num_micro_batches)]
