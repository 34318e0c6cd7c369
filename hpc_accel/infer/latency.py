"""What a window of requests says: percentiles its number supports, missed deadlines, the rate served."""

from __future__ import annotations

import math

import numpy as np

from hpc_accel.record.figure import Count, Estimate, Fraction, Milliseconds
from hpc_accel.record.inference import Deadline, Latency
from hpc_accel.study.infer_options import Infer

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}


def requests_needed(percentile: float) -> int:
    """So many that at least one lies beyond the percentile: 100 for p99, 1,000 for p99.9."""
    return math.ceil(round(100 / (100 - percentile), 6))


def percentile_ms(latency_ms: np.ndarray, percentile: float) -> float | None:
    """A latency that was observed, at least `percentile` per cent are no longer; None of too few requests."""
    if len(latency_ms) < requests_needed(percentile):
        return None
    # Nearest rank; rounded first, because 99.9 % of 1,000 is a little more than 999 in binary.
    rank = math.ceil(round(len(latency_ms) * percentile / 100, 6))
    return float(np.partition(latency_ms, rank - 1)[rank - 1])


def interval_ms(latency_ms: np.ndarray, percentile: float) -> tuple[float | None, float | None]:
    """The 95 % interval of a percentile, both ends latencies that were observed; an end beyond all of them is None.

    From order statistics, whatever the distribution (H. A. David and H. N. Nagaraja, Order Statistics, 2003, 7.1): how
    many of n requests stay below the percentile is binomial. Requests that wait in one queue are not independent, so
    the true interval is wider.
    """
    count, share = len(latency_ms), percentile / 100
    below = np.arange(count)
    steps = np.log((count - below) / (below + 1)) + math.log(share / (1 - share))
    logs = count * math.log1p(-share) + np.concatenate([[0.0], np.cumsum(steps)])
    cumulative = np.cumsum(np.exp(logs))
    first = int(np.searchsorted(cumulative, 0.025, side="right"))
    last = int(np.searchsorted(cumulative, 0.975)) + 1
    ordered = np.sort(latency_ms)
    return (
        float(ordered[first - 1]) if first >= 1 else None,
        float(ordered[last - 1]) if last <= count else None,
    )


def latency_facts(latency_ms: np.ndarray) -> Latency:
    """Percentiles with their intervals, and the longest of [num_requests] latencies."""
    found = {name: _estimate(latency_ms, name, percentile) for name, percentile in PERCENTILES.items()}
    return Latency(**found, max_ms=float(latency_ms.max()), num_requests=len(latency_ms))


def _estimate(latency_ms: np.ndarray, name: str, percentile: float) -> Estimate:
    value = percentile_ms(latency_ms, percentile)
    if value is None:
        needed = requests_needed(percentile)
        return Estimate.missing(f"{len(latency_ms)} requests: {name.replace('_', '.')} needs at least {needed}")
    low, high = interval_ms(latency_ms, percentile)
    return Estimate.between(value, low, high, method="nearest rank; 95 % interval from order statistics")


def deadline_facts(latency_ms: np.ndarray, infer: Infer) -> Deadline:
    """How many requests were answered too late, and whether that is allowed."""
    if infer.deadline_ms is None:
        return Deadline.missing("the study names no infer.deadline_ms")
    missed = int((latency_ms > infer.deadline_ms).sum())
    share = missed / len(latency_ms)
    return Deadline(
        deadline_ms=Milliseconds.of(infer.deadline_ms),
        num_missed=Count.of(missed),
        share_missed=Fraction.of(share),
        max_missed=Fraction.of(infer.max_missed),
        passed=share <= infer.max_missed,
    )


def completed_per_s(scheduled_ns: np.ndarray, ended_ns: np.ndarray) -> float:
    """Requests per second from the first arrival to the last answer; far below the rate where the queue grew."""
    return len(scheduled_ns) / max(int(ended_ns.max()) - int(scheduled_ns.min()), 1) * 1e9
