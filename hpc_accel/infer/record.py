"""What an inference run leaves beside its run.json: requests.parquet, steps.parquet, summary.json, each by one rename.

summary.json has the keys of a training run's where they mean the same (a step is one full batch on every replica), and
`inference` and `outputs` beside them.
"""

from __future__ import annotations

import io
import json
import os
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import torch

from hpc_accel.files import write_atomically
from hpc_accel.infer.loop import Observations
from hpc_accel.infer.session import Session
from hpc_accel.measure import memory, provenance
from hpc_accel.measure.energy.derived import per
from hpc_accel.measure.statistics import median_ci
from hpc_accel.train import checks
from hpc_accel.train.record import slowest

STEP_METHOD = "median over full batches back to back, each that of the slowest replica; 95 % bootstrap interval"


def write_record(session: Session, seen: Observations, started_utc: str) -> dict[str, Any] | None:
    """Write the record from rank 0, which gets the summary back. Collective."""
    peaks = session.comm.gather(seen.peak_memory_bytes, root=0)
    if session.rank != 0:
        return None
    for stale in session.directory.glob("error.rank*.json"):
        stale.unlink(missing_ok=True)  # of an earlier attempt; this one got here
    steps = pl.DataFrame(seen.batches)
    for name, table in (("steps", steps), ("requests", requests_table(seen))):
        file = io.BytesIO()
        table.write_parquet(file)
        write_atomically(session.directory / f"{name}.parquet", file.getvalue())
    summary = summarise(session, seen, steps, peaks, started_utc)
    write_atomically(session.directory / "summary.json", json.dumps(summary, indent=1, allow_nan=False))
    return summary


def requests_table(seen: Observations) -> pl.DataFrame:
    """One row per request of every window, those of the search and of warm-up included and marked.

    Times are nanoseconds from the start of the request's window. `batch` is how many were computed together.
    """
    frames = []
    for number, (kind, window) in enumerate(seen.windows):
        count = len(window.replica)
        frames.append(
            pl.DataFrame(
                {
                    "window": np.full(count, number),
                    "kind": [kind] * count,
                    "rate_per_s": np.full(count, window.rate_per_s),
                    "warmup": window.warmup,
                    "replica": window.replica,
                    "scheduled_ns": window.log.scheduled_ns,
                    "started_ns": window.log.started_ns,
                    "ended_ns": window.log.ended_ns,
                    "batch": window.log.batch,
                }
            )
        )
    return pl.concat(frames)


def summarise(
    session: Session, seen: Observations, steps: pl.DataFrame, peaks: list[int | None], started_utc: str
) -> dict[str, Any]:
    """summary.json as a mapping. Every figure that is null has a reason beside it."""
    run, infer = session.run, session.infer
    timed_ms = slowest(steps.filter(~pl.col("warmup")))
    median, low, high = median_ci(list(timed_ms.values()), seed=run.seed)
    batch = run.workload.global_batch_size
    known_peaks = [peak for peak in peaks if peak is not None]
    parity = _with_cache(seen.compared["parity"], seen.generated)
    passed = parity["passed"]
    highest = max(seen.rates, key=lambda rate: rate["rate_per_s"])
    cuda = session.device.type == "cuda"
    return {
        "format": 1,
        "run_id": run.run_id,
        "study": run.study,
        "site": run.site,
        "status": "completed" if passed else "wrong",
        "error": None if passed else _error(parity),
        "device": session.device.type,
        "device_name": torch.cuda.get_device_name(session.device) if cuda else provenance.cpu_model(),
        "num_nodes": len(session.hosts),
        "num_ranks": run.layout.num_ranks,
        "num_threads_per_rank": session.num_threads,
        "hosts": session.hosts,
        "split": list(session.split) if session.split else None,
        "started_utc": started_utc,
        "ended_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "attempt": int(os.environ.get("SLURM_RESTART_COUNT") or 0) + 1,
        "job_id": os.environ.get("SLURM_JOB_ID"),
        "steps": {
            "num_warmup": int(steps["warmup"].sum()) // run.layout.dp,
            "num_asked": run.measure.steps,
            "num_timed": len(timed_ms),
            "global_batch_size": batch,
            "outliers": checks.found_outliers(list(timed_ms), list(timed_ms.values())),
        },
        "step_time_ms": {"median": median, "ci_low": low, "ci_high": high, "method": STEP_METHOD},
        "throughput_samples_per_s": batch / median * 1e3 if median else None,
        "startup_ms": {**session.startup_ms, "first_step": steps["step_ns"][0] / 1e6},
        "peak_memory_bytes": max(known_peaks) if known_peaks else None,
        "peak_memory_scope": f"largest rank, {memory.scope(session.device)}",
        "latency_ms": {"rate_per_s": highest["rate_per_s"], **highest["latency_ms"]},
        "energy": seen.energy | {"per_sample_j": per(seen.energy["energy_j"], len(timed_ms) * batch)},
        "inference": {
            "batch_size": infer.batch_size,
            "replicas": run.layout.dp,
            "arrivals": infer.arrivals,
            "train_steps": infer.train_steps,
            "load": "open loop: arrivals scheduled beforehand, latency from the scheduled arrival to the answer",
            "rates": seen.rates,
            "limit": seen.limit,
            "generate": seen.generated,
            "notes": list(session.model.notes),
        },
        "outputs": seen.compared["outputs"],
        "parity": parity,
        "warnings": [],
        "notes": seen.notes,
        "provenance": provenance.collect(),
    }


def _with_cache(parity: dict[str, Any], generated: list[dict[str, Any]]) -> dict[str, Any]:
    """Parity also wants that a cache changes no logits."""
    errors = [each["cache_max_rel_err"] for each in generated if each["kv_cache"]]
    tolerance = parity["tolerance"] or 0.0
    broken = [error for error in errors if error is None or error > tolerance]
    if not broken or not parity["passed"]:
        return parity
    told = f"{broken[0]:.2g}" if broken[0] is not None else "something that is not finite"
    reason = f"logits with the key-value cache differ from those without by {told}"
    return {**parity, "passed": False, "reason": reason}


def _error(parity: dict[str, Any]) -> dict[str, Any]:
    remedy = "compare `outputs` and `parity` in summary.json; allow more by infer.min_top1_agreement or "
    remedy += "measure.parity_tolerance only if the answers are good enough for you"
    return {"rank": None, "kind": "parity", "message": parity["reason"], "remedy": remedy}
