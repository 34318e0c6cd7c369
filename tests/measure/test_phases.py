"""Exposed communication from hand-made events: what counts, what does not, and nothing twice."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from hpc_accel.measure.phases import Exposure, exposed_ns, union, without


@dataclass(frozen=True)
class Event:
    op: str = "allreduce"
    enqueued_ns: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    waited_ns: tuple[tuple[int, int], ...] = ()
    via_future: bool = False


def test_nothing_happened():
    assert exposed_ns([], 0, 100) == Exposure(collective_ns=0, point_to_point_ns=0, overlapped_ns=0)


def test_a_waited_collective_counts_only_where_the_thread_waited():
    event = Event(enqueued_ns=10, started_ns=10, ended_ns=60, waited_ns=((40, 60),))
    assert exposed_ns([event], 0, 100) == Exposure(collective_ns=20, point_to_point_ns=0, overlapped_ns=30)


def test_waiting_is_cut_at_the_window():
    event = Event(started_ns=0, ended_ns=300, waited_ns=((50, 250),))
    assert exposed_ns([event], 100, 200).collective_ns == 100


def test_overlapping_waits_count_once():
    events = [Event(waited_ns=((10, 30),)), Event(waited_ns=((20, 50),)), Event(waited_ns=((90, 80),))]
    assert exposed_ns(events, 0, 100).collective_ns == 40


def test_buckets_are_exposed_from_the_last_enqueueing_to_the_last_end():
    buckets = [
        Event(enqueued_ns=20, started_ns=20, ended_ns=50, via_future=True),
        Event(enqueued_ns=70, started_ns=70, ended_ns=95, via_future=True),
    ]
    assert exposed_ns(buckets, 0, 100) == Exposure(collective_ns=25, point_to_point_ns=0, overlapped_ns=30)


def test_a_future_that_is_waited_on_counts_as_waited():
    event = Event(enqueued_ns=10, started_ns=10, ended_ns=90, waited_ns=((80, 90),), via_future=True)
    assert exposed_ns([event], 0, 100).collective_ns == 10


def test_buckets_of_another_backward_do_not_count_here():
    event = Event(enqueued_ns=10, started_ns=10, ended_ns=150, via_future=True)
    assert exposed_ns([event], 100, 200).collective_ns == 0


def test_stage_waits_are_apart_from_collectives():
    events = [
        Event(op="recv", started_ns=0, ended_ns=40, waited_ns=((10, 40),)),
        Event(op="send", started_ns=40, ended_ns=45),
        Event(op="allreduce", started_ns=50, ended_ns=60, waited_ns=((50, 60),)),
    ]
    assert exposed_ns(events, 0, 100) == Exposure(collective_ns=10, point_to_point_ns=30, overlapped_ns=15)


def test_the_parts_never_exceed_the_window():
    rng = random.Random(1)
    for _ in range(300):
        events = []
        for _ in range(rng.randrange(6)):
            times = sorted(rng.randrange(200) for _ in range(4))
            waited = ((times[2], times[3]),) if rng.random() < 0.5 else ()
            op = rng.choice(["allreduce", "recv", "send"])
            events.append(Event(op, times[0], times[1], times[3], waited, rng.random() < 0.5))
        found = exposed_ns(events, 50, 150)
        parts = (found.collective_ns, found.point_to_point_ns, found.overlapped_ns)
        assert min(parts) >= 0
        assert sum(parts) <= 100


def test_union_merges_touching_intervals():
    assert union([(5, 7), (1, 3), (3, 4), (9, 9)]) == [(1, 4), (5, 7)]


def test_removed_intervals_leave_what_is_beside_them():
    rng = random.Random(5)
    for _ in range(200):
        some, holes = (
            [(start, start + rng.randrange(0, 9)) for start in rng.choices(range(60), k=6)] for _ in range(2)
        )
        left = without(some, holes)
        points = {point for start, end in left for point in range(start, end)}
        inside = {point for start, end in some for point in range(start, end)}
        assert points == inside - {point for start, end in holes for point in range(start, end)}
        assert all(before[1] < after[0] for before, after in itertools.pairwise(left))
