"""The workload's metric on held-out samples, computed by the ranks as they stand, after the timed steps.

A fast recipe that learns worse shows here: the figure stands beside that of the plain run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import default_collate

from hpc_accel.parallel.forward import forward
from hpc_accel.parallel.loss_device import move_loss
from hpc_accel.record import parts
from hpc_accel.runtime.step import Stepper
from hpc_accel.workloads.chain import as_inputs
from hpc_accel.workloads.workload import NO_METRIC, NOT_ASKED, Metric, Workload


def evaluate(stepper: Stepper, workload: Workload, comm: Any, most: int) -> parts.Metric | None:
    """The metric on rank 0, None on the others. Collective over `comm`.

    Every replica runs its share of at most `most` held-out samples, the last share filled up and cut off again, because
    stages know one shape of batch only. Outputs travel to rank 0, which computes the figure over all of them.
    """
    metric = workload.metric
    if metric is None:
        return _told(None, 0, {}, NO_METRIC) if comm.Get_rank() == 0 else None
    if reason := _no_evaluation_mode(stepper, workload.model) if most else NOT_ASKED:
        return _told(metric, 0, {}, reason) if comm.Get_rank() == 0 else None
    stepper.average_replicas()
    mine = _outputs(stepper, metric, most)
    gathered = comm.gather(mine, root=0)
    if comm.Get_rank() != 0:
        return None
    found = {begin: (outputs, targets) for part in gathered for begin, outputs, targets in part}
    move_loss(workload.loss, torch.device("cpu"))  # a metric may call it, and outputs have come to the host
    outputs, targets = (torch.cat([found[begin][side] for begin in sorted(found)]) for side in (0, 1))
    figures = {name: metric.figure(name, outputs, targets) for name in (metric.name, *metric.also)}
    reasons = [reason for _, reason in figures.values() if reason]
    return _told(metric, len(outputs), {name: value for name, (value, _) in figures.items()}, "; ".join(reasons))


def _no_evaluation_mode(stepper: Stepper, model: nn.Module) -> str:
    """Why outputs would be those of training: a tracer fixes in its stages how such layers act. "" elsewhere."""
    if stepper.model.schedule is None or stepper.model.boundaries:
        return ""
    kinds = {type(each).__name__ for each in model.modules() if isinstance(each, _BatchNorm) or _drops(each)}
    return f"stages that a tracer cut have no evaluation mode, which {', '.join(sorted(kinds))} wants" if kinds else ""


def _drops(module: nn.Module) -> bool:
    return isinstance(module, _DropoutNd) and module.p > 0


def _outputs(stepper: Stepper, metric: Metric, most: int) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    """(first sample, outputs, targets) of each batch this rank has the results of."""
    place, indices = stepper.place, metric.chosen(most)
    share, total = place.share, len(indices)
    shares = place.layout.shares or (share,) * place.layout.dp
    start, batch = sum(shares[: place.dp_rank]), sum(shares)
    found = []
    with _evaluating(stepper), torch.no_grad():
        for first in range(0, total, batch):
            begin = first + start
            count = max(0, min(share, total - begin))
            samples = [metric.dataset[indices[min(begin + index, total - 1)]] for index in range(share)]
            inputs, targets = default_collate(samples)
            outputs = forward(stepper.model, place, stepper.moved(as_inputs(inputs)), stepper.device)
            if outputs is not None and place.tp_rank == 0 and count:
                outputs = outputs.float() if outputs.is_floating_point() else outputs
                found.append((begin, outputs[:count].cpu(), targets[:count]))
    return found


@contextmanager
def _evaluating(stepper: Stepper) -> Iterator[None]:
    for module in stepper.model.modules.values():
        module.eval()
    try:
        yield
    finally:
        for module in stepper.model.modules.values():
            module.train()


def _told(metric: Metric | None, num_samples: int, values: dict[str, float | None], reason: str) -> parts.Metric:
    return parts.Metric(
        name=metric.name if metric else None,
        value=values.get(metric.name) if metric else None,
        higher_is_better=metric.higher_is_better if metric else None,
        also={name: each for name, each in values.items() if metric and name != metric.name},
        num_samples=num_samples,
        reason=reason,
    )
