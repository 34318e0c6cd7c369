"""What the meter and its readers need of time, so that a test can bring time of its own."""

from __future__ import annotations

import queue
import time
from typing import Protocol, TypeVar

Request = TypeVar("Request")


class Clock(Protocol):
    """The time of one process."""

    def now_ns(self) -> int:
        """Nanoseconds that never go back."""
        ...

    def sleep(self, duration_s: float) -> None:
        """Return after `duration_s`."""
        ...

    def get(self, requests: queue.SimpleQueue[Request], until_ns: int | None) -> Request:
        """The next request; raises queue.Empty when there was none by `until_ns`. None: wait for one."""
        ...


class WallClock:
    """This process's monotonic clock."""

    def now_ns(self) -> int:
        """Nanoseconds of `time.perf_counter_ns`."""
        return time.perf_counter_ns()

    def sleep(self, duration_s: float) -> None:
        """As `time.sleep`."""
        time.sleep(duration_s)

    def get(self, requests: queue.SimpleQueue[Request], until_ns: int | None) -> Request:
        """The next request; raises queue.Empty at `until_ns`."""
        timeout_s = None if until_ns is None else max(0.0, (until_ns - self.now_ns()) * 1e-9)
        return requests.get(timeout=timeout_s)
