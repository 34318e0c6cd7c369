"""Warm-up and timed steps inside energy windows: what one rank sees of its run. Collective throughout.

Between checkpoints the timed steps are one window; copying what is saved happens between windows, and a thread writes
it while the next steps run (saving.py). The last window goes on until it is long enough for the energy sensors, if the
study allows. A warning signal ends the loop with a checkpoint that the next attempt goes on from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpc_accel.measure import clock, peak_memory, stragglers, trace
from hpc_accel.measure.energy import gpus_in_use
from hpc_accel.measure.energy.combine_windows import combine
from hpc_accel.measure.energy.figure import EnergyFigure
from hpc_accel.measure.energy.meter import EnergyMeter, Window
from hpc_accel.mpi import node_memory, timeline
from hpc_accel.parallel import odd_parameters
from hpc_accel.record.parts import Checkpoints, Disturbance, Metric
from hpc_accel.runtime import hang
from hpc_accel.runtime.device import unused_gpus_here
from hpc_accel.runtime.disturbance import DisturbanceWatch
from hpc_accel.runtime.gpu_frequency import GpuFrequency
from hpc_accel.runtime.precision import arithmetic
from hpc_accel.runtime.randomness import digest_of_states, told_of_draws
from hpc_accel.runtime.set_frequencies import applied
from hpc_accel.runtime.stop import StopRequest
from hpc_accel.runtime.waiting import SAMPLE_HZ, quiet_barrier
from hpc_accel.train import faults
from hpc_accel.train.evaluate import evaluate
from hpc_accel.train.finite import refuse_broken_weights
from hpc_accel.train.production.evaluations import Evaluations
from hpc_accel.train.replicas import ReplicaWatch
from hpc_accel.train.rows import Rows
from hpc_accel.train.saver import Saver
from hpc_accel.train.setup import Session
from hpc_accel.train.step_table import StepTable, busy_ms

NUM_TRACED_STEPS = 5
"""The last steps, drawn whole in trace.json; every step is in steps.parquet."""


@dataclass(frozen=True, kw_only=True)
class Observations:
    """What one rank saw of its run, before it is gathered. `notes` say which record could not be written, and why."""

    rows: Rows
    energy: EnergyFigure
    draws: str
    """What is wrong with the random numbers that ranks drew in the first step; "" if nothing is."""
    peak_memory_bytes: int | None
    reserved_bytes: int | None
    device_used_bytes: int | None
    first_step_ms: float
    straggler: dict[str, Any]
    checkpoints: Checkpoints
    metric: Metric | None
    disturbance: Disturbance | None
    """On rank 0."""
    odd_parameters: tuple[str, ...]
    """Which parameters the layout does not treat like the rest."""
    no_shared_memory: tuple[str, ...]
    """A sentence for each node whose ranks could not share memory."""
    evaluations: Evaluations | None
    """Of a training to its end."""
    gpu_clock_note: str
    """What the GPU's clock was if not the one asked for; "" otherwise."""
    notes: dict[str, str]


