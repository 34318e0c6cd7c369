"""How exactly the steps of one run tell its median, although a step is like the one before it.

The variance of a sample median of dependent values is that of independent ones times the integrated autocorrelation
time of the indicator "above the median" (Sen, 1972: the median is asymptotically a mean of
that indicator). The window of the sum follows Sokal's rule ("Monte Carlo Methods in Statistical Mechanics", 1997); what
the sample mean takes from each autocorrelation is put back (Wolff, "Monte Carlo errors with less errors", 2004).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NORMAL_95 = 1.959964
SOKAL_WINDOW = 5.0


def integrated_time(values: Sequence[float]) -> float:
    """Steps that tell as much of the median as one independent step would, from 1 to half of the steps.

    `values` stand in the order in which they were measured.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size < 4:
        return 1.0
    above = (array > np.median(array)).astype(np.float64)
    centred = above - above.mean()
    variance = float(centred @ centred)
    if variance == 0:
        return 1.0
    time, lag = 1.0, 0
    for lag in range(1, array.size // 2):
        time += 2 * float(centred[lag:] @ centred[:-lag]) / variance
        if lag >= SOKAL_WINDOW * time:
            break
    time *= 1 + (2 * lag + 1) / array.size
    return min(max(time, 1.0), array.size / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogError:
    """Standard error of log(median); `is_least` where the steps tell only that it is no smaller."""

    value: float
    is_least: bool


def log_error(values: Sequence[float], time: float) -> LogError | None:
    """Standard error of log(median) of steps whose integrated autocorrelation time is `time`; None of too few.

    From the interval of the median between two order statistics, n/2 -+ z sqrt(n time)/2 (the sign test's, widened).
    Where it reaches beyond all of the steps, as of a run that drifts, their whole range is the least that it can be.
    """
    array = np.sort(np.asarray(values, dtype=np.float64))
    reach = NORMAL_95 * math.sqrt(array.size * time) / 2
    low, high = math.floor(array.size / 2 - reach), math.ceil(array.size / 2 + reach) - 1
    is_least = low < 0 or high >= array.size
    low, high = max(low, 0), min(high, array.size - 1)
    if array.size < 3 or array[low] <= 0:
        return None
    return LogError(value=math.log(array[high] / array[low]) / (2 * NORMAL_95), is_least=is_least)
