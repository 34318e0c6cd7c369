"""When each phase of a step began and ended on a CUDA device, without making the host wait for the device.

    host     begin  launch ......  finish | begin  launch ......  finish
    device          [data|forward|backward|optimizer] [data|forward ...
    events   ^      ^    ^       ^        ^         ^

Every mark is an event on the current stream. It is placed on the host's clock by its distance from an origin: an event
recorded while the device was idle, so that both clocks could be read at one moment. They drift apart by some
microseconds a second, and distances lose digits, so an origin is used for one second only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from hpc_accel.runtime.phase_timer import PhaseSpan, Timing

MAX_ORIGIN_AGE_NS = 10**9


class _Origin(NamedTuple):
    """One moment, as an event of the device and on the host's clock."""

    event: torch.cuda.Event
    host_ns: int

    def host_ns_of(self, event: torch.cuda.Event) -> int:
        """When a completed event happened, on the host's clock."""
        return self.host_ns + round(self.event.elapsed_time(event) * 1e6)


class CudaTimer:
    """Phases of a step that computes on a CUDA device, by events on the current stream."""

    num_ahead = 1
    """Steps that may be under way beside the one the host launches: enough to hide what it does between them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._origin: _Origin | None = None

    def begin(self) -> None:
        """Start a step."""
        if self._origin is None or time.perf_counter_ns() - self._origin.host_ns > MAX_ORIGIN_AGE_NS:
            self._origin = self._synchronised()
        self._marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._start = self._event()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what the device does for the calls inside as `name`; where it has nothing to do, what the host does."""
        start = self._event()
        try:
            yield
        finally:
            self._marks.append((name, start, self._event()))

    def finish(self) -> Timing:
        """The whole step and its phases, once the device has come to its end."""
        assert self._origin is not None
        origin, marks, start, end = self._origin, self._marks, self._start, self._event()
        self._marks = []  # what a pipeline does between steps is nobody's phase

        def timing() -> tuple[PhaseSpan, list[PhaseSpan]]:
            end.synchronize()
            at = origin.host_ns_of
            return PhaseSpan("step", at(start), at(end)), [
                PhaseSpan(name, at(begin), at(stop)) for name, begin, stop in marks
            ]

        return timing

    def settle(self) -> None:
        """Nothing is under way: the next step takes a new origin, so that it begins after whatever happens now."""
        self._origin = None

    def _synchronised(self) -> _Origin:
        torch.cuda.synchronize(self._device)
        return _Origin(self._event(), time.perf_counter_ns())

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
