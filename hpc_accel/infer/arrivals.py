"""When requests arrive, drawn before the first one is served, so that a slow server cannot slow its clients down.

Load that waits for answers before it sends again leaves out exactly the requests that would have waited: "coordinated
omission" (G. Tene, "How NOT to measure latency", 2013; https://github.com/giltene/wrk2). Here the schedule is fixed and
latency counts from the scheduled arrival.
"""

from __future__ import annotations

import numpy as np

from hpc_accel.study.infer_options import Arrivals


def schedule_ns(rate_per_s: float, num_requests: int, arrivals: Arrivals, seed: int) -> np.ndarray:
    """Scheduled arrival of each request in nanoseconds from the start, int64 [num_requests], ascending.

    `poisson` draws independent exponential gaps, as many unrelated clients make them; `fixed` spaces them evenly.
    """
    gap_ns = 1e9 / rate_per_s
    if arrivals == "fixed":
        return (np.arange(num_requests) * gap_ns).astype(np.int64)
    # The rate is part of the seed: schedules of two rates must not be one schedule, stretched.
    rng = np.random.default_rng([seed, round(rate_per_s * 1e3)])
    return np.cumsum(rng.exponential(gap_ns, num_requests)).astype(np.int64)
