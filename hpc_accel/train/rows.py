"""Steps as rows of steps.parquet: what one rank did in each, with communication taken out of what it interrupted.

A step is only kept as it happens and looked at when rows are asked for, which nobody does while steps are timed.
"""

from __future__ import annotations

import itertools
from typing import Any

from hpc_accel.measure.events import Interval, Piece
from hpc_accel.measure.phases import exposed_ns, union, waits, without
from hpc_accel.study.schema import Run
from hpc_accel.train.kept import Kept
from hpc_accel.train.step import StepResult


class Rows:
    """The rows of one rank, those of earlier attempts first."""

    def __init__(self, run: Run, rank: int, earlier: list[dict[str, Any]]) -> None:
        self._run = run
        self._rank = rank
        self._rows = list(earlier)
        self._num_earlier = len(earlier)
        self.seen = Kept()
        """The steps of this attempt."""

    def add(self, step: int, warmup: bool, result: StepResult, events: list[Any] | None) -> None:
        """Keep a step. `events` are its communication events, None where the backend reports none."""
        self.seen.add(step, warmup, result, events)

    def all(self) -> list[dict[str, Any]]:
        """Every row so far."""
        done = len(self._rows) - self._num_earlier
        for step, warmup, result, events in itertools.islice(self.seen, done, None):
            self._rows.append(self._row(step, warmup, result, events))
        return self._rows

    def doing(self, windows: list[Interval]) -> list[Piece]:
        """What this rank did during the timed steps: compute, comm_exposed, pipeline_wait, and idle for the rest.

        `windows` are the intervals the steps were timed in. Without communication events waiting looks like computing.
        """
        working: list[Interval] = []
        blocked: dict[str, list[Interval]] = {"comm_exposed": [], "pipeline_wait": []}
        for _, warmup, result, events in self.seen:
            if warmup:
                continue
            working += [(span.start_ns, span.end_ns) for span in result.phases]
            if events:
                found = waits(events, result.step.start_ns, result.step.end_ns)
                blocked["comm_exposed"] += found.collective
                blocked["pipeline_wait"] += found.point_to_point
        waiting = [interval for each in blocked.values() for interval in each]
        parts = {"compute": without(working, waiting), **blocked, "idle": without(windows, [*working, *waiting])}
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
        }


def busy_ms(row: dict[str, Any]) -> float:
    """What the rank computed in a step, without its waiting."""
    return sum(row[f"{name}_ns"] for name in ("data", "forward", "backward", "optimizer")) / 1e6
