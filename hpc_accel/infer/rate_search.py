"""The highest rate whose latency stays within the limit, by bisection over open-loop windows.

The listed rates were measured already, so the search begins between the highest of them that holds the limit and the
lowest that breaks it, or else the throughput of full batches back to back, above which nothing can be served for long.
Latency grows with the rate, so each window halves what is left. A window lasts at least ten times the limit: a shorter
one ends before an overloaded queue has grown to it. Below the lowest listed rate nobody asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hpc_accel.record.figure import Milliseconds, PerSecond
from hpc_accel.record.inference import Limit, Tried
from hpc_accel.study.infer_options import Infer

MAX_WINDOWS = 7
RESOLUTION = 0.03
"""The search ends when the rates that hold and break the limit are this near."""
MIN_WINDOW_LIMITS = 10
METHOD = (
    f"bisection between listed rates and the throughput of full batches back to back, to {RESOLUTION:.0%} or "
    f"{MAX_WINDOWS} open-loop windows, each at least {MIN_WINDOW_LIMITS} times the limit long"
)
NONE_BROKE = "no rate that was tried breaks the limit"
MeasureRate = Callable[[float, int], float | None]
"""(rate per second, number of requests) -> the limit's percentile of their latency in ms; None of too few requests."""


def search_requests(infer: Infer, rate_per_s: float) -> int:
    """Counted requests of a window of the search."""
    assert infer.latency_limit_ms is not None
    return max(infer.num_requests, math.ceil(rate_per_s * MIN_WINDOW_LIMITS * infer.latency_limit_ms / 1e3))


def max_rate(
    infer: Infer, measured: Sequence[tuple[float, float | None]], capacity_per_s: float, window: MeasureRate
) -> Limit:
    """`measured` has each listed rate and the limit's percentile there. The same calls of `window` on every rank."""
    limit_ms = infer.latency_limit_ms
    if limit_ms is None:
        return _limit(infer, [], "the study names no infer.latency_limit_ms")
    good, bad = _bracket(infer, measured, limit_ms)
    lowest, tried = min(infer.arrival_rates_per_s), list[Tried]()
    for _ in range(MAX_WINDOWS):
        if bad is not None and (bad <= lowest or bad - good <= RESOLUTION * bad):
            break
        rate = (good + bad) / 2 if good and bad else max(capacity_per_s, good) if good else lowest
        if rate == good:
            break  # full batches are no faster than what held
        latency_ms = window(rate, search_requests(infer, rate))
        if latency_ms is None:
            needs = f"p{infer.limit_percentile:g} needs more than {search_requests(infer, rate)} requests"
            return _limit(infer, tried, f"{needs}: raise infer.num_requests")
        within = latency_ms <= limit_ms
        tried.append(Tried(rate_per_s=rate, latency_ms=latency_ms, within=within))
        good, bad = (rate, bad) if within else (good, rate)
    reason = f"p{infer.limit_percentile:g} is above {limit_ms:g} ms at {lowest:g} requests/s already"
    return _limit(infer, tried, reason, good=good or None, bad=bad)


def _limit(
    infer: Infer, tried: Sequence[Tried], reason: str, *, good: float | None = None, bad: float | None = None
) -> Limit:
    """The outcome; `reason` is why there is no `good` rate. Where all that were tried held, there is no `bad` one."""
    return Limit(
        latency_limit_ms=Milliseconds.of(infer.latency_limit_ms, reason),
        percentile=infer.limit_percentile,
        max_rate_per_s=PerSecond.of(good, reason),
        next_rate_per_s=PerSecond.of(bad, NONE_BROKE if good else reason),
        tried=tuple(tried),
        method=METHOD,
    )


def _bracket(
    infer: Infer, measured: Sequence[tuple[float, float | None]], limit_ms: float
) -> tuple[float, float | None]:
    """The highest listed rate that holds the limit (0: none is known to), and the lowest that breaks it."""
    good = 0.0
    for rate, latency_ms in sorted(measured):
        if latency_ms is not None and latency_ms > limit_ms:
            return good, rate
        # A window that was too short to show a growing queue proves nothing.
        if latency_ms is not None and infer.num_requests >= search_requests(infer, rate):
            good = rate
    return good, None
