"""When each phase of a step began and ended, on one nanosecond clock for CPU and CUDA.

On CUDA the host runs ahead of the device, so phases are bracketed by events and placed on the host's clock
afterwards, relative to an event recorded while both were synchronised.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch


class Span(NamedTuple):
    """One phase of one step: `time.perf_counter_ns()` at both ends.

    A tuple, because several are made in every step, right after it has taken the processor's caches.
    """

    name: str
    start_ns: int
    end_ns: int

    @property
    def duration_ns(self) -> int:
        """Nanoseconds from start to end."""
        return self.end_ns - self.start_ns


class _Phase:
    """One phase being timed. A class, because a generator would cost several times as much at every step."""

    __slots__ = ("_found", "_name", "_start_ns")

    def __init__(self, found: list[Span], name: str) -> None:
        self._found, self._name = found, name

    def __enter__(self) -> None:
        self._start_ns = time.perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        self._found.append(Span(self._name, self._start_ns, time.perf_counter_ns()))


class HostClock:
    """Phases of a step that computes on the CPU."""

    def begin(self) -> None:
        """Start a step."""
        self._found: list[Span] = []
        self._begin_ns = time.perf_counter_ns()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Time what happens inside as `name`."""
        return _Phase(self._found, name)

    def finish(self) -> tuple[Span, list[Span]]:
        """The whole step and its phases."""
        found, self._found = self._found, []  # what a pipeline does between steps is nobody's phase
        return Span("step", self._begin_ns, time.perf_counter_ns()), found


class CudaClock:
    """Phases of a step that computes on a CUDA device, by events on the current stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def begin(self) -> None:
        """Start a step: synchronise once, so that host and device clocks have a common point."""
        torch.cuda.synchronize(self._device)
        self._marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._origin = self._event()
        self._begin_ns = time.perf_counter_ns()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what the device does for the calls inside as `name`."""
        start = self._event()
        try:
            yield
        finally:
            self._marks.append((name, start, self._event()))

    def finish(self) -> tuple[Span, list[Span]]:
        """Wait for the device, then place its events on the host's clock."""
        torch.cuda.synchronize(self._device)
        step = Span("step", self._begin_ns, time.perf_counter_ns())
        return step, [Span(name, self._host_ns(start), self._host_ns(end)) for name, start, end in self._marks]

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _host_ns(self, event: torch.cuda.Event) -> int:
        return self._begin_ns + round(self._origin.elapsed_time(event) * 1e6)


def make_clock(device: torch.device) -> HostClock | CudaClock:
    """The clock for `device`."""
    return CudaClock(device) if device.type == "cuda" else HostClock()
