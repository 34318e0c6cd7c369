"""Do the product's device times hold? Against a known sleep, and against the kernels that torch's profiler saw."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.gpu.runs import stepper_of
from benchmarks.gpu.say import DEVICE, PRETENDED, figure, settle, size
from hpc_accel.measure.phases import union
from hpc_accel.runtime.make_stepper import make_timer

NUM_STEPS = 10


def sleep_s(seconds: float) -> None:
    """The device is busy so long, by its own count of cycles at the highest clock; the host goes on."""
    if PRETENDED:
        time.sleep(seconds)
    else:
        torch.cuda._sleep(round(seconds * torch.cuda.get_device_properties().clock_rate * 1e3))


def known_times() -> None:
    """A device's sleep, and a host's sleep before it, as phases; torch's own events beside them."""
    clock = make_timer(DEVICE)
    sleep_s(0.5)
    settle()
    clock.begin()
    with clock.phase("data"):
        time.sleep(0.05)
    if not PRETENDED:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
    with clock.phase("forward"):
        sleep_s(0.2)
    if not PRETENDED:
        end.record()
    step, phases = clock.finish()()
    by_name = {phase.name: phase.duration_ns / 1e6 for phase in phases}
    figure("host sleep of 50 ms in data", by_name["data"], "ms", low=49, high=53)
    if not PRETENDED:
        own_ms = begin.elapsed_time(end)
        figure("device sleep by the clock over torch's events", by_name["forward"] / own_ms, low=0.98, high=1.02)
    figure("phases over step", sum(by_name.values()) / (step.duration_ns / 1e6), low=0.98, high=1.001)


def against_profiler() -> None:
    """Phases of real steps: they fill the step, and hold as much as the kernels of the profiler."""
    args = size({"size": "124M"}, {"layers": 2, "hidden": 32, "heads": 2, "sequence": 16})
    stepper = stepper_of("lm", args, size(8, 4), recipe={"precision": "bf16", "fused_optimizer": True})
    for _ in range(5):
        stepper.step()
    stepper.settle()
    with profiler() as seen:
        flown = [stepper.step() for _ in range(NUM_STEPS)]
        stepper.settle()
    results = [each.result() for each in flown]
    covered = [sum(p.duration_ns for p in r.phases) / r.step.duration_ns for r in results]
    low = size(0.98, 0.9)  # steps of a millisecond on the CPU, under a profiler
    figure("phases over step, median of real steps", sorted(covered)[NUM_STEPS // 2], low=low, high=1.001)
    if PRETENDED:
        return
    kernels = union(kernel_intervals(seen))
    busy_ms = sum(end - start for start, end in kernels) / 1e6
    whole_ms = sum(r.step.duration_ns for r in results) / 1e6
    phases_ms = sum(p.duration_ns for r in results for p in r.phases if p.name != "data") / 1e6
    figure("kernels' time by the profiler over the steps' time", busy_ms / whole_ms)
    figure("phases without data over kernels' span", phases_ms / span_ms(kernels), low=0.95, high=1.02)
    figure("step time", whole_ms / NUM_STEPS, "ms")


def profiler() -> Any:
    """Torch's, of the host and, where there is one, the device."""
    from torch.profiler import ProfilerActivity, profile

    return profile(activities=[ProfilerActivity.CPU, *([] if PRETENDED else [ProfilerActivity.CUDA])])


def kernel_intervals(seen: Any, *, copies: bool = True) -> list[tuple[int, int]]:
    """(start, end) in ns of whatever ran on the device, with or without copies."""
    found = []
    for event in seen.events():
        if str(event.device_type).endswith("CUDA") and (copies or not event.name.startswith(("Memcpy", "Memset"))):
            found.append((round(event.time_range.start * 1e3), round(event.time_range.end * 1e3)))
    return found


def span_ms(kernels: list[tuple[int, int]]) -> float:
    """From the first kernel to the last."""
    return (kernels[-1][1] - kernels[0][0]) / 1e6


if __name__ == "__main__":
    known_times()
    against_profiler()
