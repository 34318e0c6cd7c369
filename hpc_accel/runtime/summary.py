"""What summary.json says of every run, trained or served: who ran where, how long a step took, what memory it had."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl
import torch

from hpc_accel.measure import peak_memory, provenance
from hpc_accel.measure.statistics import median_ci
from hpc_accel.record.figure import Bytes, Estimate, Milliseconds, PerSecond
from hpc_accel.record.parts import Memory, Startup
from hpc_accel.runtime.start_ranks import RankSetup
from hpc_accel.study.run import Run

ON_CPUS = "the run computes on CPUs"
NOT_NOTED = "the device does not say"


def identity(launch: RankSetup, split: tuple[int, ...] | None, *, attempt: int, started_utc: str) -> dict[str, Any]:
    """The fields of a Summary that say which run this is, and where it ran."""
    run, cuda = launch.run, launch.device.type == "cuda"
    return {
        "run_id": run.run_id,
        "study": run.study,
        "site": run.site,
        "mode": "infer" if run.infer else "train",
        "device": launch.device.type,
        "device_name": torch.cuda.get_device_name(launch.device) if cuda else provenance.cpu_model(),
        "num_nodes": len(launch.hosts),
        "num_ranks": run.layout.num_ranks,
        "num_threads_per_rank": launch.num_threads,
        "hosts": tuple(launch.hosts),
        "split": split or None,
        "started_utc": started_utc,
        "ended_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "attempt": attempt,
        "job_id": os.environ.get("SLURM_JOB_ID"),
    }


def slowest(steps: pl.DataFrame) -> dict[int, float]:
    """Milliseconds of each step, that of its slowest rank, in order."""
    longest = steps.group_by("step").agg(pl.col("step_ns").max()).sort("step")
    return dict(zip(longest["step"].to_list(), (longest["step_ns"] / 1e6).to_list(), strict=True))


def step_time(run: Run, timed_ms: dict[int, float], method: str) -> Estimate:
    """Median step time with its interval, got by `method`."""
    return Estimate.between(
        *median_ci(list(timed_ms.values()), seed=run.seed), method=method, reason="no step was timed"
    )


def throughput(run: Run, step_time_ms: Estimate) -> PerSecond:
    """Samples per second at that step time."""
    median = step_time_ms.value
    return PerSecond.of(run.workload.global_batch_size / median * 1e3 if median else None, step_time_ms.reason)


def startup(startup_ms: dict[str, float], first_step_ms: float) -> Startup:
    """What came before the timed steps; the session notes all but the first step."""
    known = {**startup_ms, "first_step": first_step_ms}
    parity = Milliseconds.of(known.pop("parity", None), "inference takes no steps to compare")
    return Startup(parity=parity, **{name: Milliseconds.of(value) for name, value in known.items()})


def memory_figures(
    peaks: Sequence[int | None],
    device: torch.device,
    *,
    reserved: Sequence[int | None],
    device_used: Sequence[int | None],
) -> Memory:
    """The largest of the ranks' figures, those that are known: peaks, and of a GPU what its card held besides."""
    no_card = NOT_NOTED if device.type == "cuda" else ON_CPUS
    return Memory(
        peak_memory_bytes=Bytes.of(_largest(peaks), "the kernel does not tell a process its peak"),
        scope=f"largest rank, {peak_memory.scope(device)}",
        reserved_bytes=Bytes.of(_largest(reserved), no_card),
        device_used_bytes=Bytes.of(_largest(device_used), no_card),
    )


def _largest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
