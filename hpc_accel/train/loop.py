"""Warm-up, timed steps inside one energy window, then parity: what one rank sees of its run. Collective throughout.

Nothing is evaluated between the steps: communication events are kept as they come and looked at afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hpc_accel.measure import clock, memory, stragglers, trace
from hpc_accel.measure.energy import EnergyMeter
from hpc_accel.measure.phases import exposed_ns
from hpc_accel.mpi import timeline
from hpc_accel.train.parity import serial_losses
from hpc_accel.train.session import Session
from hpc_accel.train.step import StepResult

NUM_TRACED_STEPS = 5
"""The last steps, drawn whole in trace.json; every step is in steps.parquet."""
SAMPLE_HZ = 10.0
"""How often power is sampled; a full buffer of samples thins itself."""

Seen = list[tuple[StepResult, list[Any] | None]]
"""Steps in order, each with its communication events; None where the backend reports none."""


@dataclass(frozen=True, kw_only=True)
class Observations:
    """What one rank saw of its run, before it is gathered. `notes` say which record could not be written, and why."""

    rows: list[dict[str, Any]]
    energy: dict[str, Any]
    reference_losses: list[float] | None
    peak_memory_bytes: int | None
    first_step_ms: float
    straggler: dict[str, Any]
    notes: dict[str, str] = field(default_factory=dict)


def train(session: Session, progress: Callable[[int, int], None]) -> Observations:
    """Run the session's steps. `progress(done, total)` is called on every rank after each step."""
    comm, directory = session.comm, session.directory
    base = clock.synchronise(comm)
    with EnergyMeter(comm, sample_hz=SAMPLE_HZ) as meter:
        memory.reset_peak(session.device)
        seen, energy, first_step_ms = _run_steps(session, meter, progress)
        peak_memory_bytes = memory.peak_bytes(session.device)
        timebase = clock.Timebase(first=base, last=clock.synchronise(comm))
        rows = [_row(session, index, result, events) for index, (result, events) in enumerate(seen)]
        notes = {"energy.parquet": meter.write_samples(directory / "energy.parquet", timebase)}
        traced = seen[-NUM_TRACED_STEPS:]
        spans = [span for result, _ in traced for span in (result.step, *result.phases)]
        events = [event for _, events in traced for event in events or []]
        notes["trace.json"] = trace.write(directory / "trace.json", comm, spans, events, meter.power_series(), timebase)
    straggler = stragglers.slowest(comm, float(np.median([_busy_ms(row) for row in rows])))
    reference = serial_losses(session.run, session.device) if session.rank == 0 else None
    quiet_barrier(comm)
    return Observations(
        rows=rows,
        energy=energy,
        reference_losses=reference,
        peak_memory_bytes=peak_memory_bytes,
        first_step_ms=first_step_ms,
        straggler=straggler,
        notes={name: why for name, why in notes.items() if why},
    )


def _run_steps(
    session: Session, meter: EnergyMeter, progress: Callable[[int, int], None]
) -> tuple[Seen, dict[str, Any], float]:
    """All steps in order, the energy of the timed ones, and how long the first one took."""
    measure, seen = session.run.measure, []
    total = measure.warmup_steps + measure.steps
    instrumented = session.run.backend == "mpi4py"
    if instrumented:
        timeline.enable()

    def run_step(index: int) -> None:
        result = session.stepper.step()
        seen.append((result, timeline.drain() if instrumented else None))
        progress(index + 1, total)

    for index in range(measure.warmup_steps):
        run_step(index)
    with meter.window("timed") as window:
        for index in range(measure.warmup_steps, total):
            run_step(index)
        if session.device.type == "cuda":
            torch.cuda.synchronize(session.device)
    if instrumented:
        timeline.disable()
    return seen, window.result, seen[0][0].step.duration_ns / 1e6


def _busy_ms(row: dict[str, Any]) -> float:
    """What the rank computed in a step, without its waiting."""
    return sum(row[f"{name}_ns"] for name in ("data", "forward", "backward", "optimizer")) / 1e6


def quiet_barrier(comm: Any, poll_s: float = 0.01) -> None:
    """Wait for all ranks without spinning, so that the one that still computes has the cores to itself."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(poll_s)


def _row(session: Session, index: int, result: StepResult, events: list[Any] | None) -> dict[str, Any]:
    """One row of steps.parquet. Communication a rank waited for is taken out of the phase it waited in."""
    durations: dict[str, int] = {"data": 0, "forward": 0, "backward": 0, "optimizer": 0}
    exposed = 0
    for span in result.phases:
        waited = 0
        if events is not None:
            waited = exposed_ns(events, span.start_ns, span.end_ns).collective_ns
        durations[span.name] += span.duration_ns - waited
        exposed += waited
    pipeline_wait = None
    if events is not None and session.run.layout.pp > 1:
        pipeline_wait = exposed_ns(events, result.step.start_ns, result.step.end_ns).point_to_point_ns
    return {
        "step": index,
        "rank": session.rank,
        "warmup": index < session.run.measure.warmup_steps,
        "step_ns": result.step.duration_ns,
        **{f"{name}_ns": value for name, value in durations.items()},
        "comm_exposed_ns": exposed if events is not None else None,
        "pipeline_wait_ns": pipeline_wait,
        "loss": result.loss,
    }
