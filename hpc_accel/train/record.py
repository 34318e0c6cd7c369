"""What a finished run leaves beside its run.json: steps.parquet, trace.json, summary.json, each by one rename."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from hpc_accel import record
from hpc_accel.files import write_atomically
from hpc_accel.measure import provenance
from hpc_accel.record.energy import Energy
from hpc_accel.record.figure import Count, Fraction, Milliseconds, OwnUnit
from hpc_accel.record.measured import energy_of
from hpc_accel.record.parts import Error, Losses, Parity, Phases, Status, Steps, Straggler
from hpc_accel.record.production import Production
from hpc_accel.record.summary import Summary
from hpc_accel.runtime import timing_warnings
from hpc_accel.runtime.summary import identity, memory_figures, slowest, startup, step_time, throughput
from hpc_accel.study.layout import Layout
from hpc_accel.study.run import Run
from hpc_accel.train import efficiency
from hpc_accel.train.loop import Observations
from hpc_accel.train.parity.check import Checked
from hpc_accel.train.production.goodput import production_of
from hpc_accel.train.setup import Session
from hpc_accel.train.utilisation import flops_facts
from hpc_accel.workloads.stream import Stream, num_samples_of

NO_LENGTH = "the stream does not tell how many samples it has"

PHASES = ("data", "forward", "backward", "comm_exposed", "pipeline_wait", "optimizer")
STEP_METHOD = "median over the timed steps, each that of the slowest rank; 95 % bootstrap interval"


def write_record(session: Session, seen: Observations, started_utc: str) -> Summary | None:
    """Gather what all ranks saw and write the record from rank 0, which gets the summary back. Collective."""
    gathered = session.comm.gather(seen.rows, root=0)
    peaks = session.comm.gather((seen.peak_memory_bytes, seen.reserved_bytes, seen.device_used_bytes), root=0)
    if session.rank != 0:
        return None
    steps = pl.concat([rows.frame() for rows in gathered])
    for stale in session.directory.glob("error.rank*.json"):
        stale.unlink(missing_ok=True)  # of an earlier attempt; this one got here
    table = io.BytesIO()
    steps.write_parquet(table)
    write_atomically(session.directory / "steps.parquet", table.getvalue())
    summary = summarise(session, seen, steps, peaks, started_utc)
    record.write(session.directory / "summary.json", summary)
    return summary


def summarise(
    session: Session, seen: Observations, steps: pl.DataFrame, peaks: list[tuple[int | None, ...]], started_utc: str
) -> Summary:
    """The record of what all ranks saw; `peaks` are each rank's bytes: peak, reserved, used on the device."""
    assert seen.metric is not None and seen.disturbance is not None  # rank 0 has both
    run = session.run
    timed, losses = steps.filter(~pl.col("warmup")), mean_losses(steps)
    reference = session.checked.reference
    parity = parity_of(session.checked, seen.draws)
    problem = _non_finite(run, steps, losses)
    peak, reserved, device_used = (list(each) for each in zip(*peaks, strict=True))
    step_time_ms = step_time(run, slowest(timed), STEP_METHOD)
    straggler = _straggler(seen.straggler)
    step_facts = _steps(session, steps, list(slowest(timed)), list(slowest(timed).values()))
    energy = energy_of(seen.energy, step_facts)
    phases = _phases(run, timed)
    bubble_fraction, bubble_ideal = _bubble(run.layout, timed, phases)
    return Summary(
        **identity(session, session.split, attempt=session.attempt, started_utc=started_utc),
        status=_status(parity, problem),
        error=problem or _error(parity),
        steps=step_facts,
        step_time_ms=step_time_ms,
        throughput_samples_per_s=throughput(run, step_time_ms),
        phases_ms=phases,
        bubble_fraction=bubble_fraction,
        bubble_ideal=bubble_ideal,
        startup_ms=startup(session.startup_ms, seen.first_step_ms),
        memory=memory_figures(peak, session.device, reserved=reserved, device_used=device_used),
        energy=energy,
        target=efficiency.target(run, losses, energy, step_facts.num_timed, started_from=session.started_from),
        flops=flops_facts(
            run,
            session.directory,
            session.device.type,
            reference.flops_per_step if reference else None,
            reference.flops_reason if reference else session.checked.parity.reason or "",
            step_time_ms.value,
            session.num_gpus,
        ),
        straggler=straggler,
        disturbance=seen.disturbance,
        checkpoints=seen.checkpoints,
        losses=_losses(losses, reference.losses if reference else (), run.measure.parity_steps),
        parity=parity,
        metric=seen.metric,
        inference=None,
        outputs=None,
        production=_production(session, seen, energy),
        warnings=(
            *timing_warnings.warnings(
                run,
                step_facts,
                energy,
                seen.disturbance,
                device_type=session.device.type,
                gpu_clock=seen.gpu_clock_note,
            ),
            *timing_warnings.slow_rank(run, straggler, step_facts.num_timed),
            *seen.no_shared_memory,
            *_slow(seen),
            *seen.odd_parameters,
            *(f"parity: {each}" for each in session.checked.found.told),
        ),
        notes=seen.notes,
        provenance=provenance.collect(),
    )


def _production(session: Session, seen: Observations, energy: Energy) -> Production | None:
    if seen.evaluations is None:
        return None
    saving_s = sum(seen.checkpoints.save_ms) / 1e3
    return production_of(session, seen.evaluations, energy, num_steps=session.stepper.num_steps, checkpoints_s=saving_s)


