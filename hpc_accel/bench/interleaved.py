"""Ways to do the same step take turns, repetition by repetition, so that a noisy machine disturbs all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from hpc_accel.mpi.launch import mpi

Step = Callable[[], object]
LEAST = 3


def nothing() -> None:
    """On the CPU a step is over when it returns."""


def interleaved(
    ways: dict[str, Step],
    repetitions: int,
    inner: int = 1,
    warmup: int = 2,
    settle: Step = nothing,
    budget_s: float = 30.0,
) -> dict[str, float]:
    """Median seconds of the slowest rank for each way, taking turns. All ranks call this.

    `settle` waits for what a step has only queued, on a device. On a slow link there are fewer repetitions, three at
    least, so that they take about `budget_s`.
    """
    comm = mpi().COMM_WORLD
    times: dict[str, list[float]] = {name: [] for name in ways}
    started = time.perf_counter()
    for repetition in range(repetitions + warmup):
        if repetition >= warmup + LEAST and comm.bcast(time.perf_counter() - started > budget_s):
            break
        for name, step in ways.items():
            settle()
            comm.Barrier()
            began = time.perf_counter()
            for _ in range(inner):
                step()
            settle()
            took = (time.perf_counter() - began) / inner
            if repetition >= warmup:
                times[name].append(took)
    everybody: list[dict[str, list[float]]] = comm.allgather(times)
    slowest = {name: [max(row) for row in zip(*(one[name] for one in everybody), strict=True)] for name in ways}
    return {name: statistics.median(values) for name, values in slowest.items()}
