"""What share of a model's forward and backward pass each layer takes: each is run alone, in turn, on real samples."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

import torch

from hpc_accel.parallel.loss_device import loss_of
from hpc_accel.runtime.precision import AUTOCAST
from hpc_accel.runtime.step import Stepper
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.chain import is_sequence, layers_of
from hpc_accel.workloads.workload import Workload

NUM_REPEATS = 7
"""Passes of which the median counts; two more before them warm up."""
Times = list[tuple[float, float]]
"""Seconds forward and backward of each layer."""


def layer_times(stepper: Stepper, workload: Workload, batch: Batch) -> Times | None:
    """Of the model in `stepper`, on one micro-batch; the loss counts to the last layer. Its gradients are discarded.

    None of a model that is no Sequential, which cannot be run layer by layer. Collective over tensor-parallel ranks.
    """
    model = stepper.model.module
    if not is_sequence(model) or batch.kwargs or workload.gather_outputs:
        return None
    dtype = AUTOCAST[stepper.recipe.precision]
    passes = []
    for _ in range(NUM_REPEATS + 2):
        passes.append(_through(model, workload, batch, _autocast(stepper.device, dtype)))
    model.zero_grad(set_to_none=True)
    kept = passes[2:]
    return [
        (median(each[index][0] for each in kept), median(each[index][1] for each in kept))
        for index in range(len(kept[0]))
    ]


def _through(model: Any, workload: Workload, batch: Batch, autocast: AbstractContextManager[Any]) -> Times:
    """Forward through all layers and back, each by itself."""
    device = next(iter(batch.args)).device
    states, done, forward = batch.args, [], []
    layers = layers_of(model)
    for index, (_, layer) in enumerate(layers):
        begin = _now(device)
        with autocast:
            left = layer(*states)
        if index == len(layers) - 1:
            left = loss_of(workload.loss, left, batch.targets)
        forward.append(_now(device) - begin)
        done.append((states, left))
        # Inputs of the next layer want gradients, or its backward would be shorter than in the whole model.
        states = (left.detach().requires_grad_(left.is_floating_point()),)
    backward = []
    gradient = torch.ones_like(done[-1][1])
    for entered, left in reversed(done):
        begin = _now(device)
        if left.requires_grad:
            torch.autograd.backward(left, gradient)
        backward.append(_now(device) - begin)
        gradient = entered[0].grad if entered[0].grad is not None else torch.ones_like(entered[0])
    return list(zip(forward, reversed(backward), strict=True))


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=dtype) if dtype is not None else nullcontext()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
