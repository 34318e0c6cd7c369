"""Measure one rank's speed: matrix products by shape and precision, memory copies, overhead of an operation.

Every figure comes from repetitions in a window of fixed length, so that ranks measuring side by side stay side by
side. On a GPU times come from CUDA events around work already queued.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from hpc_accel.probe.products import PRECISIONS, arithmetic, precisions_for, product

NUM_BATCHES = 8
CHAIN = 20
"""Linear and ReLU pairs in the model that times an operation's overhead."""
OPERATIONS_PER_PAIR = 4
"""Transpose, product with bias, ReLU and what it keeps: as workloads.inspect counts the operations of a model."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much to measure. Shapes are [rows, width] x [width, width]."""

    rows: tuple[int, ...]
    widths: tuple[int, ...]
    copy_bytes: int
    window_s: float
    too_long_s: float
    """A shape expected to take longer is left out: a precision the processor emulates would take minutes."""
    sustained_s: float = 0.0
    """How long the fastest product of a precision is repeated for its peak; 0 takes the rate of the short window.

    A GPU that has idled multiplies for some tenths of a second above what its power limit and its heat allow for long;
    a peak of that would make every utilisation too small.
    """
    crowded: bool = False
    """Whether ranks outnumber cores. Then waiting for a turn is part of the time, and turns outlast short batches."""


CPU_QUICK = Effort(rows=(16, 128, 1024), widths=(16, 64, 256, 1024), copy_bytes=2**26, window_s=0.006, too_long_s=0.05)
CPU_FULL = Effort(
    rows=(16, 64, 256, 1024, 4096), widths=(16, 64, 256, 1024, 2048), copy_bytes=2**28, window_s=0.05, too_long_s=1.0
)
CUDA_QUICK = Effort(
    rows=(64, 512, 4096),
    widths=(256, 1024, 4096, 8192),
    copy_bytes=2**28,
    window_s=0.01,
    too_long_s=0.1,
    sustained_s=1.0,
)
CUDA_FULL = Effort(
    rows=(16, 64, 256, 1024, 4096, 16384),
    widths=(64, 256, 1024, 2048, 4096, 8192),
    copy_bytes=2**30,
    window_s=0.1,
    too_long_s=1.0,
    sustained_s=5.0,
)


def effort_for(device: torch.device, *, quick: bool, crowded: bool) -> Effort:
    """What is worth measuring on this kind of device."""
    if device.type == "cuda":
        return CUDA_QUICK if quick else CUDA_FULL
    effort = CPU_QUICK if quick else CPU_FULL
    return replace(effort, crowded=True, window_s=4 * effort.window_s) if crowded else effort


def measure_level(device: torch.device, effort: Effort, align: Callable[[], None]) -> dict[str, Any]:
    """This rank's speed as `hardware.Level` names it, without `ranks`; `align` is a barrier of those measuring."""
    by_size = []
    rates: dict[str, float | None] = dict.fromkeys(PRECISIONS)
    for precision in precisions_for(device)[0]:
        align()
        points = matmul_rates(device, precision, effort)
        rates[precision] = peak_rate(device, precision, points, effort)
        by_size += [
            {"precision": precision, "m": rows, "n": width, "k": width, "flops_per_s": rate}
            for rows, width, rate in points
        ]
    align()
    forward_s, backward_s = operation_overheads(device, effort)
    align()
    return {
        "threads": torch.get_num_threads(),
        "matmul_flops_per_s": rates,
        "matmul_by_size": by_size,
        "memory_bandwidth_bytes_per_s": copy_bandwidth(device, effort),
        "kernel_overhead_s": forward_s,
        "backward_overhead_s": backward_s,
        "elementwise_s_per_element": elementwise_time(device, effort, forward_s),
    }


def matmul_rates(device: torch.device, precision: str, effort: Effort) -> list[tuple[int, int, float]]:
    """(rows, width, FLOP/s), net of the overhead that every operation has whatever its size."""
    with arithmetic(precision):
        return _rates(device, precision, effort)


def _rates(device: torch.device, precision: str, effort: Effort) -> list[tuple[int, int, float]]:
    overhead_s = timed(device, product(device, precision, 1, 1), effort)
    points: list[tuple[int, int, float]] = []
    best = 0.0  # Not the last rate: one disturbed measurement must not leave out all that follow.
    for width in effort.widths:
        for rows in effort.rows:
            flops = 2.0 * rows * width * width
            if points and flops / best > effort.too_long_s:
                continue
            elapsed_s = timed(device, product(device, precision, rows, width), effort)
            # Of a product as short as the overhead only a lower limit of the rate is known.
            rate = flops / (elapsed_s - overhead_s if elapsed_s > 2 * overhead_s else elapsed_s)
            points.append((rows, width, rate))
            best = max(best, rate)
    return points


