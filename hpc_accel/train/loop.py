"""Warm-up, timed steps inside one energy window, then parity and the record. All ranks run this together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from hpc_accel.measure import memory
from hpc_accel.measure.energy import EnergyMeter
from hpc_accel.measure.phases import exposed_ns
from hpc_accel.mpi import timeline
from hpc_accel.train.clock import Span
from hpc_accel.train.parity import serial_losses
from hpc_accel.train.session import Session
from hpc_accel.train.step import StepResult

NUM_TRACED_STEPS = 5
"""Steps kept whole for the trace; every step is in steps.parquet."""


@dataclass
class Observations:
    """What one rank saw of its run, before it is gathered."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    comm_events: list[Any] = field(default_factory=list)
    energy: dict[str, Any] = field(default_factory=dict)
    reference_losses: list[float] | None = None
    peak_memory_bytes: int | None = None
    first_step_ms: float = 0.0
    samples: list[Any] = field(default_factory=list)


def train(session: Session, progress: Callable[[int, int], None]) -> Observations:
    """Run the session's steps. `progress(done, total)` is called on every rank after each step."""
    measure, seen = session.run.measure, Observations()
    total = measure.warmup_steps + measure.steps
    instrumented = session.run.backend == "mpi4py"
    memory.reset_peak(session.device)
    if instrumented:
        timeline.enable()

    def run_step(index: int) -> None:
        result = session.stepper.step()
        events = timeline.drain() if instrumented else None
        seen.rows.append(_row(session, index, result, events))
        if index >= total - NUM_TRACED_STEPS:
            seen.spans += [result.step, *result.phases]
            seen.comm_events += events or []
        progress(index + 1, total)

    began = time.perf_counter()
    for index in range(measure.warmup_steps):
        run_step(index)
        if index == 0:
            seen.first_step_ms = (time.perf_counter() - began) * 1e3
    meter = EnergyMeter(session.comm)
    with meter.window("timed") as window:
        for index in range(measure.warmup_steps, total):
            run_step(index)
            if index == 0:
                seen.first_step_ms = (time.perf_counter() - began) * 1e3
        if session.device.type == "cuda":
            torch.cuda.synchronize(session.device)
    seen.energy = window.result
    if instrumented:
        timeline.disable()
    seen.peak_memory_bytes = memory.peak_bytes(session.device)
    if session.rank == 0:
        seen.reference_losses = serial_losses(session.run, session.facts, session.device)
    quiet_barrier(session.comm)
    return seen


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
