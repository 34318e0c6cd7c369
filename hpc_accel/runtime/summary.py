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
from hpc_accel.runtime.start_ranks import RankSetup
from hpc_accel.study.run import Run


def identity(
    launch: RankSetup, split: tuple[int, ...] | None, *, attempt: int, started_utc: str, status: str, error: Any
) -> dict[str, Any]:
    """Which run this is, how it ended, and where it ran. `error` is None, or an object that says what is wrong."""
    run, cuda = launch.run, launch.device.type == "cuda"
    return {
        "format": 1,
        "run_id": run.run_id,
        "study": run.study,
        "site": run.site,
        "status": status,
        "error": error,
        "device": launch.device.type,
        "device_name": torch.cuda.get_device_name(launch.device) if cuda else provenance.cpu_model(),
        "num_nodes": len(launch.hosts),
        "num_ranks": run.layout.num_ranks,
        "num_threads_per_rank": launch.num_threads,
        "hosts": launch.hosts,
        "split": list(split) if split else None,
        "started_utc": started_utc,
        "ended_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "attempt": attempt,
        "job_id": os.environ.get("SLURM_JOB_ID"),
    }


def slowest(steps: pl.DataFrame) -> dict[int, float]:
    """Milliseconds of each step, that of its slowest rank, in order."""
    longest = steps.group_by("step").agg(pl.col("step_ns").max()).sort("step")
    return dict(zip(longest["step"].to_list(), (longest["step_ns"] / 1e6).to_list(), strict=True))


def speed(run: Run, timed_ms: dict[int, float], method: str) -> dict[str, Any]:
    """Median step time with its interval, got by `method`, and the throughput it means."""
    median, low, high = median_ci(list(timed_ms.values()), seed=run.seed)
    return {
        "step_time_ms": {"median": median, "ci_low": low, "ci_high": high, "method": method},
        "throughput_samples_per_s": run.workload.global_batch_size / median * 1e3 if median else None,
    }


def memory_figures(
    peaks: Sequence[int | None],
    device: torch.device,
    *,
    reserved: Sequence[int | None] = (),
    device_used: Sequence[int | None] = (),
) -> dict[str, Any]:
    """The largest of the ranks' figures, those that are known: peaks, and of a GPU what its card held besides."""
    on_cpu, told = device.type != "cuda", any(each is not None for each in (*reserved, *device_used))
    return {
        "peak_memory_bytes": _largest(peaks),
        "peak_memory_scope": f"largest rank, {peak_memory.scope(device)}",
        "reserved_bytes": _largest(reserved),
        "device_used_bytes": _largest(device_used),
        "device_memory_reason": "the run computes on CPUs"
        if on_cpu
        else ""
        if told
        else "not noted in runs of this kind",
    }


def _largest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
