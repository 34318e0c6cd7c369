"""Is the energy right? NVML's counter beside integrated power, two ranks on one card, and what the sensors cost."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable
from statistics import fmean, median
from typing import Any

import torch
from mpi4py import MPI

from benchmarks.gpu.say import DEVICE, PRETENDED, figure, settle, size, verdict
from hpc_accel.bench.start_ranks import start_ranks
from hpc_accel.measure.energy import gpus_in_use
from hpc_accel.measure.energy.meter import EnergyMeter
from hpc_accel.measure.events import Piece

WIDTH = size(8192, 128)
IDLE_S, LOAD_S, TWO_S = size((6.0, 30.0, 5.0), (0.3, 0.5, 0.3))
ROUNDS = size(16, 2)


def meter_of(sample_hz: float) -> EnergyMeter:
    """The product's meter, as a run has it."""
    return EnergyMeter(MPI.COMM_WORLD, sample_hz=sample_hz, gpu=gpus_in_use.uuid_of(DEVICE))


def products(width: int) -> Callable[[], object]:
    """A bf16 product of random matrices."""
    left, right = (torch.randn(width, width, device=DEVICE).to(torch.bfloat16) for _ in range(2))
    return lambda: torch.mm(left, right)


def work_for(seconds: float) -> None:
    """Products for so long; the host stays a few ahead."""
    product, end = products(WIDTH), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(8):
            product()
        settle()


class Watt:
    """Power of board 0 read 20 times a second by a thread of this file's own, integrated by trapezoids."""

    def __init__(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._nvml, self._handle = pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
        self.points: list[tuple[float, float]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._end.wait(0.05):
            self.points.append((time.perf_counter(), self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3))

    def joules(self, begin_ns: int, end_ns: int) -> float:
        """Within a window; its ends take the nearest reading."""
        begin, end = begin_ns / 1e9, end_ns / 1e9
        inside = [(t, w) for t, w in self.points if begin <= t <= end]
        points = [(begin, inside[0][1]), *inside, (end, inside[-1][1])]
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))

    def close(self) -> None:
        """Stop reading."""
        self._end.set()
        self._thread.join()


def counter_beside_power() -> None:
    """One rank: idle, load, and the load split by phase."""
    watt = None if PRETENDED else Watt()
    with meter_of(10.0) as meter:
        with meter.window("idle") as idle:
            time.sleep(IDLE_S)
        with meter.window("load") as load:
            work_for(LOAD_S)
        begin, end = load.interval_ns
        half = (begin + end) // 2
        whole = meter.attribute(
            load.result, [Piece("compute", begin, half), Piece("idle", half, end)], gpus_in_use.uuid_of(DEVICE)
        )
    if watt is None:
        verdict("a window without sensors says why", bool(load.result.reason))
        return
    joules, idle_j = load.result.energy_j, idle.result.energy_j
    figure("method", load.result.method)
    figure("scope", load.result.scope)
    figure("idle power", idle.result.power_w, "W")
    figure("power of bf16 products", load.result.power_w, "W")
    figure("counter over integrated power, load", joules / watt.joules(begin, end), low=0.97, high=1.03)
    figure("counter over integrated power, idle", idle_j / watt.joules(*idle.interval_ns))
    phases = (whole.phases and whole.phases.by_phase_j) or {}
    figure("phases over the whole", sum(phases.values()) / joules, low=0.97, high=1.03)
    watt.close()


def two_ranks() -> None:
    """Each of two ranks computes; the one board counts once."""
    if not PRETENDED:
        torch.cuda.set_device(0)
    watt = None if PRETENDED else Watt()
    work_for(size(1.5, 0.1))  # NVML's power is a mean over the last second: it must have forgotten the idle card
    with meter_of(10.0) as meter, meter.window("both") as window:
        work_for(TWO_S)
    if watt is None or MPI.COMM_WORLD.rank:
        return
    ratio = window.result.energy_j / watt.joules(*window.interval_ns)
    figure("two ranks on one board: joules over integrated power", ratio, low=0.9, high=1.1)


def cost_of_sensors() -> None:
    """Steps of about 10 ms with the sensors sampled and without, in turns: without, with, with, without."""
    product = products(size(4096, 64))
    settle()
    began = time.perf_counter()
    for _ in range(50):
        product()
    settle()
    calls = max(1, round(0.01 / ((time.perf_counter() - began) / 50)))

    def block_s() -> float:
        times = []
        for _ in range(size(20, 2)):
            start = time.perf_counter()
            for _ in range(calls):
                product()
            settle()
            times.append(time.perf_counter() - start)
        return fmean(times[3:] or times)  # a median would leave out the few that a reading falls into

    ratios = []
    for _ in range(ROUNDS):
        found: dict[bool, list[float]] = {True: [], False: []}
        for on in (False, True, True, False):
            if on:
                with meter_of(10.0) as meter, meter.window("on"):
                    found[on].append(block_s())
            else:
                found[on].append(block_s())
        ratios.append(sum(found[True]) / sum(found[False]))
    figure("step with sensors over step without", median(ratios), high=None if PRETENDED else 1.01)


def guarded(part: Callable[[], Any]) -> None:
    """A part that fails is told, and the next one follows."""
    try:
        part()
    except Exception as error:
        verdict(part.__name__, False, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    if "--two" in sys.argv:
        two_ranks()
    else:
        guarded(counter_beside_power)
        guarded(cost_of_sensors)
        code = start_ranks(2, "benchmarks.gpu.energy", ["--two"])
        if code:
            verdict("two ranks on one board", False, f"exit code {code}")
