"""How the probe times: the first call of anything does not count, and a peak is what is kept up."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from hpc_accel.probe import compute
from hpc_accel.probe.compute import CPU_QUICK, CUDA_FULL, CUDA_QUICK, measure_level, peak_rate, timed
from tests.parallel.test_recipes import Products

CPU = torch.device("cpu")


@pytest.fixture
def batches(monkeypatch):
    """(repeats, seconds) of each batch that is timed."""
    seen: list[tuple[int, float]] = []
    real = compute._batch_s

    def spy(device, call, repeats):
        seen.append((repeats, real(device, call, repeats)))
        return seen[-1][1]

    monkeypatch.setattr(compute, "_batch_s", spy)
    return seen


def test_a_slow_first_call_changes_nothing(batches):
    """It loads kernels, for longer than the window; what follows is repeated as often as if it had been quick."""
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        if len(calls) == 1:
            time.sleep(3 * CUDA_QUICK.window_s)

    elapsed_s = timed(CPU, call, CUDA_QUICK)
    assert [repeats for repeats, _ in batches[:2]] == [1, 2]
    assert min(repeats for repeats, _ in batches[2:]) > 10
    assert elapsed_s < CUDA_QUICK.window_s / 100


def test_a_call_longer_than_the_window_is_timed_three_times(batches):
    elapsed_s = timed(CPU, lambda: time.sleep(0.02), replace(CPU_QUICK, window_s=0.005))
    assert [repeats for repeats, _ in batches] == [1, 2, 1, 1, 1]
    assert 0.02 <= elapsed_s < 0.2


def test_a_gpus_peak_is_of_a_second_and_a_cpus_of_its_window():
    assert CUDA_QUICK.sustained_s >= 1 and CUDA_FULL.sustained_s >= 1
    assert CPU_QUICK.sustained_s == 0
    points = [(16, 64, 1e9), (1024, 256, 5e9), (128, 64, 2e9)]
    assert peak_rate(CPU, "fp32", points, CPU_QUICK) == 5e9


def test_a_peak_is_what_is_left_after_the_first_half(monkeypatch):
    """A fake GPU that multiplies at half its rate once it has run for as long as its power limit allows more."""
    done: list[int] = []

    def batch_s(device, call, repeats):
        call()
        done.append(repeats)
        return repeats * 2e-3 if len(done) > 1 else repeats * 1e-3

    monkeypatch.setattr(compute, "_batch_s", batch_s)
    flops = 2.0 * 8 * 16 * 16
    rate = peak_rate(CPU, "fp32", [(8, 16, flops / 1e-3)], replace(CPU_QUICK, sustained_s=1.0))
    assert done == [500, 500]  # each half a second at the rate of the short window
    assert rate == pytest.approx(flops / 2e-3)


def test_the_peak_is_sustained_and_the_rates_by_size_are_not():
    """The whole level on a CPU, with a peak that is kept up for a moment: times add up to it, once a precision."""
    effort = replace(CPU_QUICK, rows=(16, 64), widths=(16, 64), copy_bytes=2**20, sustained_s=0.1)
    start = time.perf_counter()
    level = measure_level(CPU, effort, lambda: None)
    assert time.perf_counter() - start > 2 * 0.05
    assert {point["precision"] for point in level["matmul_by_size"]} == {"fp32", "bf16"}
    assert all(level["matmul_flops_per_s"][precision] > 0 for precision in ("fp32", "bf16"))


def test_a_device_is_kept_busy_for_so_long():
    effort = replace(CPU_QUICK, rows=(16,), widths=(64,))
    before = torch.ops.aten.mm.default
    with Products(before) as seen:
        began = time.perf_counter()
        compute.keep_busy(CPU, effort, 0.05)
        assert time.perf_counter() - began >= 0.05
    assert seen.count >= 2
    with Products(before) as seen:
        compute.keep_busy(CPU, effort, 0.0)
    assert not seen.count, "without a sensor there is nothing to wait for"
