"""What a loss is the mean over, measured: a batch against its parts.

A mean over samples of a batch is that of its parts, weighted by their sizes; a mean over items that count, weighted by
functions of the targets alone. These are found by asking the loss: of two samples whose targets are all one value each,
the loss of both together lies between those of each as their weights say.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator

import torch

from hpc_accel.runtime.loss import HALVES
from hpc_accel.runtime.weight import IGNORED, MeanOver, Weigh
from hpc_accel.workloads.workload import Workload

TOLERANCE = 2e-5
"""Of the largest loss among the parts; losses in fp32 are good to 1e-6."""
MOST_VALUES = 512
ZERO = 1e-4
Value = Callable[[torch.Tensor, torch.Tensor], float]


def measure_mean(workload: Workload, outputs: torch.Tensor, targets: torch.Tensor) -> MeanOver:
    """What the workload's loss is over, from outputs [n, ...] and targets [n, ...] of samples, n >= 4."""
    if len(outputs) < 4:
        return MeanOver(over="samples", reason="assumed, of fewer than four samples nothing can be measured")
    if _takes_total(workload.loss):
        return MeanOver(over="items", weights={IGNORED: 0.0}, takes_total=True)
    outputs = outputs.detach().float() if outputs.dtype in HALVES else outputs.detach()
    loss = workload.loss

    def value(some: torch.Tensor, wanted: torch.Tensor) -> float:
        with torch.no_grad():
            return float(loss(some, wanted))

    candidates = _candidates(workload, value, outputs, targets)
    for mean in candidates:
        if _explains(mean, workload, value, outputs, targets):
            return mean
    return MeanOver(over="neither")


def _takes_total(loss: object) -> bool:
    try:
        return "num_items_in_batch" in inspect.signature(loss).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _candidates(workload: Workload, value: Value, outputs: torch.Tensor, targets: torch.Tensor) -> Iterator[MeanOver]:
    if workload.weight is not None:
        yield MeanOver(over="items", said_by_workload=True)
    yield MeanOver(over="samples")
    integer = not targets.is_floating_point() and not targets.is_complex() and targets.dtype != torch.bool
    if integer:
        yield MeanOver(over="items", weights={IGNORED: 0.0})
        table = _table(value, outputs, targets)
        if table is not None:
            yield table
    yield MeanOver(over="sum")


def _explains(mean: MeanOver, workload: Workload, value: Value, outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether the losses of parts, weighted so, make up that of the whole; on several divisions into unequal parts."""
    weigh = Weigh(mean, workload.weight)
    whole = value(outputs, targets)
    if not math.isfinite(whole):
        return False
    for parts in _divisions(len(outputs)):
        weighted, total, largest = 0.0, 0.0, abs(whole)
        for part in parts:
            weight = float(len(part)) if mean.over in ("samples", "sum") else weigh(targets[part])
            if weight == 0:
                continue
            loss = value(outputs[part], targets[part])
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


def _table(value: Value, outputs: torch.Tensor, targets: torch.Tensor) -> MeanOver | None:
    """The weight of each value that targets take; None where the loss does not tell them."""
    values, counts = torch.unique(targets, return_counts=True)
    if len(values) > MOST_VALUES or len(values) < 2:
        return None
    by_count = sorted(zip(values.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1])
    one, other = outputs[:1], -3 * outputs[1:2]

    def filled(wanted: int) -> torch.Tensor:
        return torch.full_like(targets[:1], wanted)

    base = next((each for each, _ in by_count if math.isfinite(value(other, filled(each)))), None)
    if base is None:
        return None
    weights = {}
    for each in values.tolist():
        alone, based = value(one, filled(each)), value(other, filled(base))
        both = value(torch.cat([one, other]), torch.cat([filled(each), filled(base)]))
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
