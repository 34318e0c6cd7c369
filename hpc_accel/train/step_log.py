"""Steps kept small: what one rank saw of each, as integers in one array, about 0.3 KB a step, until somebody looks.

    step:    number, is warm-up, start, end, number of phases, number of events (-1: the backend reports none)
    phase:   name, start, end
    event:   operation, group, bytes, peer (-1: none), enqueued, started, ended, via future, number of waits
    wait:    start, end
    last:    whether the step has a loss on this rank, a learning rate, a norm of gradients

Python objects would take four times as much, and a run of many steps on many ranks must not fill its node. Names are
numbers in the order of their first use; the latest steps are also kept as they came.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from typing import Any

from hpc_accel.mpi.timeline import CommEvent
from hpc_accel.runtime.in_flight import StepResult
from hpc_accel.runtime.phase_timer import PhaseSpan

NUM_RECENT = 20
START = 2
"""Where a step's start stands among its numbers."""
StepEntry = tuple[int, bool, StepResult, list[Any] | None]
"""Number of the step, whether it is warm-up, its spans and loss, and its communication events."""


class _Ids(dict[str, int]):
    """A number for each name, in the order of their first use."""

    def __missing__(self, name: str) -> int:
        found = self[name] = len(self)
        return found


class StepLog:
    """All steps of one attempt, in order."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._figures = array("d")
        self._begins = array("q")
        self._ids = _Ids()
        self.recent: deque[StepEntry] = deque(maxlen=NUM_RECENT)

    def __len__(self) -> int:
        return len(self._begins)

    def add(self, step: int, warmup: bool, result: StepResult, events: list[Any] | None) -> None:
        """Keep a step; between two timed steps, so it is quick."""
        self.recent.append((step, warmup, result, events))
        ids, span = self._ids, result.step
        found = [step, warmup, span.start_ns, span.end_ns, len(result.phases), -1 if events is None else len(events)]
        for name, start_ns, end_ns in result.phases:
            found += (ids[name], start_ns, end_ns)
        for op, group, num_bytes, peer, enqueued_ns, started_ns, ended_ns, waits, via_future in events or ():
            found += (ids[op], ids[group], num_bytes, -1 if peer is None else peer)
            found += (enqueued_ns, started_ns, ended_ns, via_future, len(waits))
            for wait in waits:
                found += wait
        # Each may be NaN in earnest, so that there is none is a number of its own.
        figures = result.loss, result.learning_rate, result.grad_norm
        found += [each is not None for each in figures]
        self._begins.append(len(self._numbers))
        self._numbers.extend(found)
        self._figures.extend(math.nan if each is None else each for each in figures)

    def forget(self) -> None:
        """All but the latest, as they came."""
        self._numbers, self._figures, self._begins = array("q"), array("d"), array("q")

    def __iter__(self) -> Iterator[StepEntry]:
        return self.after(0)

    def since(self, start_ns: int) -> Iterator[StepEntry]:
        """Those that began at that time or later."""
        return self.after(bisect_left(self._begins, start_ns, key=lambda at: self._numbers[at + START]))

    def after(self, num_steps: int) -> Iterator[StepEntry]:
        """Those after the first `num_steps`."""
        if num_steps >= len(self):
            return
        numbers, at, names = self._numbers, self._begins[num_steps], list(self._ids)
        for number in range(num_steps, len(self)):
            figures = self._figures[3 * number : 3 * number + 3]
            step, warmup, start, end, num_phases, num_events = numbers[at : at + 6]
            at += 6
            phases = []
            for _ in range(num_phases):
                phases.append(PhaseSpan(names[numbers[at]], numbers[at + 1], numbers[at + 2]))
                at += 3
            events: list[CommEvent] | None = None if num_events < 0 else []
            for _ in range(max(0, num_events)):
                op, group, num_bytes, peer, enqueued, started, ended, via_future, num_waits = numbers[at : at + 9]
                at += 9
                waits = tuple((numbers[at + 2 * n], numbers[at + 2 * n + 1]) for n in range(num_waits))
                at += 2 * num_waits
                assert events is not None
                events.append(
                    CommEvent(
                        op=names[op],
                        group=names[group],
                        num_bytes=num_bytes,
                        peer=None if peer < 0 else peer,
                        enqueued_ns=enqueued,
                        started_ns=started,
                        ended_ns=ended,
                        waited_ns=waits,
                        via_future=bool(via_future),
                    )
                )
            known = [value if numbers[at + n] else None for n, value in enumerate(figures)]
            at += 3
            result = StepResult(PhaseSpan("step", start, end), phases, *known)
            yield step, bool(warmup), result, events
