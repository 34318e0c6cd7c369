"""What was communicated when: one event per operation, for the measurement of exposed communication.

Off by default; then an operation pays one attribute look-up. Times are time.perf_counter_ns().
"""

from __future__ import annotations

import threading
from typing import NamedTuple


class CommEvent(NamedTuple):
    """One completed operation of one process group, seen from this rank."""

    op: str
    group: str
    num_bytes: int
    peer: int | None
    enqueued_ns: int
    started_ns: int
    ended_ns: int
    waited_ns: tuple[tuple[int, int], ...]
    """Intervals in which the calling thread was blocked for this operation."""
    via_future: bool
    """Whether somebody took get_future(): then waiting happens out of our sight."""


class Record:
    """The event in the making; belongs to one work."""

    __slots__ = ("ended_ns", "enqueued_ns", "group", "num_bytes", "op", "peer", "started_ns", "via_future", "waited_ns")

    def __init__(self, op: str, group: str, num_bytes: int, peer: int | None, enqueued_ns: int) -> None:
        self.op, self.group, self.num_bytes, self.peer = op, group, num_bytes, peer
        self.enqueued_ns = self.started_ns = enqueued_ns
        self.ended_ns: int | None = None
        self.waited_ns: list[tuple[int, int]] = []
        self.via_future = False


_lock = threading.Lock()
_records: list[Record] = []
enabled = False


def enable() -> None:
    """Start collecting, with an empty list."""
    global enabled  # noqa: PLW0603  # read on every operation: a module attribute is the cheapest switch
    with _lock:
        _records.clear()
        enabled = True


def disable() -> None:
    """Stop collecting; what was collected can still be drained."""
    global enabled  # noqa: PLW0603  # read on every operation: a module attribute is the cheapest switch
    enabled = False


def add(record: Record) -> None:
    """Called in the order of enqueueing."""
    with _lock:
        _records.append(record)


def drain() -> list[CommEvent]:
    """Completed events in the order of enqueueing; those under way stay for the next call."""
    done: list[Record] = []
    left: list[Record] = []
    with _lock:
        for record in _records:  # looked at once: another thread may end it at any moment
            (left if record.ended_ns is None else done).append(record)
        _records[:] = left
    return [_event(record) for record in done]


def _event(record: Record) -> CommEvent:
    assert record.ended_ns is not None
    return CommEvent(
        op=record.op,
        group=record.group,
        num_bytes=record.num_bytes,
        peer=record.peer,
        enqueued_ns=record.enqueued_ns,
        started_ns=record.started_ns,
        ended_ns=record.ended_ns,
        waited_ns=tuple(record.waited_ns),
        via_future=record.via_future,
    )
