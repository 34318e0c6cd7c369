"""One server and its queue: it takes what waits, up to a batch, and never waits for a batch to fill.

    arrivals   | |||  |        |      scheduled beforehand
    server     [1][ 3  ][1]    [1]    a batch is what has arrived when the server becomes free

A request is in the queue from its scheduled time on, whatever the server does at that time. No second thread plays the
clients: it would compete with the server for the interpreter, and a late wake-up would hide waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

SPIN_NS = 200_000
"""The last part of a wait is spent looking at the clock: a sleep may end that much late."""


class Clock(Protocol):
    """What the queue needs of time; a test brings its own."""

    def now_ns(self) -> int:
        """The time."""
        ...

    def wait_until(self, at_ns: int) -> None:
        """Return at `at_ns` or later; at once when that is past."""
        ...


class WallClock:
    """This process's monotonic clock."""

    def now_ns(self) -> int:
        """Nanoseconds of `time.perf_counter_ns`."""
        return time.perf_counter_ns()

    def wait_until(self, at_ns: int) -> None:
        """Sleep, then spin."""
        while (left_ns := at_ns - time.perf_counter_ns()) > 0:
            if left_ns > SPIN_NS:
                time.sleep((left_ns - SPIN_NS) * 1e-9)


@dataclass(frozen=True, kw_only=True)
class Log:
    """What happened to each request, int64 [num_requests] each, times in nanoseconds from the start of the window."""

    scheduled_ns: np.ndarray
    started_ns: np.ndarray
    ended_ns: np.ndarray
    batch: np.ndarray
    """Requests computed together with this one, itself included."""

    @property
    def latency_ms(self) -> np.ndarray:
        """From the scheduled arrival to the answer: waiting counts, whoever caused it."""
        return (self.ended_ns - self.scheduled_ns) / 1e6


def serve(scheduled_ns: np.ndarray, batch_size: int, forward: Callable[[int, int], None], clock: Clock) -> Log:
    """Serve all scheduled requests in order. `forward(first, count)` computes requests first to first + count - 1."""
    num_requests, done = len(scheduled_ns), 0
    started, ended, batch = (np.zeros(num_requests, dtype=np.int64) for _ in range(3))
    origin_ns = clock.now_ns()
    while done < num_requests:
        clock.wait_until(origin_ns + int(scheduled_ns[done]))
        now_ns = clock.now_ns() - origin_ns
        arrived = int(np.searchsorted(scheduled_ns, now_ns, side="right"))
        end = min(max(arrived, done + 1), done + batch_size)
        forward(done, end - done)
        started[done:end] = now_ns
        ended[done:end] = clock.now_ns() - origin_ns
        batch[done:end] = end - done
        done = end
    return Log(scheduled_ns=scheduled_ns, started_ns=started, ended_ns=ended, batch=batch)