def train(session: Session, progress: Callable[[int, int], None]) -> Observations:
    """Run the session's steps. `progress(done, total)` is called on every rank after each step.

    Raises RetryableError on all ranks after a warning signal, when the checkpoint to go on from is saved.
    """
    comm, directory = session.comm, session.directory
    session.hang.enter(hang.READY, session.first_step)
    faults.reach("ready", session.rank, session.first_step)
    base = clock.synchronise(comm)
    recipe = session.run.recipe
    with (
        arithmetic(recipe.precision),
        applied(recipe, session.device) as gpu_clock,
        EnergyMeter(comm, sample_hz=SAMPLE_HZ, gpu=gpus_in_use.uuid_of(session.device)) as meter,
    ):
        meter.measure_idle(session.run.measure.idle_s)
        steps = _Steps(session, meter, gpu_clock, progress)
        steps.run()
        session.hang.enter(hang.EVALUATION)
        peak_memory_bytes = steps.peak_memory_bytes()
        reserved_bytes = peak_memory.reserved_bytes(session.device)
        device_used_bytes = peak_memory.device_used_bytes(session.device)
        timebase = clock.Timebase(first=base, last=clock.synchronise(comm))
        rows = steps.rows.all()
        notes = {"energy.parquet": meter.write_samples(directory / "energy.parquet", timebase)}
        gpu_clock_note = gpu_clock.told(comm)
        disturbance = steps.disturbance.found(comm)
        traced = list(steps.rows.seen.recent)[-NUM_TRACED_STEPS:]
        spans = [span for _, _, result, _ in traced for span in (result.step, *result.phases)]
        spans += [span for span in steps.saver.spans if span.start_ns >= spans[0].start_ns]
        events = [event for *_, events in traced for event in events or []]
        notes["trace.json"] = trace.write(directory / "trace.json", comm, spans, events, meter.power_series(), timebase)
    notes["device"], notes["replicas"] = unused_gpus_here(session.run) or "", steps.replicas.note
    model = session.stepper.model
    whole = odd_parameters.whole_under_shard(model.modules) if session.run.layout.shard == "full" else []
    odd = odd_parameters.told(comm, whole, model.flow)
    straggler = stragglers.slowest(comm, float(np.median([busy_ms(row) for row in rows])))
    metric = steps.evaluations.metric if steps.evaluations is not None else None
    if steps.evaluations is None:
        with arithmetic(recipe.precision):
            metric = evaluate(session.stepper, session.workload, comm, session.run.measure.metric_samples)
    quiet_barrier(comm)
    return Observations(
        rows=rows,
        energy=combine(steps.windows),
        draws=steps.draws,
        peak_memory_bytes=peak_memory_bytes,
        reserved_bytes=reserved_bytes,
        device_used_bytes=device_used_bytes,
        first_step_ms=(steps.rows.first_step_ns or 0) / 1e6,
        straggler=straggler,
        checkpoints=steps.saver.told(),
        metric=metric,
        disturbance=disturbance,
        odd_parameters=odd,
        no_shared_memory=node_memory.missed(comm),
        evaluations=steps.evaluations,
        gpu_clock_note=gpu_clock_note,
        notes={name: why for name, why in notes.items() if why},
    )


