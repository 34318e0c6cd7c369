"""How long each layer really takes, forward and backward, on the device at hand: what `split: measured` balances."""

from __future__ import annotations

import time
from contextlib import nullcontext
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import nn

from hpc_accel.parallel.loss_device import loss_of, move_loss
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.blocks import blocks_of
from hpc_accel.workloads.chain import is_sequence, layers_of
from hpc_accel.workloads.workload import Workload

NUM_REPEATS = 5
"""Passes of which the median counts; one more before them warms up."""


def layer_times_s(
    workload: Workload, micro_batch_size: int, device: torch.device, autocast_dtype: torch.dtype | None
) -> list[float]:
    """Seconds of one micro-batch in each layer, forward and backward; the loss counts to the last.

    Of a model that is no Sequential only the forward pass is timed, block by block: backward takes about twice that in
    each, which leaves the balance as it is. The model's gradients are discarded.
    """
    model = workload.model.to(device)
    move_loss(workload.loss, device)
    batch = workload.batch_of([0] * micro_batch_size).moved(device)
    passes = []
    for _ in range(NUM_REPEATS + 1):
        with torch.autocast(device.type, dtype=autocast_dtype) if autocast_dtype else nullcontext():
            if is_sequence(model):
                passes.append(_chain(model, workload, batch.args, batch.targets))
            else:
                passes.append(_blocks(model, batch, device))
    model.zero_grad(set_to_none=True)
    return [median(times) for times in zip(*passes[1:], strict=True)]


def _chain(model: nn.Sequential, workload: Workload, states: tuple[torch.Tensor, ...], targets: Any) -> list[float]:
    times = []
    layers = layers_of(model)
    for index, (_, layer) in enumerate(layers):
        begin = _now(states[0].device)
        outputs = layer(*states)
        result = loss_of(workload.loss, outputs, targets) if index == len(layers) - 1 else outputs
        if result.requires_grad:
            torch.autograd.backward(result, torch.ones_like(result))
        times.append(_now(states[0].device) - begin)
        # Inputs of the next layer want gradients, or its backward would be shorter than in the pipeline.
        states = (outputs.detach().requires_grad_(outputs.is_floating_point()),)
    return times


def _blocks(model: nn.Module, batch: Batch, device: torch.device) -> list[float]:
    begins: list[float] = []
    handles = [block.register_forward_pre_hook(lambda *_: begins.append(_now(device))) for _, block in blocks_of(model)]
    try:
        start = _now(device)
        batch.call(model)
        end = _now(device)
    finally:
        for handle in handles:
            handle.remove()
    bounds = [start, *begins[1:], end]  # what runs before the first block counts to it
    return [after - before for before, after in pairwise(bounds)]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
