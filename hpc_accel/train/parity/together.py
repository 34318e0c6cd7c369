"""Samples computed together beside parts of them that are collated and computed by themselves.

What differs between the two depends on which samples share a batch: normalisation over it, or padding that counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hpc_accel.parallel.loss_device import loss_of, move_loss
from hpc_accel.runtime.randomness import digest_of_states
from hpc_accel.runtime.still import held_still
from hpc_accel.runtime.weight import MeanOver, Weigh
from hpc_accel.train.parity.engine import Engine, summaries_raw
from hpc_accel.train.parity.mean import CutLosses, losses_of, measure_mean
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.nested import floats_of, tensors_of

APART = 1e-4
"""Outputs or losses that differ by more, relative to the largest, depend on the other samples of the batch."""


class Together:
    """Some samples as one batch."""

    def __init__(self, engine: Engine, samples: list[int]) -> None:
        self.engine = engine
        self.samples = samples
        drawn = digest_of_states()
        loaded = [engine.dataset[number] for number in samples]
        engine.workload.rules(loaded)
        self.collate_draws = digest_of_states() != drawn
        self.batch = self._loaded(samples)
        before = summaries_raw(engine.model)
        self.outputs = self._run(self.batch, samples)
        again = self._run(self.batch, samples)
        engine.back()
        pairs = zip(tensors_of(self.outputs), tensors_of(again), strict=True)
        self.changes_state = bool(before) and not all(torch.equal(one, other) for one, other in pairs)

    def _loaded(self, samples: list[int]) -> Batch:
        return self.engine.placed(*self.engine.load(0, samples).micro_batches)

    def _run(self, batch: Batch, samples: list[int]) -> Any:
        with torch.no_grad(), held_still(self.engine.still):
            self.engine.still.batch(0, samples)
            return batch.call(self.engine.model)

    def _loss(self, batch: Batch, outputs: Any) -> float:
        with torch.no_grad(), held_still(self.engine.still):
            self.engine.still.batch(0, list(range(batch.count)))
            return float(loss_of(self.engine.workload.loss, outputs, batch.targets))

    def mean(self) -> MeanOver:
        """What the loss is over: asked of the loss with parts of the outputs, or of the model with parts of the samples
        where the model returns the loss or outputs that cannot be cut by sample.
        """
        workload, count = self.engine.workload, self.batch.count
        move_loss(workload.loss, self.engine.device)
        losses = losses_of(workload, self.batch, self.outputs, self._computed)
        if isinstance(losses, CutLosses):
            with held_still(self.engine.still):
                self.engine.still.batch(0, list(range(count)))
                return measure_mean(workload, losses)
        with fixed_statistics(self.engine.model):
            found = measure_mean(workload, losses)
        self.engine.back()
        return found

    def _computed(self, part: torch.Tensor) -> tuple[float, Any]:
        samples = [self.samples[number] for number in part.tolist()]
        batch = self.batch.cut(part) if self.collate_draws else self._loaded(samples)
        return self._loss(batch, self._run(batch, samples)), batch.targets

    def depends(self, mean: MeanOver) -> bool:
        """Whether what is computed of samples depends on those beside them."""
        if self.collate_draws:
            return False  # what is drawn differs anyway, which is told by itself
        first = max(2, self.batch.count // 3)
        # In pairs the longest sample is another, to which the others are padded.
        begins = [0, first] if self.engine.workload.collate is None else list(range(0, first, 2))
        ends = [*begins[1:], self.batch.count]
        chosen = [self.samples[a:b] for a, b in zip(begins, ends, strict=True) if self.samples[a:b]]
        batches = [self._loaded(each) for each in chosen]
        outputs = [self._run(batch, each) for batch, each in zip(batches, chosen, strict=True)]
        self.engine.back()
        by_sample = self._outputs_differ(outputs, [batch.count for batch in batches])
        return self._losses_differ(batches, outputs, mean) if by_sample is None else by_sample

    def _outputs_differ(self, parts: list[Any], counts: list[int]) -> bool | None:
        """None where outputs are of other shapes together, or some are not of single samples."""
        whole, found = floats_of(self.outputs), [floats_of(part) for part in parts]
        pieces = list(zip(*found, strict=False))
        if any(len(each) != len(whole) for each in found):
            return None
        for one, parted in zip(whole, pieces, strict=True):
            sizes = [list(each.shape[:1]) for each in parted]
            if sizes != [[count] for count in counts] or any(each.shape[1:] != one.shape[1:] for each in parted):
                return None
        largest = [float(each.double().abs().max()) if each.numel() else 0.0 for each in whole]
        apart = [
            float((one.double() - torch.cat(parted).double()).abs().max()) if one.numel() else 0.0
            for one, parted in zip(whole, pieces, strict=True)
        ]
        return any(not each <= APART * (most or 1.0) for each, most in zip(apart, largest, strict=True))

    def _losses_differ(self, batches: list[Batch], outputs: list[Any], mean: MeanOver) -> bool:
        if mean.over not in ("samples", "items", "sum"):
            return False  # the loss itself depends on them, which is told
        whole = self._loss(self.batch, self.outputs)
        losses = [self._loss(*pair) for pair in zip(batches, outputs, strict=True)]
        weigh = Weigh(mean, self.engine.workload.weight)
        weights = [weigh(batch.targets) if mean.over == "items" else float(batch.count) for batch in batches]
        weights = [1.0] * len(weights) if mean.over == "sum" else [each / (sum(weights) or 1.0) for each in weights]
        together = sum(weight * loss for weight, loss in zip(weights, losses, strict=True) if weight)
        largest = max(abs(whole), *map(abs, losses))
        return math.isfinite(whole) and not abs(together - whole) <= APART * largest


@contextmanager
def fixed_statistics(model: nn.Module) -> Iterator[None]:
    """Normalisation by running statistics: that over the batch is no matter of the loss."""
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm) and each.training]
    for each in norms:
        each.eval()
    try:
        yield
    finally:
        for each in norms:
            each.train()
