"""Percentiles only of enough requests, deadlines by share, and a search that finds a known server's limit."""

import numpy as np
import pytest

from hpc_accel.infer import latency
from hpc_accel.infer.queue import serve
from hpc_accel.infer.rate_search import max_rate, search_requests
from hpc_accel.record.inference import PERCENTILES
from hpc_accel.study.infer_options import Infer
from tests.infer.test_queue import MS, FakeClock


def infer(**fields):
    return Infer(**{"arrival_rates_per_s": [1.0], "batch_size": 1, **fields})


def test_percentiles_are_latencies_that_were_observed():
    facts = latency.latency_facts(np.arange(1.0, 1001.0))
    assert [facts.percentile(name).value for name in PERCENTILES] == [500.0, 900.0, 990.0, 999.0]
    assert facts.max_ms == 1000.0


def test_intervals_hold_the_percentile_as_often_as_they_say():
    """Of 400 samples of a known distribution about 95 % have intervals with its true percentile in them."""
    generator = np.random.default_rng(0)
    for percentile, count in ((50, 60), (90, 200), (99, 2000)):
        held = 0
        for _ in range(400):
            low, high = latency.interval_ms(generator.exponential(size=count), percentile)
            held += low <= -np.log(1 - percentile / 100) <= high
        assert 0.93 <= held / 400 <= 0.99


def test_an_interval_of_too_few_requests_has_no_upper_end():
    times = np.arange(1.0, 101.0)
    p99 = latency.latency_facts(times).p99
    assert (p99.ci_low, p99.ci_high) == (97.0, None)
    low, high = latency.interval_ms(np.arange(1.0, 100_001.0), 50)
    assert low == pytest.approx(50_000 - 310, abs=3) and high == pytest.approx(50_000 + 310, abs=3)


def test_too_few_requests_give_a_reason_and_no_percentile():
    facts = latency.latency_facts(np.arange(1.0, 201.0))
    assert facts.p99.value == 198.0
    assert (facts.p99_9.value, facts.p99_9.reason) == (None, "200 requests: p99.9 needs at least 1000")
    assert latency.latency_facts(np.array([1.0])).p50.value is None


@pytest.mark.parametrize(("allowed", "passed"), [(0.0, False), (0.01, False), (0.02, True)])
def test_a_deadline_passes_by_the_share_that_missed_it(allowed, passed):
    times = np.array([1.0] * 98 + [11.0, 10.1])
    facts = latency.deadline_facts(times, infer(deadline_ms=10, max_missed=allowed))
    assert (facts.num_missed.value, facts.share_missed.value, facts.passed) == (2, 0.02, passed)


def test_exactly_at_the_deadline_is_in_time():
    assert latency.deadline_facts(np.array([10.0]), infer(deadline_ms=10)).passed
    assert latency.deadline_facts(np.array([10.0]), infer()).passed is None


def test_served_rate_falls_behind_an_overloaded_arrival_rate():
    ms = np.arange(100) * MS
    assert latency.completed_per_s(ms, ms + MS) == pytest.approx(1000)
    assert latency.completed_per_s(ms, 2 * ms + MS) == pytest.approx(100 / 0.199, rel=1e-6)


def window_of(service_ms, calls):
    """A server of fixed service time under fixed arrivals: within 1 / service_ms it never queues, above it always."""

    def window(rate_per_s, num_requests):
        calls.append((rate_per_s, num_requests))
        clock = FakeClock()

        def forward(first, count):
            clock.time_ns += int(service_ms * MS)

        log = serve((np.arange(num_requests) * 1e9 / rate_per_s).astype(np.int64), 1, forward, clock)
        return latency.percentile_ms(log.latency_ms, 99)

    return window


def test_bisection_closes_in_on_the_rate_where_the_queue_begins_to_grow():
    calls = []
    # Capacity is claimed to be 1000/s; the server takes 4 ms, so from 250/s on the queue grows.
    asked = infer(arrival_rates_per_s=[20, 800], latency_limit_ms=50, num_requests=200)
    found = max_rate(asked, [(800.0, 300.0), (20.0, 4.0)], 1000.0, window_of(4, calls))
    assert found.max_rate_per_s.value == pytest.approx(250, abs=16)
    assert found.max_rate_per_s.value < found.next_rate_per_s.value <= found.max_rate_per_s.value * 1.04
    assert calls[0][0] == 410  # between the listed rate that holds and the one that breaks
    assert all(number >= rate * 0.5 for rate, number in calls)
    assert [tried.rate_per_s for tried in found.tried] == [rate for rate, _ in calls]


def test_what_lies_above_all_listed_rates_is_looked_for_up_to_full_load():
    calls = []
    asked = infer(arrival_rates_per_s=[10], latency_limit_ms=5, num_requests=200)
    found = max_rate(asked, [(10.0, 1.0)], 900.0, window_of(1, calls))
    assert (found.max_rate_per_s.value, found.next_rate_per_s.value, len(calls)) == (900.0, None, 1)


def test_a_limit_that_the_lowest_listed_rate_breaks_needs_no_window():
    calls = []
    asked = infer(arrival_rates_per_s=[50], latency_limit_ms=3, num_requests=200)
    found = max_rate(asked, [(50.0, 4.0)], 250.0, window_of(4, calls))
    assert (found.max_rate_per_s.value, calls) == (None, [])
    assert "above 3 ms at 50 requests/s already" in found.max_rate_per_s.reason


def test_a_window_too_short_to_show_a_growing_queue_proves_nothing():
    """100 requests at 10,000/s are over after 10 ms, all of them within a limit of 1 s, at any capacity."""
    calls = []
    asked = infer(arrival_rates_per_s=[10_000], latency_limit_ms=1000, num_requests=100)
    found = max_rate(asked, [(10_000.0, 400.0)], 250.0, window_of(4, calls))
    assert calls[0] == (10_000.0, 100_000)
    assert found.max_rate_per_s.value is None


def test_no_limit_and_too_few_requests_are_said():
    assert "latency_limit_ms" in max_rate(infer(), [], 10.0, window_of(1, [])).max_rate_per_s.reason
    found = max_rate(infer(latency_limit_ms=1, num_requests=50), [(1.0, None)], 10.0, window_of(1, []))
    assert found.max_rate_per_s.value is None
    assert "raise infer.num_requests" in found.max_rate_per_s.reason


def test_windows_of_the_search_outlast_the_limit():
    assert search_requests(infer(latency_limit_ms=100, num_requests=10), 5000.0) == 5000
    assert search_requests(infer(latency_limit_ms=100, num_requests=700), 1.0) == 700