class _Steps:
    """The steps of this attempt: from where an earlier one stopped, if one did."""

    def __init__(
        self, session: Session, meter: EnergyMeter, gpu_clock: GpuFrequency, progress: Callable[[int, int], None]
    ) -> None:
        self.session = session
        self.meter = meter
        self.gpu_clock = gpu_clock
        self.disturbance = DisturbanceWatch()
        self.progress = progress
        earlier = session.earlier
        self._instrumented = session.run.backend == "mpi4py"
        self.rows = StepTable(
            session.run, session.rank, earlier["rows"], timeline.drain if self._instrumented else None
        )
        self.evaluations: Evaluations | None = None
        if session.run.production is not None:
            self.evaluations = Evaluations(session, self.rows, timeline.drain if self._instrumented else None)
        self.windows: list[EnergyFigure] = list(earlier["windows"])
        self.saver = Saver(session)
        measure = session.run.measure
        self._total: int = earlier["total_steps"] or measure.warmup_steps + measure.steps
        self._stop = StopRequest(session.comm)
        self.replicas = ReplicaWatch(session.comm, session.place, session.stepper, explains=_explains_drift(session))
        self._earlier_peak_bytes: int | None = earlier["peak_memory_bytes"]
        self._done = session.first_step
        self.draws = ""

    def run(self) -> None:
        """All steps that are left."""
        session, measure = self.session, self.session.run.measure
        # A new process is cold again. At least one step is left to be timed, or the attempt would measure nothing.
        warm = max(measure.warmup_steps, min(self._done + measure.warmup_steps, self._total - 1))
        if self._instrumented:
            timeline.enable()
        peak_memory.reset_peak(session.device)
        if self._advance(warm, warmup=True):
            self._save(stopping=True)
        step_s = self._step_s()
        self._stop.pace(step_s)
        self.replicas.pace(session.comm, step_s)
        while self._done < self._total:
            pause = self.saver.next_pause(self._done, self._total, self._step_s())
            # Looking at the machine takes milliseconds, so it stands outside of the window.
            with self.disturbance.watched(), self.meter.window("timed") as window, self.gpu_clock.watched():
                stopping = self._advance(pause, warmup=False)
                while not stopping and self._done == self._total and (more := self._missing(window)):
                    self._total += more
                    stopping = self._advance(self._total, warmup=False)
                if session.device.type == "cuda":
                    torch.cuda.synchronize(session.device)
            self.windows.append(self._attributed(window))
            if self._done < self._total:
                self._save(stopping=stopping)
        self.session.hang.enter(hang.CHECKPOINT, self._done)
        self.saver.finish()
        self.replicas.look(now=True)
        if self.evaluations is not None:
            self.evaluations.finish()
        self.replicas.close()
        self._stop.close()
        if self._instrumented:
            timeline.disable()

    def _advance(self, until: int, *, warmup: bool) -> bool:
        """Steps up to `until`; true if the ranks agreed to stop before the run's last step."""
        session = self.session
        while self._done < until:
            session.hang.enter(hang.STEP, self._done)
            faults.reach("step", session.rank, self._done)
            before = digest_of_states() if self._done == session.first_step else None
            self.rows.add(self._done, warmup, session.stepper.step())
            if before is not None:
                self._compare_draws(before)
            self._done += 1
            self.progress(self._done, self._total)
            self.replicas.look()
            if self.evaluations is not None and self.evaluations.look(self._done, self._total):
                self._total = until = self._done
            if self._done % self._stop.every == 0:
                self.saver.look()
            if self._stop.agreed() and self._done < self._total:
                session.stepper.settle()
                return True
        session.stepper.settle()
        return False

    def _compare_draws(self, before: dict[str, str]) -> None:
        place, comm = self.session.place, self.session.comm
        mine = (place.dp_rank, place.pp_rank, place.tp_rank), before, digest_of_states()
        gathered = comm.gather(mine, root=0)
        if gathered is not None:
            self.draws = told_of_draws(*zip(*gathered, strict=True))

    def _missing(self, window: Window) -> int:
        """Steps still needed for the windows to hold enough updates of the sensors; rank 0's answer holds for all."""
        measure = self.session.run.measure
        allowed = measure.warmup_steps + (measure.max_steps or 0) - self._done
        if allowed <= 0:
            return 0
        needed_s = 1.02 * self.meter.min_window_s * (len(self.windows) + 1)
        missing_s = needed_s - sum(earlier.window_s or 0.0 for earlier in self.windows) - window.elapsed_s()
        typical_s = float(np.median([result.step.duration_ns for *_, result, _ in self.rows.seen.recent])) / 1e9
        more = min(allowed, math.ceil(missing_s / typical_s)) if missing_s > 0 else 0
        return int(self.session.comm.bcast(more, root=0))

    def _attributed(self, window: Window) -> EnergyFigure:
        """The window's energy with where its joules went: now, so that a later attempt knows it too. Collective."""
        key = gpus_in_use.uuid_of(self.session.device)
        return self.meter.attribute(window.result, self.rows.activity(window.interval_ns), key)

    def _step_s(self) -> float:
        """A typical step so far, else as forecast, for the pace of checks; the first one is too long to count."""
        recent = self.rows.seen.recent
        if len(recent) > 1:
            return recent[-1][2].step.duration_ns / 1e9
        forecast = self.evaluations.forecast if self.evaluations is not None else None
        expected_ms = forecast.step_time_ms.positive if forecast is not None else None
        return (expected_ms or 1e3) / 1e3

    def _save(self, *, stopping: bool) -> None:
        session = self.session
        session.hang.enter(hang.CHECKPOINT, self._done)
        self.saver.settle()  # a sound state counts, though the one that follows may not
        refuse_broken_weights(session.stepper, session.rank, self._done - 1)
        self.replicas.look(now=True)
        further: dict[str, Any] = {}
        if self.evaluations is not None:
            self.evaluations.note_saved(self._done)
            further["production"] = self.evaluations.state(self.saver.stood_s)
        self.saver.save(
            self._done,
            rows=self.rows.all(),
            windows=self.windows,
            stopping=stopping,
            peak_memory_bytes=self.peak_memory_bytes(),
            total_steps=self._total,
            **further,
        )
        self.rows.forget()

    def peak_memory_bytes(self) -> int | None:
        """The highest of all attempts."""
        peaks = (peak_memory.peak_bytes(self.session.device), self._earlier_peak_bytes)
        return max((peak for peak in peaks if peak is not None), default=None)


def _explains_drift(session: Session) -> str:
    """What is known already of why replicas may hold other weights; the same on all ranks."""
    if session.run.resources.node_kinds is not None:
        return "nodes of different kinds may round differently"
    parity = session.comm.bcast(session.checked.parity, root=0)
    # The record of a wrong run names the cause, which the end of the run would hide.
    return "the comparison with the serial run names the cause" if parity.steps and not parity.passed else ""
