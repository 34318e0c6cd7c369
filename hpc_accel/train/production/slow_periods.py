"""Steps that take longer than those that were measured, by more than either's interval: the node or the network is not
what it was. Which rank computed longest, and where it runs, is told at once and stands in the record.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from hpc_accel.measure import stragglers
from hpc_accel.measure.statistics import median_ci
from hpc_accel.record.production import Forecast

MOST_STEPS = 1000
"""Of a period, the last ones: more would only make the interval narrower."""
FEWEST_STEPS = 3


def slow_period(
    comm: Any, step_ms: Sequence[float], busy_ms: float, first: int, last: int, forecast: Forecast | None
) -> str:
    """What is told of the steps from `first` to `last`, alike on all ranks; "" where they are as fast as expected.

    `step_ms` are each step's time, alike on all ranks; `busy_ms` is what this rank computed in a typical one.
    Collective.
    """
    if forecast is None or len(step_ms) < FEWEST_STEPS:
        return ""
    expected_ms, most_ms = forecast.step_time_ms.value, forecast.step_time_ms.ci_high
    median_ms, low_ms, high_ms = comm.bcast(median_ci(step_ms[-MOST_STEPS:]))
    if most_ms is None or low_ms is None or low_ms <= most_ms:
        return ""
    found = stragglers.slowest(comm, busy_ms)
    others = found["mean_of_others_ms"]
    beside = f", the others {others:.3g} ms" if others is not None else ""
    told = (
        f"steps {first} to {last} took {median_ms:.3g} ms ({low_ms:.3g} to {high_ms:.3g}), measured were "
        f"{expected_ms:.3g} (at most {most_ms:.3g}): rank {found['rank']} on {found['host']} computed longest, "
        f"{found['busy_ms']:.3g} ms{beside}; look at that node, and at what else runs there"
    )
    if comm.Get_rank() == 0:
        sys.stderr.write(f"warning: {told}\n")
    return told
