"""Time that passes when a test says so, through the meter's own threads: a minute takes milliseconds and is exact.

The readers wait for requests as always. `sleep` waits until all of them do, sets the clock to the moment at which the
first of them wants to read, wakes it, and goes on so until the time is over.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

START_NS = 1_000_000_000
TIME = object()
"""Wakes a reader whose moment has come."""
LIMIT_S = 20.0
"""Of real time, after which a reader that does not wait again is a failure."""


class VirtualClock:
    """A Clock for EnergyMeter. Functions in `on_change` are called with the seconds since its start."""

    def __init__(self) -> None:
        self.on_change: list[Callable[[float], None]] = []
        self._now_ns = START_NS
        self._changed = threading.Condition()
        self._readers: set[int] = set()
        self._waiting: dict[int, tuple[queue.SimpleQueue[Any], int | None]] = {}

    def now_ns(self) -> int:
        return self._now_ns

    @property
    def seconds(self) -> float:
        """Since the start."""
        return (self._now_ns - START_NS) * 1e-9

    def get(self, requests: queue.SimpleQueue[Any], until_ns: int | None) -> Any:
        with self._changed:
            self._readers.add(id(requests))
            self._waiting[id(requests)] = (requests, until_ns)
            self._changed.notify_all()
        found = requests.get()
        with self._changed:
            self._waiting.pop(id(requests), None)
            if found is None:  # the reader ends
                self._readers.discard(id(requests))
            self._changed.notify_all()
        if found is TIME:
            raise queue.Empty
        return found

    def sleep(self, duration_s: float) -> None:
        end_ns = self._now_ns + round(duration_s * 1e9)
        while True:
            with self._changed:
                idle = self._changed.wait_for(lambda: self._readers == set(self._waiting), LIMIT_S)
                assert idle, "a reader does not come back to wait"
                wanted = [(until, key) for key, (_, until) in self._waiting.items() if until is not None]
                until_ns, key = min(wanted, default=(end_ns + 1, 0))
                if until_ns > end_ns:
                    break
                requests, _ = self._waiting.pop(key)
                self._set(max(until_ns, self._now_ns))
                requests.put(TIME)
        self._set(end_ns)

    def _set(self, now_ns: int) -> None:
        self._now_ns = now_ns
        for function in self.on_change:
            function(self.seconds)
