"""What a loss is the mean over, measured: a batch against its parts.

A mean over samples of a batch is that of its parts, weighted by their sizes; a mean over items that count, weighted by
functions of the targets alone. These are found by asking the loss: of two samples whose targets are all one value each,
the loss of both together lies between those of each as their weights say.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from hpc_accel.runtime.weight import IGNORED, MeanOver, Weigh
from hpc_accel.workloads import nested
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.nested import HALVES
from hpc_accel.workloads.workload import Loss, Workload

TOLERANCE = 2e-5
"""Of the largest loss among the parts; losses in fp32 are good to 1e-6."""
MOST_VALUES = 512
ZERO = 1e-4
Targets = Any
Compute = Callable[[torch.Tensor], tuple[float, Targets]]
"""Of a part its loss and its targets."""


class Losses(Protocol):
    """Losses of parts of `count` samples. A part is indices [n]."""

    count: int

    def value(self, part: torch.Tensor) -> float:
        """The loss of a part."""
        ...

    def targets(self, part: torch.Tensor) -> Targets:
        """The targets of a part."""
        ...


class CutLosses:
    """The loss of parts of outputs and targets, which can be cut by sample."""

    def __init__(self, loss: Loss, outputs: Any, targets: Targets, count: int, *, lists: bool) -> None:
        self.loss = loss
        self.outputs = nested.mapped(_raised, outputs)
        self.all_targets = targets
        self.count = count
        self.lists = lists

    def of(self, outputs: Any, targets: Targets) -> float:
        """The loss of these."""
        with torch.no_grad():
            return float(self.loss(outputs, targets))

    def value(self, part: torch.Tensor) -> float:
        """The loss of a part."""
        return self.of(nested.cut(self.outputs, part, self.count, lists=True), self.targets(part))

    def targets(self, part: torch.Tensor) -> Targets:
        """The targets of a part."""
        return nested.cut(self.all_targets, part, self.count, lists=self.lists)


class ComputedLosses:
    """The loss of parts of the samples, which `compute` collates and computes anew, with their targets."""

    def __init__(self, compute: Compute, count: int) -> None:
        self.compute = compute
        self.count = count
        self._known: dict[tuple[int, ...], tuple[float, Targets]] = {}

    def _of(self, part: torch.Tensor) -> tuple[float, Targets]:
        key = tuple(part.tolist())
        if key not in self._known:
            self._known[key] = self.compute(part)
        return self._known[key]

    def value(self, part: torch.Tensor) -> float:
        """The loss of a part."""
        return self._of(part)[0]

    def targets(self, part: torch.Tensor) -> Targets:
        """The targets of a part."""
        return self._of(part)[1]


def losses_of(workload: Workload, batch: Batch, outputs: Any, compute: Compute) -> Losses:
    """The losses of parts of `batch`: of parts of its `outputs`, or by `compute` where the model returns the loss, or
    outputs or targets that cannot be cut by sample.
    """
    count, lists = batch.count, batch.lists
    is_cut = nested.is_cuttable(outputs, count, lists=True) and nested.is_cuttable(batch.targets, count, lists=lists)
    if workload.loss is not None and is_cut:
        return CutLosses(workload.loss, outputs, batch.targets, count, lists=lists)
    return ComputedLosses(compute, count)


def measure_mean(workload: Workload, losses: Losses) -> MeanOver:
    """What the workload's loss is over, from `losses` of at least 4 samples."""
    if losses.count < 4:
        return MeanOver(over="samples", reason="assumed, of fewer than four samples nothing can be measured")
    everything = torch.arange(losses.count)
    if _takes_total(workload):
        integers = _integers(losses.targets(everything))
        return MeanOver(over="items", weights={IGNORED: 0.0}, leaf=integers[0][0] if integers else 0, takes_total=True)
    for mean in _candidates(workload, losses, losses.targets(everything)):
        if _explains(mean, workload, losses):
            return mean
    return MeanOver(over="neither")


def _takes_total(workload: Workload) -> bool:
    """Whether the loss, or the forward pass of a model that returns it, asks for the number of items."""
    try:
        asked = inspect.signature(workload.loss if workload.loss is not None else workload.model.forward)
    except (TypeError, ValueError):
        return False
    return "num_items_in_batch" in asked.parameters


