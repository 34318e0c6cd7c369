"""What a finished run leaves beside its run.json: steps.parquet, trace.json, summary.json, each by one rename."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import polars as pl

from hpc_accel.files import write_atomically
from hpc_accel.measure import provenance
from hpc_accel.runtime import timing_warnings
from hpc_accel.runtime.summary import identity, memory_figures, slowest, speed
from hpc_accel.study.layout import Layout
from hpc_accel.study.run import Run
from hpc_accel.train import efficiency
from hpc_accel.train.loop import Observations
from hpc_accel.train.parity import compare
from hpc_accel.train.setup import Session
from hpc_accel.train.utilisation import flops_facts

PHASES = ("data", "forward", "backward", "comm_exposed", "pipeline_wait", "optimizer")
STEP_METHOD = "median over the timed steps, each that of the slowest rank; 95 % bootstrap interval"


def write_record(session: Session, seen: Observations, started_utc: str) -> dict[str, Any] | None:
    """Gather what all ranks saw and write the record from rank 0, which gets the summary back. Collective."""
    gathered = session.comm.gather(seen.rows, root=0)
    peaks = session.comm.gather((seen.peak_memory_bytes, seen.reserved_bytes, seen.device_used_bytes), root=0)
    if session.rank != 0:
        return None
    steps = pl.DataFrame([row for rows in gathered for row in rows], infer_schema_length=None).cast(
        {"comm_exposed_ns": pl.Int64, "pipeline_wait_ns": pl.Int64, "comm_overlapped_ns": pl.Int64, "loss": pl.Float64}
    )
    for stale in session.directory.glob("error.rank*.json"):
        stale.unlink(missing_ok=True)  # of an earlier attempt; this one got here
    table = io.BytesIO()
    steps.write_parquet(table)
    write_atomically(session.directory / "steps.parquet", table.getvalue())
    summary = summarise(session, seen, steps, peaks, started_utc)
    write_atomically(session.directory / "summary.json", json.dumps(summary, indent=1, allow_nan=False))
    return summary


def summarise(
    session: Session, seen: Observations, steps: pl.DataFrame, peaks: list[tuple[int | None, ...]], started_utc: str
) -> dict[str, Any]:
    """summary.json as a mapping. Every figure that is null has a reason beside it."""
    run = session.run
    timed = steps.filter(~pl.col("warmup"))
    slowest_ms = slowest(timed)
    measured = speed(run, slowest_ms, STEP_METHOD)
    losses = mean_losses(steps)
    reference = seen.reference
    parity = compare(run, losses, reference.losses if reference else [], reference.losses_reason if reference else "")
    peak, reserved, device_used = (list(each) for each in zip(*peaks, strict=True))
    finite = all(map(math.isfinite, losses))
    phases = _phases(run.layout, timed)
    step_facts = _step_facts(session, steps, slowest_ms)
    energy = seen.energy.as_dict() | efficiency.energy_figures(
        seen.energy.as_dict(),
        num_steps=step_facts["num_timed"],
        global_batch_size=run.workload.global_batch_size,
        samples_per_epoch=step_facts["samples_per_epoch"],
        tokens=step_facts["tokens_per_sample"],
    )
    return {
        **identity(
            session,
            session.split,
            attempt=session.attempt,
            started_utc=started_utc,
            status=_status(parity, finite),
            error=_error(parity, losses, finite),
        ),
        "steps": step_facts,
        **measured,
        "phases_ms": phases,
        "phases_reason": _phase_reasons(run, phases),
        **_bubble(run.layout, timed, phases),
        "startup_ms": {**session.startup_ms, "first_step": seen.first_step_ms},
        **memory_figures(peak, session.device, reserved=reserved, device_used=device_used),
        "energy": energy,
        "target": efficiency.target(run, losses, energy, step_facts["num_timed"]),
        "flops": flops_facts(
            run,
            session.directory,
            session.device.type,
            reference.flops_per_step if reference else None,
            reference.flops_reason if reference else "",
            measured["step_time_ms"]["median"],
            session.num_gpus,
        ),
        "warnings": timing_warnings.warnings(
            run, step_facts, energy, device_type=session.device.type, gpu_clock=seen.gpu_clock_note
        ),
        "straggler": seen.straggler,
        "checkpoints": seen.checkpoints,
        "notes": seen.notes,
        "losses": {
            "first": [_finite(value) for value in losses[: run.measure.parity_steps]],
            "reference": [_finite(value) for value in (reference.losses if reference else [])],
            "final": _finite(losses[-1]),
        },
        "parity": parity,
        "metric": seen.metric,
        "provenance": provenance.collect(),
    }


def _step_facts(session: Session, steps: pl.DataFrame, timed_ms: dict[int, float]) -> dict[str, Any]:
    """The `steps` object of summary.json."""
    measure, workload = session.run.measure, session.run.workload
    all_ms = list(slowest(steps).values())
    detected, reason = timing_warnings.detected_warmup(all_ms, is_continued=session.attempt > 1)
    dataset: Any = session.workload.dataset
    return {
        "num_warmup": measure.warmup_steps,
        "num_warmup_detected": detected,
        "warmup_reason": reason,
        "num_asked": measure.steps,
        "num_timed": len(timed_ms),
        "global_batch_size": workload.global_batch_size,
        "samples_dropped_per_epoch": session.samples_dropped_per_epoch,
        "samples_per_epoch": len(dataset) - session.samples_dropped_per_epoch,
        "tokens_per_sample": efficiency.tokens_per_sample(dataset[0][0]),
        "outliers": timing_warnings.found_outliers(list(timed_ms), list(timed_ms.values())),
    }


def mean_losses(steps: pl.DataFrame) -> list[float]:
    """Loss of each step over the global batch: the mean over the ranks that computed one (equal shares)."""
    known = steps.filter(pl.col("loss").is_not_null())
    return known.group_by("step").agg(pl.col("loss").mean()).sort("step")["loss"].to_list()


def phase_medians_ms(timed: pl.DataFrame) -> dict[str, float | None]:
    """Median over steps of the mean over ranks, per phase; `other` is what no phase explains.

    `comm_overlapped` ran beside the others and is no part of their sum.
    """
    names = [f"{phase}_ns" for phase in PHASES]
    by_step = timed.group_by("step").agg(
        pl.col("step_ns").mean(), *(pl.col(name).mean() for name in [*names, "comm_overlapped_ns"])
    )
    explained = pl.sum_horizontal(pl.col(name).fill_null(0) for name in names)
    by_step = by_step.with_columns((pl.col("step_ns") - explained).clip(lower_bound=0).alias("other_ns"))
    medians: dict[str, float | None] = {}
    for phase in (*PHASES, "other", "comm_overlapped"):
        value = by_step[f"{phase}_ns"].median()
        medians[phase] = float(value) / 1e6 if isinstance(value, int | float) else None
    return medians


def _phases(layout: Layout, timed: pl.DataFrame) -> dict[str, float | None]:
    """The medians; None where there is nothing to wait for, which is not the same as nobody waited."""
    phases = phase_medians_ms(timed)
    if layout.dp == 1 and layout.tp == 1:
        phases["comm_exposed"] = None
    if layout.num_ranks == 1:
        phases["comm_overlapped"] = None
    return phases


def _phase_reasons(run: Run, phases: dict[str, float | None]) -> dict[str, str]:
    blind = f"backend {run.backend} does not report when ranks wait; backend mpi4py does"
    reasons = {}
    if phases["comm_exposed"] is None:
        alone = run.layout.dp == 1 and run.layout.tp == 1
        reasons["comm_exposed"] = "the layout has no collective communication" if alone else blind
    if phases["pipeline_wait"] is None:
        reasons["pipeline_wait"] = "the layout has one stage" if run.layout.pp == 1 else blind
    if phases["comm_overlapped"] is None:
        alone = run.layout.num_ranks == 1
        reasons["comm_overlapped"] = "one rank has nobody to communicate with" if alone else blind
    return reasons


def _bubble(layout: Layout, timed: pl.DataFrame, phases: dict[str, float | None]) -> dict[str, Any]:
    """Measured bubble, and beside it what equal stages and free messages would leave.

    That is (p - 1) / (v m + p - 1) with v stages on a rank (Narayanan et al., arXiv 2104.04473); None for schedules of
    two-part backward, where it depends on how long the parts take.
    """
    if layout.pp == 1:
        return {"bubble_fraction": None, "bubble_ideal": None, "bubble_reason": "the layout has one stage"}
    ideal = None
    if not layout.splits_backward:
        ideal = (layout.pp - 1) / (layout.stages_per_rank * layout.accumulation_steps + layout.pp - 1)
    if phases["pipeline_wait"] is None:
        reason = "waiting between stages was not measured"
        return {"bubble_fraction": None, "bubble_ideal": ideal, "bubble_reason": reason}
    waited, total = int(timed["pipeline_wait_ns"].sum()), int(timed["step_ns"].sum())
    return {"bubble_fraction": waited / total, "bubble_ideal": ideal, "bubble_reason": None}


def _status(parity: dict[str, Any], finite: bool) -> str:
    if not finite:
        return "failed"
    return "completed" if parity["passed"] or not parity["steps"] else "wrong"


def _error(parity: dict[str, Any], losses: list[float], finite: bool) -> dict[str, Any] | None:
    if not finite:
        first = next(index for index, value in enumerate(losses) if not math.isfinite(value))
        remedy = "lower the learning rate, or use precision bf16 or fp32"
        return {"rank": None, "kind": "non-finite loss", "message": f"loss of step {first}", "remedy": remedy}
    if _status(parity, finite) == "wrong":
        remedy = "compare losses.first with losses.reference in summary.json; layers that normalise over the batch "
        remedy += "or drop at random cannot agree between layouts"
        return {"rank": None, "kind": "parity", "message": parity["reason"], "remedy": remedy}
    return None


def _finite(value: float) -> float | None:
    """JSON has no NaN; the status says why a loss is missing."""
    return value if math.isfinite(value) else None
