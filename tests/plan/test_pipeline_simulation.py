"""The simulated schedules against closed forms, against rules every schedule obeys, and against a broken one."""

from __future__ import annotations

import itertools

import pytest

from hpc_accel.plan.pipeline_simulation import SCHEDULES, gpipe, in_flight, one_f_one_b, simulate, step_time_s


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(
    ("p", "m"), [(2, 2), (2, 4), (2, 8), (3, 6), (4, 4), (4, 8), (4, 16), (5, 7), (8, 8), (8, 24), (8, 64), (16, 32)]
)
def test_equal_stages_and_free_messages_idle_the_published_fraction(schedule, p, m):
    timeline = simulate(SCHEDULES[schedule](p, m), [1.0] * p, [2.0] * p, 0.0)
    assert timeline.makespan_s == pytest.approx((m + p - 1) * 3.0)
    assert timeline.bubble_fraction == pytest.approx((p - 1) / (m + p - 1))


def test_the_docstrings_picture_is_the_schedule():
    names = [" ".join(f"{kind}{i}" for kind, i in actions) for actions in one_f_one_b(2, 3)]
    assert names == ["F0 F1 B0 F2 B1 B2", "F0 B0 F1 B1 F2 B2"]


@pytest.mark.parametrize(
    ("schedule", "p", "m"), list(itertools.product(["gpipe", "1f1b"], [1, 2, 3, 5], [1, 2, 5, 11]))
)
def test_every_stage_runs_every_pass_once_and_forward_first(schedule, p, m):
    for actions in SCHEDULES[schedule](p, m):
        assert sorted(actions) == sorted([(kind, i) for kind in "FB" for i in range(m)])
        assert all(actions.index(("F", i)) < actions.index(("B", i)) for i in range(m))


@pytest.mark.parametrize(("schedule", "p", "m"), list(itertools.product(["gpipe", "1f1b"], [1, 2, 4], [1, 2, 4, 9])))
def test_in_flight_is_what_the_order_holds(schedule, p, m):
    for stage, actions in enumerate(SCHEDULES[schedule](p, m)):
        held, most = 0, 0
        for kind, _ in actions:
            held += 1 if kind == "F" else -1
            most = max(most, held)
        assert in_flight(schedule, p, stage, m) == most


def test_messages_add_a_hop_to_the_way_there_and_back():
    # One micro-batch goes down four stages and back: three hops each way.
    assert simulate(gpipe(4, 1), [1.0] * 4, [2.0] * 4, 0.5).makespan_s == pytest.approx(12.0 + 6 * 0.5)


def test_the_slowest_stage_sets_the_pace():
    even = step_time_s("1f1b", 32, [1.0] * 4, [2.0] * 4, 0.0)
    uneven = step_time_s("1f1b", 32, [0.5, 0.5, 0.5, 2.5], [1.0, 1.0, 1.0, 5.0], 0.0)
    assert uneven >= 32 * 7.5 > even


@pytest.mark.parametrize(("schedule", "send_s"), list(itertools.product(["gpipe", "1f1b"], [0.0, 0.4])))
def test_extrapolating_many_micro_batches_equals_simulating_them(schedule, send_s):
    forward, backward = [1.0, 1.3, 0.7, 1.0], [2.0, 2.1, 1.9, 2.4]
    whole = simulate(SCHEDULES[schedule](4, 203), forward, backward, send_s).makespan_s
    assert step_time_s(schedule, 203, forward, backward, send_s) == pytest.approx(whole, rel=0.005)


def test_an_order_that_waits_for_itself_is_named():
    with pytest.raises(ValueError, match=r"stage 1: \('B', 0\)"):
        simulate([[("F", 0), ("B", 0)], [("B", 0), ("F", 0)]], [1.0] * 2, [1.0] * 2, 0.0)
