"""How much of a phase was communication: which of its time the training thread stood waiting.

A window is one phase of one step, [start_ns, end_ns). The events are those of the process group's
timeline (any object with its fields will do). Three ways to wait are told apart:

    wait() on a collective          waited intervals                        collective_ns
    a future nobody waits on        last bucket enqueued .. last one ended  collective_ns
    wait() on a send or receive     waited intervals                        point_to_point_ns

The second is how DistributedDataParallel overlaps: it enqueues a bucket as soon as its gradients exist and
returns from backward when all buckets are reduced. After the last bucket nothing is left to compute, so
what follows is exposed. Communication outside these intervals ran beside computation: overlapped_ns.
Nothing is counted twice: the three never sum to more than the window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpc_accel.measure.events import CommEvent, Interval

POINT_TO_POINT = ("send", "recv", "isend", "irecv")


@dataclass(frozen=True, kw_only=True, slots=True)
class Exposure:
    """Waiting within one window, and communication hidden behind computation."""

    collective_ns: int
    point_to_point_ns: int
    overlapped_ns: int


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same points of time as disjoint intervals in order; empty and backward ones vanish."""
    merged: list[Interval] = []
    for start, end in sorted(interval for interval in intervals if interval[1] > interval[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def clip(intervals: Iterable[Interval], start_ns: int, end_ns: int) -> list[Interval]:
    """The part of each interval that lies within the window."""
    return [(max(start, start_ns), min(end, end_ns)) for start, end in intervals if start < end_ns and end > start_ns]


def length_ns(intervals: Iterable[Interval]) -> int:
    """Total length of the union."""
    return sum(end - start for start, end in union(intervals))


def without_ns(intervals: Sequence[Interval], removed: Sequence[Interval]) -> int:
    """Length of `intervals` outside `removed`: |A or B| - |B|."""
    return length_ns([*intervals, *removed]) - length_ns(removed)


def without(intervals: Iterable[Interval], removed: Iterable[Interval]) -> list[Interval]:
    """`intervals` outside `removed`, disjoint and in order."""
    found: list[Interval] = []
    holes, index = union(removed), 0
    for start, end in union(intervals):
        while index < len(holes) and holes[index][1] <= start:
            index += 1
        begin, at = start, index
        while at < len(holes) and holes[at][0] < end:
            if holes[at][0] > begin:
                found.append((begin, holes[at][0]))
            begin, at = max(begin, holes[at][1]), at + 1
        if begin < end:
            found.append((begin, end))
    return found


def is_point_to_point(op: str) -> bool:
    """Whether an operation has one peer: send, recv and their variants (recv_any_source)."""
    return op.lower().startswith(POINT_TO_POINT)


def _reaches(event: CommEvent, start_ns: int) -> bool:
    """Whether anything of the event lies after the window's start: most events do not, and are soon done with."""
    return event.ended_ns > start_ns or any(end > start_ns for _, end in event.waited_ns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """When the thread stood waiting within one window, and when anything was under way; disjoint, in order."""

    collective: list[Interval]
    point_to_point: list[Interval]
    active: list[Interval]


def waits(events: Iterable[CommEvent], start_ns: int, end_ns: int) -> Waits:
    """The intervals behind `exposed_ns`; what is both counts as collective."""
    collective: list[Interval] = []
    point_to_point: list[Interval] = []
    active: list[Interval] = []
    unwaited: list[CommEvent] = []
    for event in events:
        if event.enqueued_ns >= end_ns or not _reaches(event, start_ns):
            continue
        active.append((event.started_ns, event.ended_ns))
        if is_point_to_point(event.op):
            point_to_point.extend(event.waited_ns)
            continue
        collective.extend(event.waited_ns)
        if event.via_future and not event.waited_ns and start_ns <= event.enqueued_ns < end_ns:
            unwaited.append(event)
    if unwaited:
        collective.append((max(event.enqueued_ns for event in unwaited), max(event.ended_ns for event in unwaited)))
    blocked = union(clip(collective, start_ns, end_ns))
    return Waits(
        collective=blocked,
        point_to_point=without(clip(point_to_point, start_ns, end_ns), blocked),
        active=union(clip(active, start_ns, end_ns)),
    )


def exposed_ns(events: Iterable[CommEvent], start_ns: int, end_ns: int) -> Exposure:
    """Exposed and overlapped communication of one phase."""
    found = waits(events, start_ns, end_ns)
    return Exposure(
        collective_ns=length_ns(found.collective),
        point_to_point_ns=length_ns(found.point_to_point),
        overlapped_ns=without_ns(found.active, [*found.collective, *found.point_to_point]),
    )
