"""One clock and one trace for all ranks, checked by what a viewer relies on."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpc_accel.measure.clock import ClockOffset, Timebase
from hpc_accel.measure.trace import lanes
from tests.mpirun import check, mpirun

HERE = Path(__file__).parent
NUM_RANKS = 5
MS = 1000


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trace")
    output = check(mpirun(NUM_RANKS, [HERE / "trace_ranks.py", directory], timeout_s=60))
    reports = json.loads(output.strip().splitlines()[-1])
    return directory, reports


@pytest.fixture(scope="module")
def events(written):
    return json.loads((written[0] / "trace.json").read_text())["traceEvents"]


@pytest.mark.mpi
def test_clocks_an_hour_apart_are_found_within_the_stated_error(written):
    for rank, report in enumerate(written[1]):
        assert abs(report["offset_ns"]) <= report["error_ns"]
        assert (report["error_ns"] == 0) == (rank % 2 == 0), "ranks of one clock share it exactly"


@pytest.mark.mpi
def test_each_rank_has_its_phases_and_its_communication(events):
    slices = [event for event in events if event["ph"] == "X"]
    for rank in range(NUM_RANKS):
        mine = [event for event in slices if event["pid"] == rank]
        assert [event["name"] for event in mine if event["tid"] == 0] == ["step", "forward", "backward"]
        assert sorted(event["name"] for event in mine if event["tid"] > 0) == ["allreduce", "recv", "send"]
    assert min(event["ts"] for event in slices) == pytest.approx(0, abs=0.01)
    assert max(event["ts"] + event["dur"] for event in slices) < 30_000 * MS, "no clock an hour ahead is left"


@pytest.mark.mpi
def test_an_event_of_all_ranks_stands_at_one_time(events, written):
    error_us = 2 * max(report["error_ns"] for report in written[1]) / 1000
    sends = [event["ts"] for event in events if event["ph"] == "X" and event["name"] == "backward"]
    assert max(sends) - min(sends) < error_us + 100 * MS


@pytest.mark.mpi
def test_every_arrow_has_two_ends_inside_slices_of_the_right_ranks(events):
    arrows = defaultdict(dict)
    for event in events:
        if event["ph"] in "sf":
            arrows[event["id"]][event["ph"]] = event
    assert len(arrows) == NUM_RANKS
    for arrow in arrows.values():
        assert arrow["f"]["pid"] == (arrow["s"]["pid"] + 1) % NUM_RANKS
        assert arrow["f"]["bp"] == "e"
        for end in arrow.values():
            around = [
                event for event in events
                if event["ph"] == "X" and (event["pid"], event["tid"]) == (end["pid"], end["tid"])
                and event["ts"] <= end["ts"] <= event["ts"] + event["dur"]
            ]  # fmt: skip
            assert around


@pytest.mark.mpi
def test_slices_of_one_track_nest_or_follow(events):
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for found in tracks.values():
        for (a0, a1), (b0, b1) in itertools.pairwise(found):
            assert b0 >= a1 - 0.01 or (b0 >= a0 and b1 <= a1 + 0.01) or a0 >= b1 - 0.01


@pytest.mark.mpi
def test_power_is_a_counter_within_the_traced_steps(events):
    counters = [event for event in events if event["ph"] == "C"]
    assert [event["args"] for event in counters] == [{"W": 100.0}]


@pytest.mark.mpi
def test_thinning_and_failures_are_told(written):
    directory, reports = written
    thin = json.loads((directory / "thin.json").read_text())
    assert thin["metadata"]["every_nth_rank"] == NUM_RANKS
    assert {event["pid"] for event in thin["traceEvents"]} == {0}
    assert sum(event["ph"] == "X" for event in thin["traceEvents"]) == 2
    for report in reports:
        assert report["reasons"][:2] == ["", ""]
        assert "where.json" in report["reasons"][2]
        assert len(report["hosts"]) == 1
    assert list(directory.glob("*.part*")) == []


@dataclass(frozen=True)
class Event:
    started_ns: int
    ended_ns: int


def test_overlapping_operations_get_tracks_of_their_own():
    assert lanes([Event(0, 10), Event(5, 8), Event(10, 12), Event(9, 20)]) == [0, 1, 0, 1]
    assert lanes([]) == []


def test_drift_is_interpolated_between_two_measurements():
    first = ClockOffset(offset_ns=1000, error_ns=5, at_ns=0)
    last = ClockOffset(offset_ns=3000, error_ns=9, at_ns=1_000_000)
    both = Timebase(first=first, last=last)
    assert both.common_ns(500_000) == 502_000
    assert both.error_ns == 9
    assert Timebase(first=first).common_ns(500_000) == 501_000
