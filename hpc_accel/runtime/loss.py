"""The loss of a micro-batch, weighted so that gradients add up to those of the global batch's mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hpc_accel.parallel import planted
from hpc_accel.parallel.loss_device import loss_of, move_loss
from hpc_accel.parallel.outputs_together import OutputsTogether
from hpc_accel.runtime.weight import MeanOver
from hpc_accel.workloads import nested
from hpc_accel.workloads.batch import Batch, own_loss
from hpc_accel.workloads.workload import Loss

if TYPE_CHECKING:
    from hpc_accel.runtime.scaler import Scaler


class MicroBatchLoss:
    """The workload's loss of one micro-batch, weighted, and scaled for fp16 if asked.

    It is computed in the type of the outputs; only 16 bits are raised to fp32. Replicas average their gradients, so a
    micro-batch of weight w counts w x dp / (sum of all weights of the global batch); where `mean` is over samples, w is
    their number. `begin` says the weights of the step that comes; schedules call the loss in the order of the
    micro-batches. With `together` each replica computes the loss of the global batch, and that is all of it.
    """

    def __init__(
        self,
        loss: Loss | None,
        dp: int,
        scaler: Scaler | None,
        mean: MeanOver | None = None,
        *,
        together: OutputsTogether | None = None,
        is_padded: bool = False,
    ) -> None:
        """`is_padded`: outputs and targets are tensors of whole micro-batches, whose first samples count."""
        self.loss = loss
        self.is_padded = is_padded
        self.dp = dp
        self.scaler = scaler
        self.mean = mean or MeanOver()
        self.together = together
        self._device: torch.device | None = None
        self._counts: list[int] = []
        self._weights: list[float] = []
        self._total: Any = 1
        self._next = 0
        self._targets: tuple[Any, int] | None = None

    def begin(self, counts: list[int], total: float, weights: list[float] | None = None) -> None:
        """A step of weight `total` in all, whose micro-batches here hold `counts` samples and count `weights`."""
        self._counts, self._total, self._next = counts, total, 0
        self._weights = list(map(float, counts)) if weights is None else weights

    def hold(self, batch: Batch) -> torch.Tensor:
        """What stands for the targets of all micro-batches where a schedule must cut a tensor: themselves, if they are
        one, or the numbers of their samples.
        """
        if isinstance(batch.targets, torch.Tensor) and not self.is_own:
            self._targets = None
            return batch.targets
        self._targets = batch.targets, batch.count
        return torch.arange(batch.count)

    @property
    def is_own(self) -> bool:
        """Whether the model itself returns the loss."""
        return self.loss is None

    @property
    def told(self) -> dict[str, Any]:
        """What the model is told beside its inputs: the weight of the global batch, where it computes the loss so."""
        return {"num_items_in_batch": self._total} if self.is_own and self.mean.takes_total else {}

    def __call__(self, outputs: Any, targets: Any) -> torch.Tensor:
        """The scalar to differentiate, of the next micro-batch."""
        count, weight = self._counts[self._next], self._weights[self._next]
        self._next += 1
        if self._targets is not None:
            whole, num_samples = self._targets
            targets = nested.cut(whole, slice(int(targets[0]), int(targets[-1]) + 1), num_samples)
        tensors = nested.tensors_of(outputs)
        if tensors and tensors[0].device != self._device:
            self._device = tensors[0].device
            move_loss(self.loss, self._device)  # only now, because one loss object may serve a model on the CPU before
        outputs = nested.all_raised(outputs)
        dropped = planted.is_on("micro_batch_dropped") and self._next == len(self._counts)
        if self.together is not None and not dropped:
            loss = self._of_all(self.together(outputs), self.together(targets))
        elif count == 0 or weight == 0 or dropped:
            # Nothing counts, and still every gradient exists.
            loss = torch.stack([each.sum() for each in nested.floats_of(outputs)]).sum() * 0.0
        else:
            loss = self._weighted(*self._counted(outputs, targets, count), weight)
        if planted.is_on("loss_divided_twice"):
            loss = loss / (len(self._counts) * self.dp)
        return self.scaler.scale(loss) if self.scaler is not None else loss

    def _counted(self, outputs: Any, targets: Any, count: int) -> tuple[Any, Any]:
        """Of a padded micro-batch, what counts; a loss that the model returned is of samples that all do."""
        size = next((len(each) for each in nested.tensors_of(targets) if each.dim()), count)
        if not self.is_padded or self.is_own or count == size:
            return outputs, targets
        return nested.cut(outputs, slice(count), size), nested.cut(targets, slice(count), size)

    def _of_all(self, outputs: Any, targets: Any) -> torch.Tensor:
        """Not times dp: what comes back to an output is already the sum over the replicas' losses."""
        if self.mean.takes_total:
            whole: Any = self.loss
            return whole(outputs, targets, num_items_in_batch=self._total)
        return loss_of(self.loss, outputs, targets)

    def _weighted(self, outputs: Any, targets: Any, weight: float) -> torch.Tensor:
        if self.mean.takes_total:
            whole: Any = self.loss
            own = own_loss(outputs) if whole is None else whole(outputs, targets, num_items_in_batch=self._total)
            return own * self.dp
        loss = loss_of(self.loss, outputs, targets)
        return loss * self.dp if self.mean.over == "sum" else loss * (weight * self.dp / self._total)

    @property
    def scale(self) -> torch.Tensor | float:
        """What the scaler multiplies losses with at present; on the device, or everybody would wait for it."""
        return self.scaler.now() if self.scaler is not None else 1.0


def counts_of(valid: int, num_micro_batches: int, size: int) -> list[int]:
    """How many of the first `valid` samples fall into each micro-batch of `size`."""
    return [max(0, min(size, valid - index * size)) for index in range(num_micro_batches)]
