"""What an inference run leaves beside its run.json: requests.parquet, steps.parquet, summary.json, each by one rename.

summary.json has the keys of a training run's where they mean the same (a step is one full batch on every replica), and
`inference` and `outputs` beside them.
"""

from __future__ import annotations

import io
import json
import os
from typing import Any

import numpy as np
import polars as pl

from hpc_accel.files import write_atomically
from hpc_accel.infer.loop import Observations
from hpc_accel.infer.setup import Session
from hpc_accel.measure import provenance
from hpc_accel.measure.energy.derived import per
from hpc_accel.runtime import timing_warnings
from hpc_accel.runtime.summary import identity, memory_figures, slowest, speed

STEP_METHOD = "median over full batches back to back, each that of the slowest replica; 95 % bootstrap interval"


def write_record(session: Session, seen: Observations, started_utc: str) -> dict[str, Any] | None:
    """Write the record from rank 0, which gets the summary back. Collective."""
    ranks = session.comm.gather(seen.memory_bytes, root=0)
    if session.rank != 0:
        return None
    for stale in session.directory.glob("error.rank*.json"):
        stale.unlink(missing_ok=True)  # of an earlier attempt; this one got here
    steps = pl.DataFrame(seen.batches)
    for name, table in (("steps", steps), ("requests", requests_table(seen))):
        file = io.BytesIO()
        table.write_parquet(file)
        write_atomically(session.directory / f"{name}.parquet", file.getvalue())
    held = {name: [each[name] for each in ranks] for name in seen.memory_bytes}
    summary = summarise(session, seen, steps, held, started_utc)
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
    session: Session, seen: Observations, steps: pl.DataFrame, held: dict[str, list[int | None]], started_utc: str
) -> dict[str, Any]:
    """summary.json as a mapping. Every figure that is null has a reason beside it. `held` are bytes of each rank."""
    run, infer = session.run, session.infer
    timed_ms = slowest(steps.filter(~pl.col("warmup")))
    batch = run.workload.global_batch_size
    parity = _with_cache(seen.compared["parity"], seen.generated)
    wrong = bool(parity["steps"]) and not parity["passed"]
    highest = max(seen.rates, key=lambda rate: rate["rate_per_s"])
    return {
        **identity(
            session,
            session.split,
            attempt=int(os.environ.get("SLURM_RESTART_COUNT") or 0) + 1,
            started_utc=started_utc,
            status="wrong" if wrong else "completed",
            error=_error(parity) if wrong else None,
        ),
        "steps": {
            "num_warmup": int(steps["warmup"].sum()) // run.layout.dp,
            "num_asked": run.measure.steps,
            "num_timed": len(timed_ms),
            "global_batch_size": batch,
            "outliers": timing_warnings.found_outliers(list(timed_ms), list(timed_ms.values())),
        },
        **speed(run, timed_ms, STEP_METHOD),
        "startup_ms": {**session.startup_ms, "first_step": steps["step_ns"][0] / 1e6},
        **memory_figures(held["peak"], session.device, reserved=held["reserved"], device_used=held["used"]),
        "latency_ms": {"rate_per_s": highest["rate_per_s"], **highest["latency_ms"]},
        "energy": seen.energy.as_dict() | {"per_sample_j": per(seen.energy.energy_j, len(timed_ms) * batch)},
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
        "warnings": [*timing_warnings.environment(session.device.type), *filter(None, [seen.gpu_clock_note])],
        "notes": seen.notes,
        "provenance": provenance.collect(),
    }


def _with_cache(parity: dict[str, Any], generated: list[dict[str, Any]]) -> dict[str, Any]:
    """Parity also wants that a cache changes no logits, which is known without the serial model."""
    cached = [each for each in generated if each["kv_cache"]]
    errors = [each["cache_max_rel_err"] for each in cached]
    tolerance = parity["tolerance"] or 0.0
    broken = [error for error in errors if error is None or error > tolerance]
    if not broken or (parity["steps"] and not parity["passed"]):
        return parity
    told = f"{broken[0]:.2g}" if broken[0] is not None else "something that is not finite"
    reason = f"logits with the key-value cache differ from those without by {told}"
    return {**parity, "passed": False, "reason": reason, "steps": parity["steps"] or cached[0]["num_sequences"]}


def _error(parity: dict[str, Any]) -> dict[str, Any]:
    remedy = "compare `outputs` and `parity` in summary.json; allow more by infer.min_top1_agreement or "
    remedy += "measure.parity_tolerance only if the answers are good enough for you"
    return {"rank": None, "kind": "parity", "message": parity["reason"], "remedy": remedy}
