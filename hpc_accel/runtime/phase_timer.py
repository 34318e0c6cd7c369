"""When each phase of a step began and ended, in nanoseconds of the host's clock: here for a step on the CPU.

A step on a GPU is still under way when the host has launched it, so a clock gives its times when they are asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol


class PhaseSpan(NamedTuple):
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


Timing = Callable[[], tuple[PhaseSpan, list[PhaseSpan]]]
"""Gives a step and its phases, waiting for their end if need be."""


class PhaseTimer(Protocol):
    """Times one step after the other: begin, phases, finish."""

    num_ahead: int
    """Steps that may be under way beside the one being launched."""

    def begin(self) -> None:
        """Start a step."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Time what happens inside as `name`."""

    def finish(self) -> Timing:
        """End the step."""

    def settle(self) -> None:
        """Told that no step is under way, before something other than steps happens."""


class _Phase:
    """One phase being timed. A class, because a generator would cost several times as much at every step."""

    __slots__ = ("_found", "_name", "_start_ns")

    def __init__(self, found: list[PhaseSpan], name: str) -> None:
        self._found, self._name = found, name

    def __enter__(self) -> None:
        self._start_ns = time.perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        self._found.append(PhaseSpan(self._name, self._start_ns, time.perf_counter_ns()))


class HostTimer:
    """Phases of a step that computes on the CPU."""

    num_ahead = 0

    def begin(self) -> None:
        """Start a step."""
        self._found: list[PhaseSpan] = []
        self._begin_ns = time.perf_counter_ns()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Time what happens inside as `name`."""
        return _Phase(self._found, name)

    def finish(self) -> Timing:
        """The whole step and its phases."""
        step = PhaseSpan("step", self._begin_ns, time.perf_counter_ns())
        found, self._found = self._found, []  # what a pipeline does between steps is nobody's phase
        return lambda: (step, found)

    def settle(self) -> None:
        """Nothing is ever under way here."""
