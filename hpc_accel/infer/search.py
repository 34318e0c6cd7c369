"""The highest rate whose latency stays within the limit, by bisection over open-loop windows.

No rate above the throughput of full batches back to back can be served for long, so the search lies between 0 and that.
Latency grows with the rate, so each window halves what is left. A window lasts at least ten times the limit: a shorter
one ends before an overloaded queue has grown to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hpc_accel.study.infer import Infer

NUM_HALVINGS = 6
MIN_WINDOW_LIMITS = 10
METHOD = (
    f"bisection between 0 and the throughput of full batches back to back, {NUM_HALVINGS} halvings, "
    f"open-loop windows of at least {MIN_WINDOW_LIMITS} times the limit"
)
Window = Callable[[float, int], float | None]
"""(rate per second, number of requests) -> the limit's percentile of their latency in ms; None of too few requests."""


def search_requests(infer: Infer, rate_per_s: float) -> int:
    """Counted requests of a window of the search."""
    assert infer.latency_limit_ms is not None
    return max(infer.num_requests, math.ceil(rate_per_s * MIN_WINDOW_LIMITS * infer.latency_limit_ms / 1e3))


def max_rate(infer: Infer, capacity_per_s: float, window: Window) -> dict[str, Any]:
    """The `limit` object of summary.json. The same calls of `window` on every rank."""
    limit_ms = infer.latency_limit_ms
    found: dict[str, Any] = {
        "latency_limit_ms": limit_ms,
        "percentile": infer.limit_percentile,
        "max_rate_per_s": None,
        "next_rate_per_s": None,
        "tried": [],
        "method": METHOD,
        "reason": "",
    }
    if limit_ms is None:
        return found | {"reason": "the study names no infer.latency_limit_ms"}
    good, bad, rate = 0.0, None, capacity_per_s
    for _ in range(1 + NUM_HALVINGS):
        latency_ms = window(rate, search_requests(infer, rate))
        if latency_ms is None:
            needs = f"p{infer.limit_percentile:g} needs more than {search_requests(infer, rate)} requests"
            return found | {"reason": f"{needs}: raise infer.num_requests"}
        within = latency_ms <= limit_ms
        found["tried"].append({"rate_per_s": rate, "latency_ms": latency_ms, "within": within})
        good, bad = (rate, bad) if within else (good, rate)
        if bad is None:
            break  # the limit holds at full load
        rate = (good + bad) / 2
    if not good:
        lowest = min(tried["rate_per_s"] for tried in found["tried"])
        reason = f"p{infer.limit_percentile:g} is above {limit_ms:g} ms at {lowest:.3g} requests/s too"
        return found | {"next_rate_per_s": bad, "reason": reason}
    return found | {"max_rate_per_s": good, "next_rate_per_s": bad}
