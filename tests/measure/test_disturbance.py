"""Processor time that others used while something was timed, from counters of the kernel."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import pytest

from hpc_accel.measure.disturbance import Look, between, look, together

BUSY = "import time\nwhile time.process_time() < 0.4: pass\n"
"""A program that computes for 0.4 s."""


def at(time_s, *, busy=(0.0, 0.0, 0.0, 0.0), stolen=0.0, own=0.0, cpus=(0, 1), swapped=0):
    return Look(
        time_s=time_s,
        busy_s=dict(enumerate(busy)),
        stolen_s=dict.fromkeys(range(len(busy)), stolen),
        own_s=own,
        cpus=frozenset(cpus),
        swapped_pages=swapped,
    )


def test_what_no_rank_used_was_used_by_others():
    """Ten seconds on CPUs 0 and 1: both busy for 9 s, 15 of these 18 s the ranks' own; CPU 3 busy for 4 s."""
    found = between([(at(0.0), at(10.0, busy=(9.0, 9.0, 0.0, 4.0), own=15.0, stolen=0.5, swapped=7))])
    assert found.others_share == pytest.approx(3 / 20)
    assert found.node_others_share == pytest.approx((22 - 15) / 40)
    assert found.stolen_share == pytest.approx(1 / 20)
    assert found.swapped_pages == 7
    assert found.reason == ""


def test_ticks_that_round_against_each_other_are_no_negative_share():
    assert between([(at(0.0), at(1.0, busy=(0.99, 0.99, 0, 0), own=2.0))]).others_share == 0.0


def test_windows_add_up_and_what_lies_between_them_is_left_out():
    first = (at(0.0), at(1.0, busy=(1.0, 1.0, 0, 0), own=2.0))
    second = (at(50.0, busy=(40, 40, 40, 40), own=2.0), at(51.0, busy=(41, 40.5, 40, 40), own=2.5))
    assert between([first, second]).others_share == pytest.approx((3.5 - 2.5) / 4)


def test_ranks_of_a_node_are_one():
    ranks = [at(1.0, own=0.4, cpus=(0,)), at(1.0, own=0.5, cpus=(1,))]
    node = together(ranks)
    assert (node.own_s, node.cpus) == (pytest.approx(0.9), {0, 1})
    assert together([ranks[0], None]) is None


def test_what_is_not_known_has_a_reason():
    assert "too short" in between([(at(0.0), at(0.1))]).reason
    assert "/proc/stat" in between([(None, at(1.0))]).reason
    assert between([]).others_share is None
    assert between([(replace(at(0.0), swapped_pages=None), at(1.0))]).swapped_pages is None


def test_a_kernel_that_shows_nothing_gives_no_look(tmp_path):
    assert look(tmp_path) is None


def test_own_work_and_that_of_children_is_no_disturbance_and_a_strangers_is(tmp_path):
    first = look()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    own = look()
    assert own.own_s - first.own_s > 0.3
    done = tmp_path / "done"
    stranger = f"{BUSY}\nopen({str(done)!r}, 'w').close()"
    subprocess.run(["setsid", "-f", sys.executable, "-c", stranger], check=True)
    end = time.monotonic() + 60
    while not done.exists():
        assert time.monotonic() < end, "a stranger that needs 0.4 s"
        time.sleep(0.1)
    last = look()
    others_s = between([(own, last)]).node_others_share * (last.time_s - own.time_s) * len(last.busy_s)
    assert others_s > 0.3
