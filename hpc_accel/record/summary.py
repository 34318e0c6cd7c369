"""The whole record of one run, and that of an attempt whose ranks could not write one."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from hpc_accel.record.energy import Energy
from hpc_accel.record.figure import Estimate, Fraction, OwnUnit, Part, PerSecond, Whole
from hpc_accel.record.inference import Inference, Outputs
from hpc_accel.record.parts import (
    Checkpoints,
    Disturbance,
    Error,
    Flops,
    Losses,
    Memory,
    Metric,
    Parity,
    Phases,
    Startup,
    Status,
    Steps,
    Straggler,
    Target,
)
from hpc_accel.record.production import Production
from hpc_accel.record.text import Facts, Text
from hpc_accel.study.run import Run

FORMAT = 5
"""Raised whenever a key changes: a record of another format is not read."""


class Summary(Part):
    """summary.json. `steps`, `checkpoints`, `inference`, `outputs` are null where a run has none."""

    format: Literal[5] = 5
    run_id: Text
    study: Text
    site: Text
    mode: Literal["train", "infer"]
    status: Status
    error: Error | None
    device: Text | None
    device_name: Text | None
    num_nodes: Whole
    num_ranks: Whole
    num_threads_per_rank: Whole | None
    hosts: tuple[Text, ...]
    split: tuple[Whole, ...] | None
    started_utc: Text
    ended_utc: Text
    attempt: Whole
    job_id: Text | None
    steps: Steps | None
    step_time_ms: Estimate
    throughput_samples_per_s: PerSecond
    phases_ms: Phases
    bubble_fraction: Fraction
    bubble_ideal: Fraction
    startup_ms: Startup
    memory: Memory
    energy: Energy
    target: Target
    flops: Flops
    straggler: Straggler
    disturbance: Disturbance
    checkpoints: Checkpoints | None
    losses: Losses
    parity: Parity
    metric: Metric
    inference: Inference | None
    outputs: Outputs | None
    production: Production | None = None
    """Of a training to its end."""
    warnings: tuple[Text, ...]
    notes: dict[Text, Text]
    provenance: Facts

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.status not in ("completed", "wrong"):
            if self.error is None:
                raise ValueError(f"a {self.status} run has an error")
            return self
        if self.steps is None or self.step_time_ms.positive is None:
            raise ValueError(f"step_time_ms: a {self.status} run has steps, and a step time above 0")
        if self.mode == "infer" and (self.inference is None or self.outputs is None):
            raise ValueError(f"a {self.status} inference run has `inference` and `outputs`")
        return self


def without_result(
    run: Run,
    *,
    status: Status,
    error: Error,
    started_utc: str,
    ended_utc: str,
    attempt: int,
    job_id: str | None,
) -> Summary:
    """The record of an attempt whose ranks left none. Each figure's reason is how the attempt ended."""
    return nothing_measured(
        f"no result: {error.message}",
        run_id=run.run_id,
        study=run.study,
        site=run.site,
        mode="infer" if run.infer else "train",
        status=status,
        error=error,
        num_nodes=run.resources.num_nodes,
        num_ranks=run.resources.num_ranks,
        tolerance=run.measure.parity_tolerance,
    ).changed(started_utc=started_utc, ended_utc=ended_utc, attempt=attempt, job_id=job_id)


def nothing_measured(
    reason: str,
    *,
    run_id: str,
    study: str,
    site: str,
    mode: Literal["train", "infer"],
    status: Status,
    error: Error,
    num_nodes: int,
    num_ranks: int,
    tolerance: float | None = None,
) -> Summary:
    """A record in which every figure is missing for `reason`."""
    return Summary(
        run_id=run_id,
        study=study,
        site=site,
        mode=mode,
        status=status,
        error=error,
        device=None,
        device_name=None,
        num_nodes=num_nodes,
        num_ranks=num_ranks,
        num_threads_per_rank=None,
        hosts=(),
        split=None,
        started_utc="",
        ended_utc="",
        attempt=1,
        job_id=None,
        steps=None,
        step_time_ms=Estimate.missing(reason),
        throughput_samples_per_s=PerSecond.missing(reason),
        phases_ms=Phases.missing(reason),
        bubble_fraction=Fraction.missing(reason),
        bubble_ideal=Fraction.missing(reason),
        startup_ms=Startup.missing(reason),
        memory=Memory.missing(reason),
        energy=Energy.missing(reason),
        target=Target.missing(reason),
        flops=Flops.missing(reason),
        straggler=Straggler.missing(reason),
        disturbance=Disturbance.missing(reason),
        checkpoints=None,
        losses=Losses(final=OwnUnit.missing(reason)),
        parity=Parity(max_rel_err=None, tolerance=tolerance, steps=0, reference="none", passed=False, reason=reason),
        metric=Metric(value=None, reason=reason),
        inference=None,
        outputs=None,
        warnings=(),
        notes={},
        provenance={},
    )