def peak_rate(device: torch.device, precision: str, points: Sequence[tuple[int, int, float]], effort: Effort) -> float:
    """FLOP/s of the fastest of `points`, on a GPU as long as it keeps that up: of the second half of `sustained_s`."""
    rows, width, burst = max(points, key=lambda point: point[2])
    if not effort.sustained_s:
        return burst
    flops = 2.0 * rows * width * width
    repeats = math.ceil(effort.sustained_s / 2 * burst / flops)
    with arithmetic(precision):
        call = product(device, precision, rows, width)
        _batch_s(device, call, repeats)
        return flops * repeats / _batch_s(device, call, repeats)


def keep_busy(device: torch.device, effort: Effort, seconds: float) -> None:
    """Compute the largest bf16 product for so long, as a large model does most of the time."""
    call, end = product(device, "bf16", effort.rows[-1], effort.widths[-1]), time.perf_counter() + seconds
    while time.perf_counter() < end:
        _batch_s(device, call, 2)


def fixed_product_s(device: torch.device, effort: Effort) -> float:
    """Time of one fp32 product of a size that fits caches, to compare ranks alone with ranks together."""
    long = replace(effort, crowded=True, window_s=4 * effort.window_s)
    return timed(device, product(device, "fp32", 256, 256), long)


def operation_overheads(device: torch.device, effort: Effort) -> tuple[float, float]:
    """Time of one operation forward and backward, on data so small that nothing else counts."""
    layers = [layer for _ in range(CHAIN) for layer in (nn.Linear(4, 4), nn.ReLU())]
    model = nn.Sequential(*layers).to(device)
    inputs = torch.randn(4, 4, device=device)

    def both() -> None:
        model.zero_grad(set_to_none=True)
        model(inputs).sum().backward()

    forward_s = timed(device, lambda: model(inputs), effort)
    backward_s = max(timed(device, both, effort) - forward_s, 0.1 * forward_s)
    num_operations = CHAIN * OPERATIONS_PER_PAIR
    return forward_s / num_operations, backward_s / num_operations


def elementwise_time(device: torch.device, effort: Effort, overhead_s: float) -> float:
    """Seconds per kept element of a norm and an activation, which keep one copy of their input each."""
    layers = nn.Sequential(nn.LayerNorm(effort.widths[-2]), nn.GELU()).to(device)
    inputs = torch.randn(effort.rows[-1], effort.widths[-2], device=device, requires_grad=True)
    elapsed_s = timed(device, lambda: layers(inputs), effort)
    return max(elapsed_s - 2 * overhead_s, 0.1 * elapsed_s) / (2 * inputs.numel())


def copy_bandwidth(device: torch.device, effort: Effort) -> float:
    """Bytes read plus bytes written per second by a copy larger than caches."""
    source = torch.zeros(effort.copy_bytes // 4, device=device)
    target = torch.empty_like(source)
    elapsed_s = timed(device, lambda: target.copy_(source), replace(effort, window_s=4 * effort.window_s))
    return 2 * source.numel() * source.element_size() / elapsed_s


def timed(device: torch.device, call: Callable[[], Any], effort: Effort) -> float:
    """Seconds of `call`, repeated for `effort.window_s`, in at least three batches.

    The first call says nothing about the others, because in it libraries load kernels and choose among them: it is
    waited for and not counted, and how often to repeat follows from the next two. The lower quartile of batches, which
    a passing disturbance leaves alone; the mean when ranks outnumber cores.
    """
    _batch_s(device, call, 1)
    once_s = max(_batch_s(device, call, 2) / 2, 1e-7)
    repeats = max(1, int(effort.window_s / NUM_BATCHES / once_s))
    num_batches = max(3, min(NUM_BATCHES, int(effort.window_s / once_s)))
    times = sorted(_batch_s(device, call, repeats) / repeats for _ in range(num_batches))
    return statistics.fmean(times) if effort.crowded else times[num_batches // 4]


def _batch_s(device: torch.device, call: Callable[[], Any], repeats: int) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
