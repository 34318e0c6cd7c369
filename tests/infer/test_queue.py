"""The queue on a clock of its own: batches are what waits, and latency counts from the scheduled arrival."""

import numpy as np
import pytest

from hpc_accel.infer.arrivals import schedule_ns
from hpc_accel.infer.queue import Log, WallClock, serve

MS = 1_000_000


class FakeClock:
    """Time passes only by waiting and by computing."""

    def __init__(self):
        self.time_ns = 7 * MS

    def now_ns(self):
        return self.time_ns

    def wait_until(self, at_ns):
        self.time_ns = max(self.time_ns, at_ns)


def served(arrivals_ms, batch_size, service_ms):
    """The log of a server that takes service_ms(first, count) for a batch, and the batches it took."""
    clock, batches = FakeClock(), []

    def forward(first, count):
        batches.append((first, count))
        clock.time_ns += int(service_ms(first, count) * MS)

    log = serve(np.array([int(each * MS) for each in arrivals_ms]), batch_size, forward, clock)
    return log, batches


def test_an_idle_server_serves_each_request_alone():
    log, batches = served([0, 10, 20], 8, lambda first, count: 3)
    assert batches == [(0, 1), (1, 1), (2, 1)]
    assert log.latency_ms.tolist() == [3, 3, 3]
    assert log.started_ns.tolist() == [0, 10 * MS, 20 * MS]


def test_a_batch_is_what_waits_and_at_most_the_batch_size():
    # While the first is computed, five arrive: four fit, one waits for another round.
    log, batches = served([0, 1, 2, 3, 4, 5], 4, lambda first, count: 10)
    assert batches == [(0, 1), (1, 4), (5, 1)]
    assert log.latency_ms.tolist() == [10, 19, 18, 17, 16, 25]
    assert log.batch.tolist() == [1, 4, 4, 4, 4, 1]


def test_the_server_never_waits_for_a_batch_to_fill():
    _, batches = served([0, 100], 2, lambda first, count: 1)
    assert batches == [(0, 1), (1, 1)]


def test_queue_of_one_server_follows_lindleys_recursion():
    rng = np.random.default_rng(3)
    arrivals, times = np.cumsum(rng.integers(1, 9, 200)), rng.integers(1, 9, 200)
    log, _ = served(arrivals, 1, lambda first, count: times[first])
    wait = 0
    for index in range(200):
        assert (log.started_ns[index] - log.scheduled_ns[index]) / MS == wait
        if index < 199:
            wait = max(0, wait + times[index] - (arrivals[index + 1] - arrivals[index]))


def test_a_stall_is_counted_by_everybody_who_waited_for_it():
    """Coordinated omission: a client that waits for its answer before it sends again would see one slow request."""
    arrivals = np.arange(30) * 10
    log, _ = served(arrivals, 1, lambda first, count: 100 if first == 5 else 1)
    as_a_closed_loop = (log.ended_ns - log.started_ns) / MS
    assert (as_a_closed_loop > 1).sum() == 1
    assert (log.latency_ms > 1).sum() == 11
    assert log.latency_ms[5:9].tolist() == [100, 91, 82, 73]
    assert np.percentile(log.latency_ms, 75, method="inverted_cdf") > 1 == np.percentile(as_a_closed_loop, 90)


def test_arrivals_do_not_depend_on_the_server():
    """The schedule is drawn before the first request: nothing the server does can move it."""
    slow, _ = served(np.arange(20), 1, lambda first, count: 50)
    quick, _ = served(np.arange(20), 1, lambda first, count: 0.1)
    assert (slow.scheduled_ns == quick.scheduled_ns).all()
    assert slow.latency_ms[-1] == 20 * 50 - 19


def test_the_wall_clock_never_returns_early():
    clock = WallClock()
    for wait_ns in (0, 10_000, 1_500_000):
        at_ns = clock.now_ns() + wait_ns
        clock.wait_until(at_ns)
        assert clock.now_ns() >= at_ns


@pytest.mark.parametrize("arrivals", ["poisson", "fixed"])
def test_schedules_have_their_rate_and_repeat(arrivals):
    found = schedule_ns(250.0, 20_000, arrivals, seed=1)
    assert (found == schedule_ns(250.0, 20_000, arrivals, seed=1)).all()
    gaps_ms = np.diff(found) / MS
    assert gaps_ms.mean() == pytest.approx(4.0, rel=0.03)
    # Exponential gaps vary as much as their mean; fixed ones not at all.
    assert gaps_ms.std() == pytest.approx(4.0 if arrivals == "poisson" else 0.0, rel=0.05, abs=1e-3)
    assert (gaps_ms >= 0).all()


def test_two_rates_are_not_one_schedule_stretched():
    slow, fast = (schedule_ns(rate, 100, "poisson", seed=0) for rate in (10.0, 20.0))
    assert not np.allclose(slow, 2 * fast)


def test_a_log_counts_from_the_schedule():
    zero = np.zeros(1, dtype=np.int64)
    assert Log(scheduled_ns=zero, started_ns=zero + 5 * MS, ended_ns=zero + 6 * MS, batch=zero + 1).latency_ms == [6.0]
