"""What was communicated when: one event per operation, for the measurement of exposed communication.

Off by default; then an operation pays one attribute look-up. Times are time.perf_counter_ns().

On a device, an operation counts as enqueued when its inputs were there, as waited for when the device had nothing else
left to do, and as ended when its results were there: the host runs ahead, and what it sees would be computing, too.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from hpc_accel.mpi.device_times import DeviceTimes


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
    """The event in the making; belongs to one work.

    `waits` are intervals in which the calling thread was blocked, each with the event by which the device had done
    what the thread had given it; None on the CPU, and where the thread was blocked from the call on.
    """

    __slots__ = (
        "done",
        "ended_ns",
        "enqueued_ns",
        "group",
        "num_bytes",
        "op",
        "peer",
        "ready",
        "started_ns",
        "times",
        "via_future",
        "waits",
    )

    def __init__(self, op: str, group: str, num_bytes: int, peer: int | None, enqueued_ns: int) -> None:
        self.op, self.group, self.num_bytes, self.peer = op, group, num_bytes, peer
        self.enqueued_ns = self.started_ns = enqueued_ns
        self.ended_ns: int | None = None
        self.waits: list[tuple[int, int, Any]] = []
        self.via_future = False
        self.times: DeviceTimes | None = None
        """The device's clock; None on the CPU. `ready` and `done` are its events."""
        self.ready: Any = None
        self.done: Any = None

    def reached(self) -> Any:
        """An event after what the calling thread has queued so far; None on the CPU."""
        return self.times.mark_current() if self.times is not None else None


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
    events = [_event(record) for record in done]
    if any(record.times is not None for record in done):
        events.sort(key=lambda event: event.enqueued_ns)  # streams of one device get there in an order of their own
    return events


def _event(record: Record) -> CommEvent:
    enqueued_ns, ended_ns = record.enqueued_ns, record.ended_ns
    assert ended_ns is not None
    waits = [(began_ns, end_ns) for began_ns, end_ns, _ in record.waits]
    if record.times is not None:
        host_ns = record.times.host_ns
        enqueued_ns = max(enqueued_ns, host_ns(record.ready))
        ended_ns = max(enqueued_ns, host_ns(record.done) if record.done is not None else ended_ns)
        # A send blocks the thread and not the device, which is why the thread's end of a wait counts for it.
        waits = [
            (
                max(began_ns, enqueued_ns, host_ns(reached) if reached is not None else 0),
                ended_ns if record.done is not None else end_ns,
            )
            for began_ns, end_ns, reached in record.waits
        ]
    return CommEvent(
        op=record.op,
        group=record.group,
        num_bytes=record.num_bytes,
        peer=record.peer,
        enqueued_ns=enqueued_ns,
        started_ns=max(record.started_ns, enqueued_ns),
        ended_ns=ended_ns,
        waited_ns=tuple((began_ns, end_ns) for began_ns, end_ns in waits if end_ns > began_ns),
        via_future=record.via_future,
    )
