"""What an inference run leaves beside its run.json: requests.parquet, steps.parquet, summary.json, each by one rename.

summary.json has the keys of a training run's where they mean the same (a step is one full batch on every replica), and
`inference` and `outputs` beside them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

import numpy as np
import polars as pl

from hpc_accel import record
from hpc_accel.files import write_atomically
from hpc_accel.infer.loop import Observations
from hpc_accel.infer.setup import Session
from hpc_accel.measure import provenance
from hpc_accel.record.figure import Count, Fraction, OwnUnit
from hpc_accel.record.inference import Generation, Inference
from hpc_accel.record.measured import energy_of
from hpc_accel.record.parts import Error, Flops, Losses, Parity, Phases, Steps, Straggler, Target
from hpc_accel.record.summary import Summary
from hpc_accel.runtime import timing_warnings
from hpc_accel.runtime.disturbance import disturbed
from hpc_accel.runtime.summary import identity, memory_figures, slowest, startup, step_time, throughput
from hpc_accel.study.run import Run

STEP_METHOD = "median over full batches back to back, each that of the slowest replica; 95 % bootstrap interval"
NO_TRAINING = "an inference run does not train"


def write_record(session: Session, seen: Observations, started_utc: str) -> Summary | None:
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
    record.write(session.directory / "summary.json", summary)
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
) -> Summary:
    """The record of what was seen. `held` are bytes of each rank."""
    assert seen.compared is not None and seen.disturbance is not None  # rank 0 has both
    run, compared = session.run, seen.compared
    timed_ms = slowest(steps.filter(~pl.col("warmup")))
    step_facts = _steps(run, steps, timed_ms)
    step_time_ms = step_time(run, timed_ms, STEP_METHOD)
    parity = _with_cache(compared.parity, seen.generated)
    wrong = bool(parity.steps) and not parity.passed
    attempt = int(os.environ.get("SLURM_RESTART_COUNT") or 0) + 1
    return Summary(
        **identity(session, session.split, attempt=attempt, started_utc=started_utc),
        status="wrong" if wrong else "completed",
        error=_error(parity) if wrong else None,
        steps=step_facts,
        step_time_ms=step_time_ms,
        throughput_samples_per_s=throughput(run, step_time_ms),
        phases_ms=Phases.missing(NO_TRAINING),
        bubble_fraction=Fraction.missing(NO_TRAINING),
        bubble_ideal=Fraction.missing(NO_TRAINING),
        startup_ms=startup(session.startup_ms, steps["step_ns"][0] / 1e6),
        memory=memory_figures(held["peak"], session.device, reserved=held["reserved"], device_used=held["used"]),
        energy=energy_of(seen.energy, step_facts),
        target=Target.missing(NO_TRAINING),
        flops=Flops.missing(NO_TRAINING),
        straggler=Straggler.missing(NO_TRAINING),
        disturbance=seen.disturbance,
        checkpoints=None,
        losses=Losses(final=OwnUnit.missing(NO_TRAINING)),
        parity=parity,
        metric=compared.metric,
        inference=_inference(session, seen),
        outputs=compared.outputs,
        warnings=(
            *timing_warnings.environment(session.device.type),
            *disturbed(seen.disturbance),
            *filter(None, [seen.gpu_clock_note]),
        ),
        notes=seen.notes,
        provenance=provenance.collect(),
    )


def _steps(run: Run, steps: pl.DataFrame, timed_ms: dict[int, float]) -> Steps:
    no_epoch = Count.missing("an inference run has no epochs")
    return Steps(
        num_warmup=int(steps["warmup"].sum()) // run.layout.dp,
        num_warmup_detected=Count.missing("an inference run does not look for it"),
        num_asked=run.measure.steps,
        num_timed=len(timed_ms),
        global_batch_size=run.workload.global_batch_size,
        samples_per_epoch=no_epoch,
        samples_dropped_per_epoch=no_epoch,
        tokens_per_sample=Count.missing("full batches are counted in samples; `generate` counts tokens"),
        outliers=timing_warnings.found_outliers(list(timed_ms), list(timed_ms.values())),
    )


def _inference(session: Session, seen: Observations) -> Inference:
    infer = session.infer
    return Inference(
        batch_size=infer.batch_size,
        replicas=session.run.layout.dp,
        arrivals=infer.arrivals,
        train_steps=infer.train_steps,
        load="open loop: arrivals scheduled beforehand, latency from the scheduled arrival to the answer",
        rates=tuple(seen.rates),
        limit=seen.limit,
        generate=tuple(seen.generated),
        notes=tuple(session.model.notes),
    )


def _with_cache(parity: Parity, generated: Sequence[Generation]) -> Parity:
    """Parity also wants that a cache changes no logits, which is known without the serial model."""
    cached = [each for each in generated if each.kv_cache]
    errors = [each.cache_max_rel_err.value for each in cached]
    tolerance = parity.tolerance or 0.0
    broken = [error for error in errors if error is None or error > tolerance]
    if not broken or (parity.steps and not parity.passed):
        return parity
    told = f"{broken[0]:.2g}" if broken[0] is not None else "something that is not finite"
    reason = f"logits with the key-value cache differ from those without by {told}"
    return parity.changed(passed=False, reason=reason, steps=parity.steps or cached[0].num_sequences)


def _error(parity: Parity) -> Error:
    remedy = "compare `outputs` and `parity` in summary.json; allow more by infer.min_top1_agreement or "
    remedy += "measure.parity_tolerance only if the answers are good enough for you"
    return Error(kind="parity", message=parity.reason or "", remedy=remedy)