def _integers(targets: Targets) -> list[tuple[int, torch.Tensor]]:
    """The tensors of integers inside, with their numbers among all tensors."""
    tensors = [targets] if isinstance(targets, torch.Tensor) else nested.tensors_of(targets)
    kinds = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    return [(leaf, each) for leaf, each in enumerate(tensors) if each.dtype in kinds]


def _candidates(workload: Workload, losses: Losses, targets: Targets) -> Iterator[MeanOver]:
    if workload.weight is not None:
        yield MeanOver(over="items", said_by_workload=True)
    yield MeanOver(over="samples")
    integers = _integers(targets)
    for leaf, _ in integers:
        yield MeanOver(over="items", weights={IGNORED: 0.0}, leaf=leaf)
    if isinstance(losses, CutLosses) and integers and isinstance(targets, torch.Tensor):
        table = _table(losses, losses.outputs, targets)
        if table is not None:
            yield table
    for leaf, each in integers:
        if each.dim() > 1:
            is_mask = bool(((each == 0) | (each == 1)).all())
            for weights in ({IGNORED: 0.0}, *([{0: 0.0}] if is_mask else [])):
                yield MeanOver(over="items", weights=weights, leaf=leaf, shifted=True)
            if is_mask:
                yield MeanOver(over="items", weights={0: 0.0}, leaf=leaf)
    yield MeanOver(over="sum")


def _explains(mean: MeanOver, workload: Workload, losses: Losses) -> bool:
    """Whether the losses of parts, weighted so, make up that of the whole; on several divisions into unequal parts."""
    weigh = Weigh(mean, workload.weight)
    whole = losses.value(torch.arange(losses.count))
    if not math.isfinite(whole):
        return False
    for parts in _divisions(losses.count):
        weighted, total, largest = 0.0, 0.0, abs(whole)
        for part in parts:
            weight = float(len(part)) if mean.over in ("samples", "sum") else weigh(losses.targets(part))
            if weight == 0:
                continue
            loss = losses.value(part)
            largest = max(largest, abs(loss))
            weighted += loss if mean.over == "sum" else weight * loss
            total += weight
        predicted = weighted if mean.over == "sum" else weighted / (total or 1.0)
        if not abs(predicted - whole) <= TOLERANCE * largest:
            return False
    return True


def _divisions(count: int) -> list[list[torch.Tensor]]:
    order = torch.arange(count)
    quarter = max(1, count // 4)
    singles = [order[index : index + 1] for index in range(min(3, count))]
    return [
        [order[:quarter], order[quarter:]],
        [order[::3], torch.cat([order[1::3], order[2::3]])],
        [*singles, order[len(singles) :]],
    ]


def _table(losses: CutLosses, outputs: Any, targets: torch.Tensor) -> MeanOver | None:
    """The weight of each value that targets take; None where the loss does not tell them."""
    value = losses.of
    values, counts = torch.unique(targets, return_counts=True)
    if len(values) > MOST_VALUES or len(values) < 2:
        return None
    by_count = sorted(zip(values.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1])
    first, second = torch.tensor([0]), torch.tensor([1])
    one = nested.cut(outputs, first, losses.count, lists=True)
    other = nested.mapped(_turned, nested.cut(outputs, second, losses.count, lists=True))
    together = nested.joined([one, other], [1, 1])

    def filled(wanted: int) -> torch.Tensor:
        return torch.full_like(targets[:1], wanted)

    base = next((each for each, _ in by_count if math.isfinite(value(other, filled(each)))), None)
    if base is None:
        return None
    weights = {}
    for each in values.tolist():
        alone, based = value(one, filled(each)), value(other, filled(base))
        both = value(together, torch.cat([filled(each), filled(base)]))
        if not math.isfinite(alone) or both == based:
            weights[each] = 0.0
        elif both == alone:
            return None
        else:
            ratio = (based - both) / (both - alone)
            weights[each] = 0.0 if abs(ratio) < ZERO else 1.0 if abs(ratio - 1) < ZERO else ratio
    if any(not math.isfinite(weight) or weight < 0 for weight in weights.values()):
        return None
    return MeanOver(over="items", weights={each: weight for each, weight in weights.items() if weight != 1.0})


def _raised(tensor: torch.Tensor) -> torch.Tensor:
    detached = tensor.detach()
    return detached.float() if detached.dtype in HALVES else detached


def _turned(tensor: torch.Tensor) -> torch.Tensor:
    """Other outputs than those given, of finite loss."""
    return -3 * tensor if tensor.is_floating_point() else tensor
