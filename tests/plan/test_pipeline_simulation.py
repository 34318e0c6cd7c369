"""Simulated steps against closed forms, against messages counted by hand, and against a broken order."""

from __future__ import annotations

import itertools

import pytest

from hpc_accel.plan.pipeline_simulation import PassTimes, simulate, step_time_s
from hpc_accel.plan.schedules import SCHEDULES
from hpc_accel.study.layout import SINGLE


def equal(stages: int, forward_s: float = 1.0, backward_s: float = 2.0, weight_s: float = 1.0) -> PassTimes:
    """Stages that take equally long."""
    return PassTimes(forward_s=[forward_s] * stages, backward_s=[backward_s] * stages, weight_s=[weight_s] * stages)


def whole(schedule: str, p: int, v: int, m: int, times: PassTimes, send_s: float = 0.0):
    return simulate(SCHEDULES[schedule](p, v, m), times, send_s)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(
    ("p", "m"), [(2, 2), (2, 4), (2, 8), (3, 6), (4, 4), (4, 8), (4, 16), (5, 7), (8, 8), (8, 24), (8, 64), (16, 32)]
)
def test_equal_stages_and_free_messages_idle_the_published_fraction(schedule, p, m):
    timeline = whole(schedule, p, 1, m, equal(p))
    assert timeline.makespan_s == pytest.approx((m + p - 1) * 3.0)
    assert timeline.bubble_fraction == pytest.approx((p - 1) / (m + p - 1))


@pytest.mark.parametrize("schedule", ["interleaved_1f1b", "looped_bfs"])
@pytest.mark.parametrize(("p", "v", "m"), [(2, 2, 4), (4, 2, 8), (4, 3, 16), (8, 4, 16)])
def test_interleaving_divides_the_bubble_by_the_stages_of_a_rank(schedule, p, v, m):
    timeline = whole(schedule, p, v, m, equal(p * v))
    assert timeline.makespan_s == pytest.approx((m * v + p - 1) * 3.0)
    assert max(timeline.busy_s) == pytest.approx(m * v * 3.0)


@pytest.mark.parametrize(("p", "m"), [(2, 8), (4, 8), (4, 16), (8, 24)])
def test_weights_fill_the_bubble_of_zero_bubble_schedules(p, m):
    # Qi et al.: ZB-H1 leaves (p - 1)(F + I - W), the V nothing but the way to the last rank where F = I = W.
    split = whole("interleaved_zero_bubble", p, 2, m, equal(2 * p))
    assert split.makespan_s - max(split.busy_s) == pytest.approx((p - 1) * 1.0)
    vee = whole("zbv_zero_bubble", p, 2, m, equal(2 * p))
    assert vee.makespan_s - max(vee.busy_s) == pytest.approx(p - 1)


@pytest.mark.parametrize(("p", "m"), [(2, 8), (4, 8), (4, 16), (8, 24)])
def test_dualpipev_idles_less_than_1f1b(p, m):
    dual = whole("dualpipev", p, 2, m, equal(2 * p, 0.5, 1.0, 0.5))
    single = whole("1f1b", p, 1, m, equal(p))
    assert max(dual.busy_s) == pytest.approx(max(single.busy_s))
    assert max(dual.busy_s) < dual.makespan_s < single.makespan_s


def test_messages_add_a_hop_to_the_way_there_and_back():
    # One micro-batch goes down four stages and back: three hops each way.
    assert whole("gpipe", 4, 1, 1, equal(4), 0.5).makespan_s == pytest.approx(12.0 + 6 * 0.5)
    # Eight stages on four ranks: seven hops in a loop, but six in a V, whose turning point is within a rank.
    assert whole("looped_bfs", 4, 2, 1, equal(8), 0.5).makespan_s == pytest.approx(24.0 + 14 * 0.5)
    # Backward is split there: eight I, and W of the turning point and of the first stage, which nothing hides.
    assert whole("zbv_zero_bubble", 4, 2, 1, equal(8), 0.5).makespan_s == pytest.approx(8.0 + 8.0 + 2.0 + 12 * 0.5)


def test_the_slowest_stage_sets_the_pace():
    even = step_time_s("1f1b", 4, 32, equal(4), 0.0)
    slow = PassTimes(forward_s=[0.5, 0.5, 0.5, 2.5], backward_s=[1.0, 1.0, 1.0, 5.0])
    assert step_time_s("1f1b", 4, 32, slow, 0.0) >= 32 * 7.5 > even


@pytest.mark.parametrize(("schedule", "send_s", "m"), list(itertools.product(SCHEDULES, [0.0, 0.4], [44, 1100])))
def test_extrapolating_many_micro_batches_equals_simulating_them(schedule, send_s, m):
    v = 1 if schedule in SINGLE else 2
    forward, backward = [1.0, 1.3, 0.7, 1.0, 1.1, 0.9, 1.0, 0.8], [2.0, 2.1, 1.9, 2.4, 2.0, 2.2, 1.8, 2.1]
    weight = [0.9, 1.0, 1.0, 1.1, 0.8, 1.0, 1.0, 1.2]
    times = PassTimes(forward_s=forward[: 4 * v], backward_s=backward[: 4 * v], weight_s=weight[: 4 * v])
    exact = whole(schedule, 4, v, m, times, send_s).makespan_s
    assert step_time_s(schedule, 4, m, times, send_s) == pytest.approx(exact, rel=0.005)


def test_a_split_backward_may_take_longer_than_a_whole_one():
    times = PassTimes(forward_s=[1.0] * 8, backward_s=[2.0] * 8, input_s=[1.5] * 8, weight_s=[1.0] * 8)
    assert whole("zbv_zero_bubble", 4, 2, 8, times).busy_s == (2 * 8 * 3.5,) * 4


def test_an_order_that_waits_for_itself_is_named():
    broken = [[("F", 0, 0), ("B", 0, 0)], [("B", 1, 0), ("F", 1, 0)]]
    with pytest.raises(ValueError, match=r"rank 1: B1.0"):
        simulate(broken, equal(2), 0.0)