def _slow(seen: Observations) -> list[str]:
    """The last period that was slower than the measured run, and how many there were."""
    found = seen.evaluations.slow if seen.evaluations is not None else []
    return [f"{len(found)} period(s) slower than measured; the last: {found[-1]}"] if found else []


def _steps(session: Session, steps: pl.DataFrame, timed: list[int], timed_ms: list[float]) -> Steps:
    measure, workload = session.run.measure, session.run.workload
    total, dropped = num_samples_of(session.workload.dataset), session.samples_dropped_per_epoch
    if isinstance(session.workload.dataset, Stream) and total is not None:
        dropped = total % workload.global_batch_size
    tokens = efficiency.tokens_per_sample(session.workload)
    return Steps(
        num_warmup=measure.warmup_steps,
        num_warmup_detected=timing_warnings.detected_warmup(
            list(slowest(steps).values()), is_continued=session.attempt > 1
        ),
        num_asked=measure.steps,
        num_timed=len(timed),
        global_batch_size=workload.global_batch_size,
        samples_per_epoch=Count.of(total - dropped if total is not None else None, NO_LENGTH),
        samples_dropped_per_epoch=Count.of(dropped if total is not None else None, NO_LENGTH),
        tokens_per_sample=Count.of(tokens, efficiency.NO_TOKENS),
        outliers=timing_warnings.found_outliers(timed, timed_ms),
    )


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


def _phases(run: Run, timed: pl.DataFrame) -> Phases:
    """The medians; missing where there is nothing to wait for, which is not the same as nobody waited."""
    layout, medians = run.layout, phase_medians_ms(timed)
    why = dict.fromkeys(medians, f"backend {run.backend} does not report when ranks wait; backend mpi4py does")
    if layout.dp == 1 and layout.tp == 1:
        medians["comm_exposed"], why["comm_exposed"] = None, "the layout has no collective communication"
    if layout.pp == 1:
        why["pipeline_wait"] = "the layout has one stage"
    if layout.num_ranks == 1:
        medians["comm_overlapped"], why["comm_overlapped"] = None, "one rank has nobody to communicate with"
    return Phases(**{name: Milliseconds.of(value, why[name]) for name, value in medians.items()})


def _bubble(layout: Layout, timed: pl.DataFrame, phases: Phases) -> tuple[Fraction, Fraction]:
    """Measured bubble, and beside it what equal stages and free messages would leave.

    That is (p - 1) / (v m + p - 1) with v stages on a rank (Narayanan et al., arXiv 2104.04473); missing for schedules
    of two-part backward, where it depends on how long the parts take.
    """
    if layout.pp == 1:
        return Fraction.missing("the layout has one stage"), Fraction.missing("the layout has one stage")
    ideal = Fraction.missing(f"schedule {layout.schedule} has no formula: it depends on how long parts take")
    if not layout.splits_backward:
        ideal = Fraction.of((layout.pp - 1) / (layout.stages_per_rank * layout.accumulation_steps + layout.pp - 1))
    if phases.pipeline_wait.value is None:
        return Fraction.missing(f"waiting between stages was not measured: {phases.pipeline_wait.reason}"), ideal
    waited, total = int(timed["pipeline_wait_ns"].sum()), int(timed["step_ns"].sum())
    return Fraction.of(waited / total), ideal


def parity_of(checked: Checked, draws: str) -> Parity:
    """The parity of the record; `draws` is what is wrong with the random numbers of the timed steps."""
    parity = checked.parity
    if not draws:
        return parity
    return parity.model_copy(update={"passed": False, "steps": max(1, parity.steps), "reason": draws})


def _straggler(found: dict[str, Any]) -> Straggler:
    alone = "one rank has nobody to compare with"
    return Straggler(
        rank=Count.of(found["rank"]),
        host=found["host"],
        busy_ms=Milliseconds.of(found["busy_ms"]),
        mean_of_others_ms=Milliseconds.of(found["mean_of_others_ms"], alone),
        excess=Fraction.of(found["excess"], alone),
    )


def _losses(losses: Sequence[float], reference: Sequence[float], parity_steps: int) -> Losses:
    return Losses(
        first=tuple(_finite(value) for value in losses[:parity_steps]),
        reference=tuple(_finite(value) for value in reference),
        final=OwnUnit.of(losses[-1], "the last loss is not finite"),
    )


def _non_finite(run: Run, steps: pl.DataFrame, losses: Sequence[float]) -> Error | None:
    """The first loss, or norm of gradients, that is no number. With a loss scale such a step was skipped."""
    remedy = "lower the learning rate, or use precision bf16 or fp32"
    for step, loss in enumerate(losses, start=int(steps["step"].min() or 0)):  # type: ignore[arg-type]
        if not math.isfinite(loss):
            return Error(kind="non-finite loss", message=f"loss of step {step}", remedy=remedy)
    norms = steps.filter(~pl.col("grad_norm").is_finite()).sort("step")
    if norms.height and run.recipe.precision != "fp16":
        message = f"grad_norm of step {norms['step'][0]} is {norms['grad_norm'][0]}"
        return Error(kind="non-finite gradient", message=message, remedy=remedy)
    return None


def _status(parity: Parity, problem: Error | None) -> Status:
    if problem is not None:
        return "failed"
    return "completed" if parity.passed or not parity.steps else "wrong"


def _error(parity: Parity) -> Error | None:
    if _status(parity, None) == "wrong":
        remedy = "read parity.found in summary.json, which has every distance; docs/parity.md tells what a cause means"
        return Error(kind="parity", message=parity.reason or "", remedy=remedy)
    return None


def _finite(value: float) -> float | None:
    """JSON has no NaN; the status says why a loss is missing."""
    return value if math.isfinite(value) else None
