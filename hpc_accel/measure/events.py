"""What measurement asks of others' records: a named piece of time, and one communication operation.

Any object with these fields will do; times are nanoseconds of the rank's own clock unless a function says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Interval = tuple[int, int]
"""[start_ns, end_ns)."""


class Span(Protocol):
    """A named piece of the training thread's time; spans of one rank nest or follow each other."""

    @property
    def name(self) -> str: ...
    @property
    def start_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...


class CommEvent(Protocol):
    """An operation of the process group's timeline."""

    @property
    def op(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def peer(self) -> int | None: ...
    @property
    def enqueued_ns(self) -> int: ...
    @property
    def started_ns(self) -> int: ...
    @property
    def ended_ns(self) -> int: ...
    @property
    def waited_ns(self) -> Sequence[Interval]: ...
    @property
    def via_future(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A span of our own making."""

    name: str
    start_ns: int
    end_ns: int
