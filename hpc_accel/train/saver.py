"""When a run saves, what it hands over, and what came of it, as its record tells it. Collective throughout."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from hpc_accel.errors import InputOutputError, RetryableError
from hpc_accel.measure.energy.figure import EnergyFigure
from hpc_accel.record.figure import Count
from hpc_accel.record.parts import Checkpoints
from hpc_accel.runtime.phase_timer import PhaseSpan
from hpc_accel.train import rank_state
from hpc_accel.train.attempt_log import Measured
from hpc_accel.train.interval import Interval, interval
from hpc_accel.train.rows import Rows
from hpc_accel.train.saving import Outcome
from hpc_accel.train.setup import Session
from hpc_accel.train.state import State

BYTES_PER_PARAMETER = 12
"""In fp32 with Adam's two moments: a guess for the time before the first save."""
TRAINING_S = 600.0
"""A measurement begins anew at little cost; of a training nobody wants to lose hours, whatever is likely."""
NO_CHECKPOINT = "no checkpoint after step"


class Saver:
    """The saves of one attempt."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.spans: list[PhaseSpan] = []
        """When training stood still to save."""
        self._state = State(session.stepper)
        self._notes: list[str] = list(session.earlier["notes"])
        self._done: list[Outcome] = []
        self._stood_ns = 0
        self._interval = Interval(seconds=None, reason="")

    def next_pause(self, done: int, total: int, step_s: float) -> int:
        """The step to save after, of those after `done`; at most `total`. Rank 0's times hold for all."""
        every = self.session.run.checkpoint.every_steps
        if every is not None:
            self._interval = Interval(seconds=None, reason=f"every {every} steps, as the study says")
            return min(total, (done // every + 1) * every)
        self._interval = self._best()
        num_steps = total - done
        if self._interval.seconds is not None:
            num_steps = max(1, math.ceil(self._interval.seconds / max(step_s, 1e-9)))
        return min(total, done + int(self.session.comm.bcast(num_steps, root=0)))

    def _best(self) -> Interval:
        session, nodes = self.session, self.session.run.resources.num_nodes
        model = session.stepper.model
        num_parameters = sum(math.prod(model.shapes[name]) for name in set(model.names.values()))
        found = interval(
            [each.took_ms / 1e3 for each in self._done if not each.reason],
            state_bytes_per_node=num_parameters * BYTES_PER_PARAMETER / nodes,
            num_nodes=nodes,
            node_mtbf_h=session.run.checkpoint.node_mtbf_h,
            time_limit_min=session.run.resources.time_limit_min,
        )
        if session.run.production is not None and (found.seconds is None or found.seconds > TRAINING_S):
            told = f"every {TRAINING_S:.0f} s, the most that a training may lose; {found.reason}"
            return Interval(seconds=TRAINING_S, reason=told)
        return found

    def save(
        self,
        step: int,
        *,
        rows: Rows,
        windows: Sequence[EnergyFigure],
        stopping: bool,
        **values: Any,
    ) -> None:
        """After `settle`: save the finite state after `step` steps. `values` are told to the next attempt as well.

        Raises RetryableError when the run was asked to stop and is saved, InputOutputError when it could not be.
        """
        session = self.session
        told = {
            **rank_state.values_of(session.stepper),
            **values,
            "attempt": session.attempt,
            "split": session.split,
            "started_from": session.started_from,
            "notes": self._notes,
        }
        measured = Measured(rows=rows, windows=[window.as_dict() for window in windows])
        known = session.checkpoints.begin(step, self._state, told, measured)
        if stopping and (last := session.checkpoints.finish()):
            known.append(last)
        self.spans.append(PhaseSpan("checkpoint", self._stood_ns, time.perf_counter_ns()))
        for outcome in known:
            self._note(outcome)
        if stopping:
            _stop(step, next((each.reason for each in known if each.step == step), ""))

    @property
    def stood_s(self) -> float:
        """How long training stood still for the saves of this attempt."""
        return sum(span.duration_ns for span in self.spans) / 1e9

    def look(self) -> None:
        """After each step: note a save that has ended."""
        self._note(self.session.checkpoints.look())

    def settle(self) -> None:
        """Wait for a save that is under way: before the next one, before the state is checked and may end the run."""
        self._stood_ns = time.perf_counter_ns()
        self._note(self.session.checkpoints.finish())

    def finish(self) -> None:
        """Before the run ends: the same, and it counts as time that training stood still."""
        known = len(self._done)
        self.settle()
        if len(self._done) > known:
            self.spans.append(PhaseSpan("checkpoint", self._stood_ns, time.perf_counter_ns()))

    def _note(self, outcome: Outcome | None) -> None:
        if outcome is None:
            return
        self._done.append(outcome)
        if outcome.reason:
            self._notes.append(f"{NO_CHECKPOINT} {outcome.step}: {outcome.reason}")

    def told(self) -> Checkpoints:
        """What was saved, and where this attempt went on from."""
        session = self.session
        return Checkpoints(
            num_saved=sum(not each.reason for each in self._done),
            save_ms=tuple(span.duration_ns / 1e6 for span in self.spans),
            written_ms=tuple(each.took_ms for each in self._done if not each.reason),
            asynchronous=session.run.checkpoint.asynchronous,
            interval=self._interval.reason,
            resumed_from_step=Count.of(session.first_step or None, "the run began at its first step"),
            started_from=session.started_from,
            attempts=session.attempt,
            notes=tuple(self._notes),
        )


def _stop(step: int, reason: str) -> None:
    if reason:
        raise InputOutputError(
            f"checkpoint after step {step}: {reason}",
            "a run that is asked to stop saves where it is",
            "make room in the results directory; an earlier checkpoint, if there is one, is still whole",
        )
    raise RetryableError(
        f"asked to stop: saved after step {step}",
        "a run that gets SIGUSR1 saves a checkpoint and ends",
        "start it again: it goes on from there",
    )
