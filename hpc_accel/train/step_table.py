"""Steps as rows of steps.parquet: what one rank did in each, with communication taken out of what it interrupted.

A step is only kept as it happens and looked at when rows are asked for, which nobody does while steps are timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hpc_accel.measure.events import Interval, Piece
from hpc_accel.measure.phases import exposed_ns, union, waits, without
from hpc_accel.mpi.timeline import CommEvent
from hpc_accel.runtime.in_flight import StepInFlight, StepResult
from hpc_accel.study.run import Run
from hpc_accel.train.finite import LossWatch
from hpc_accel.train.rows import Rows
from hpc_accel.train.step_log import StepLog

NUM_TOGETHER = 64
"""Steps after which their records are put in order, some tenths of a millisecond for all of them."""


class StepTable:
    """The rows of one rank, those of earlier attempts first.

    `drain` gives the communication events since the last call, None where the backend reports none. It is asked for
    many steps at once, because between two steps everything is slow: the step has taken the processor's caches.
    """

    def __init__(
        self,
        run: Run,
        rank: int,
        earlier: Sequence[dict[str, Any]],
        drain: Callable[[], Sequence[CommEvent]] | None = None,
    ) -> None:
        self._run = run
        self._rank = rank
        self._rows = earlier if isinstance(earlier, Rows) else Rows(earlier)
        self._num_taken = 0
        self.first_step_ns: int | None = None
        """Of this attempt."""
        self._drain = drain
        self._pending: list[tuple[int, bool, StepInFlight]] = []
        self._kept = StepLog()
        self._losses = LossWatch(rank, run.recipe.precision)

    def add(self, step: int, warmup: bool, launched: StepInFlight) -> None:
        """Keep a step; it is looked at when many have come together."""
        self._pending.append((step, warmup, launched))
        if len(self._pending) >= NUM_TOGETHER:
            self._flush()

    def _flush(self) -> None:
        """Give each pending step its events: those enqueued before the next step began, on a GPU both by its time."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        results = [launched.result() for _, _, launched in pending]  # first, as what is under way has no events yet
        events = self._drain() if self._drain is not None else None
        begins = [result.step.start_ns for result in results[1:]]
        at = 0
        for index, (step, warmup, _) in enumerate(pending):
            mine: list[CommEvent] | None = None
            if events is not None:
                first = at
                while at < len(events) and (index >= len(begins) or events[at].enqueued_ns < begins[index]):
                    at += 1
                mine = list(events[first:at])
            if self.first_step_ns is None:
                self.first_step_ns = results[index].step.duration_ns
            self._losses.see(step, results[index].loss)
            self._kept.add(step, warmup, results[index], mine)

    @property
    def seen(self) -> StepLog:
        """The steps of this attempt."""
        self._flush()
        return self._kept

    def all(self) -> Rows:
        """Every row so far."""
        for step, warmup, result, events in self.seen.after(self._num_taken):
            self._rows.append(self._row(step, warmup, result, events))
            self._num_taken += 1
        return self._rows

    def forget(self) -> None:
        """Keep only the rows of the steps so far: nobody asks for their activity any more."""
        self.all()
        self._kept.forget()
        self._num_taken = 0

    def activity(self, window: Interval) -> list[Piece]:
        """What this rank did in the window its latest steps were timed in: compute, comm_exposed, pipeline_wait, idle.

        Without communication events waiting looks like computing.
        """
        working: list[Interval] = []
        blocked: dict[str, list[Interval]] = {"comm_exposed": [], "pipeline_wait": []}
        for _, _, result, events in self.seen.since(window[0]):
            working += [(span.start_ns, span.end_ns) for span in result.phases]
            if events:
                found = waits(events, result.step.start_ns, result.step.end_ns)
                blocked["comm_exposed"] += found.collective
                blocked["pipeline_wait"] += found.point_to_point
        waiting = [interval for each in blocked.values() for interval in each]
        parts = {"compute": without(working, waiting), **blocked, "idle": without([window], [*working, *waiting])}
        return [Piece(name, *interval) for name, intervals in parts.items() for interval in union(intervals)]

    def _row(self, step: int, warmup: bool, result: StepResult, events: list[Any] | None) -> dict[str, Any]:
        durations: dict[str, int] = {"data": 0, "forward": 0, "backward": 0, "optimizer": 0}
        exposed = 0
        for span in result.phases:
            waited = 0
            if events is not None:
                waited = exposed_ns(events, span.start_ns, span.end_ns).collective_ns
            durations[span.name] += span.duration_ns - waited
            exposed += waited
        pipeline_wait = overlapped = None
        if events is not None:
            whole = exposed_ns(events, result.step.start_ns, result.step.end_ns)
            overlapped = whole.overlapped_ns
            pipeline_wait = whole.point_to_point_ns if self._run.layout.pp > 1 else None
        return {
            "step": step,
            "rank": self._rank,
            "warmup": warmup,
            "step_ns": result.step.duration_ns,
            **{f"{name}_ns": value for name, value in durations.items()},
            "comm_exposed_ns": exposed if events is not None else None,
            "pipeline_wait_ns": pipeline_wait,
            "comm_overlapped_ns": overlapped,
            "loss": result.loss,
            "learning_rate": result.learning_rate,
            "grad_norm": result.grad_norm,
        }


def busy_ms(row: dict[str, Any]) -> float:
    """What the rank computed in a step, without its waiting."""
    return sum(row[f"{name}_ns"] for name in ("data", "forward", "backward", "optimizer")) / 1e6
