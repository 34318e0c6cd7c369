"""Device events on the host's clock, `time.perf_counter_ns()`.

The host runs ahead of a device, so a call's inputs may be computed long after the call. Waiting and computing can
only be told apart at the times when the device got there. Those come from timed events, relative to an anchor: one
event whose time on the host is known, because the host stood waiting for it.
"""

from __future__ import annotations

import threading
import time
from functools import lru_cache
from typing import Any

import torch

MAX_ANCHOR_AGE_NS = 10 * 10**9
"""Clocks drift apart by tens of parts in a million, and elapsed_time() is a 32-bit float of milliseconds."""


class DeviceTimes:
    """One device's anchor. Any thread may use it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._anchor: tuple[Any, int] | None = None

    def mark(self, stream: Any) -> Any:
        """A timed event on `stream`. The first one, and one after a long pause, waits for the device once."""
        anchor = self._anchor
        if anchor is None or time.perf_counter_ns() - anchor[1] > MAX_ANCHOR_AGE_NS:
            self._set(event_on(stream, timed=True))
        return event_on(stream, timed=True)

    def mark_current(self) -> Any:
        """A timed event on the calling thread's current stream."""
        return self.mark(torch.accelerator.current_stream(self._device))

    def _set(self, event: Any) -> None:
        event.synchronize()
        with self._lock:
            self._anchor = event, time.perf_counter_ns()

    def host_ns(self, event: Any) -> int:
        """When the device reached `event`, which is waited for."""
        event.synchronize()
        with self._lock:
            assert self._anchor is not None  # mark() made one before it made `event`
            anchor, anchor_ns = self._anchor
        return anchor_ns + round(anchor.elapsed_time(event) * 1e6)


@lru_cache(maxsize=64)
def times_of(device: torch.device) -> DeviceTimes:
    """The one clock of a device."""
    return DeviceTimes(device)


def event_on(stream: Any, *, timed: bool = False) -> Any:
    """A new event after what is queued on `stream` now."""
    event = torch.Event(device=stream.device, enable_timing=timed)
    event.record(stream)
    return event
