"""The workload's metric on held-out samples, computed by the ranks as they stand, after the timed steps.

A fast recipe that learns worse shows here: the figure stands beside that of the plain run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from hpc_accel.parallel.forward import forward
from hpc_accel.parallel.loss_device import move_loss
from hpc_accel.record import parts
from hpc_accel.runtime.step import Stepper
from hpc_accel.workloads.nested import cut, joined, mapped
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
    mine = _outputs(stepper, workload, metric, most)
    gathered = comm.gather(mine, root=0)
    if comm.Get_rank() != 0:
        return None
    found = sorted((each for part in gathered for each in part), key=lambda each: each.begin)
    move_loss(workload.loss, torch.device("cpu"))  # a metric may call it, and outputs have come to the host
    counts = [each.count for each in found]
    try:
        outputs, targets = (joined([getattr(each, side) for each in found], counts) for side in ("outputs", "targets"))
    except ValueError as error:
        return _told(metric, 0, {}, f"outputs of all samples do not fit into one: {error}")
    figures = {name: metric.figure(name, outputs, targets) for name in (metric.name, *metric.also)}
    reasons = [reason for _, reason in figures.values() if reason]
    return _told(metric, sum(counts), {name: value for name, (value, _) in figures.items()}, "; ".join(reasons))


def _no_evaluation_mode(stepper: Stepper, model: nn.Module) -> str:
    """Why outputs would be those of training: a tracer fixes in its stages how such layers act. "" elsewhere."""
    if stepper.model.schedule is None or stepper.model.boundaries:
        return ""
    kinds = {type(each).__name__ for each in model.modules() if isinstance(each, _BatchNorm) or _drops(each)}
    return f"stages that a tracer cut have no evaluation mode, which {', '.join(sorted(kinds))} wants" if kinds else ""


def _drops(module: nn.Module) -> bool:
    return isinstance(module, _DropoutNd) and module.p > 0


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Outputs and targets of `count` held-out samples from the `begin`-th on, on the host."""

    begin: int
    count: int
    outputs: Any
    targets: Any


def _outputs(stepper: Stepper, workload: Workload, metric: Metric, most: int) -> list[_Part]:
    """What this rank has the results of. With stages a batch is a share that is filled up, for they know one shape;
    without them a micro-batch of what is there, or of one sample where nothing is left, as sharded models talk.
    """
    place, indices = stepper.place, metric.chosen(most)
    share, total = place.share, len(indices)
    shares = place.layout.shares or (share,) * place.layout.dp
    start, batch = sum(shares[: place.dp_rank]), sum(shares)
    staged = stepper.model.schedule is not None
    size = share if staged else place.micro_batch_size
    found = []
    with _evaluating(stepper), torch.no_grad():
        for begin in (first + start + each for first in range(0, total, batch) for each in range(0, share, size)):
            count = max(0, min(size, total - begin))
            numbers = [indices[min(begin + each, total - 1)] for each in range(size if staged else max(1, count))]
            held_out = workload.batch_of(numbers, metric.dataset)
            outputs = forward(stepper.model, place, stepper.moved(held_out), stepper.device)
            if outputs is not None and place.tp_rank == 0 and count:
                counted = slice(count)
                targets = cut(held_out.targets, counted, size, lists=held_out.lists) if staged else held_out.targets
                outputs = mapped(_on_host, cut(outputs, counted, size) if staged and count < size else outputs)
                found.append(_Part(begin=begin, count=count, outputs=outputs, targets=targets))
    return found


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu()


@contextmanager
def _evaluating(stepper: Stepper) -> Iterator[None]:
    modes = [(each, each.training) for module in stepper.model.modules.values() for each in module.modules()]
    for module in stepper.model.modules.values():
        module.eval()
    try:
        yield
    finally:
        for each, was_training in modes:  # one by one: a frozen BatchNorm, for example, was in eval mode before
            each.training = was_training
        for module in stepper.model.modules.values():
            if callable(reshard := getattr(module, "reshard", None)):  # FSDP2 keeps the root whole after a forward
                reshard()


def _told(metric: Metric | None, num_samples: int, values: dict[str, float | None], reason: str) -> parts.Metric:
    return parts.Metric(
        name=metric.name if metric else None,
        value=values.get(metric.name) if metric else None,
        higher_is_better=metric.higher_is_better if metric else None,
        also={name: each for name, each in values.items() if metric and name != metric.name},
        num_samples=num_samples,
        reason=reason,
    )
