"""What a window of requests says: percentiles its number supports, missed deadlines, the rate served."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hpc_accel.study.infer import Infer

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


def latency_facts(latency_ms: np.ndarray) -> dict[str, Any]:
    """Percentiles and the longest of [num_requests] latencies; each that is null has a reason."""
    count = len(latency_ms)
    found = {name: percentile_ms(latency_ms, percentile) for name, percentile in PERCENTILES.items()}
    reasons = {
        name: f"{count} requests: {name.replace('_', '.')} needs at least {requests_needed(PERCENTILES[name])}"
        for name, value in found.items()
        if value is None
    }
    return {**found, "max": float(latency_ms.max()), "num_requests": count, "reasons": reasons}


def deadline_facts(latency_ms: np.ndarray, infer: Infer) -> dict[str, Any]:
    """The `deadline` object: how many requests were answered too late, and whether that is allowed."""
    if infer.deadline_ms is None:
        reason = "the study names no infer.deadline_ms"
        return {"deadline_ms": None, "num_missed": None, "share_missed": None, "passed": None, "reason": reason}
    missed = int((latency_ms > infer.deadline_ms).sum())
    share = missed / len(latency_ms)
    return {
        "deadline_ms": infer.deadline_ms,
        "num_missed": missed,
        "share_missed": share,
        "max_missed": infer.max_missed,
        "passed": share <= infer.max_missed,
        "reason": "",
    }


def served_per_s(scheduled_ns: np.ndarray, ended_ns: np.ndarray) -> float:
    """Requests per second from the first arrival to the last answer; far below the rate where the queue grew."""
    return len(scheduled_ns) / max(int(ended_ns.max()) - int(scheduled_ns.min()), 1) * 1e9
