"""A figure and how sure it is: the median with a bootstrap interval, and what may be said from two of them.

The interval is the 95 % percentile bootstrap of the median: resample the values with replacement many
times, take each resample's median, and cut 2.5 % off either end. It assumes nothing about the
distribution, which step times do not follow anyway (they have a floor and a long tail). Fewer than three
values give a median and no interval. Outliers are counted, never dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_VALUES = 3
RESAMPLES = 2000
MAX_DRAWN = 1000
"""Values drawn of one repeat: more would only cost time, and fewer make the interval wider, never narrower."""
_CHUNK_ELEMENTS = 1 << 20
"""Largest block of resampled values held at once: 8 MiB, so that a run of a million steps costs no memory."""

Interval = tuple[float | None, float | None, float | None]


def _checked(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"values of shape {array.shape}: statistics take one row of numbers")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {array.size} values are not finite numbers")
    return array


def _bootstrap_medians(array: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    rows = max(1, _CHUNK_ELEMENTS // array.size)
    medians = np.empty(resamples)
    for begin in range(0, resamples, rows):
        count = min(rows, resamples - begin)
        medians[begin : begin + count] = np.median(array[rng.integers(0, array.size, (count, array.size))], axis=1)
    return medians


def median_ci(values: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """(median, low, high) with a 95 % interval; None for the interval below 3 values, and for all three of none."""
    array = _checked(values)
    if array.size == 0:
        return None, None, None
    median = float(np.median(array))
    if array.size < MIN_VALUES:
        return median, None, None
    low, high = np.quantile(_bootstrap_medians(array, np.random.default_rng(seed), RESAMPLES), [0.025, 0.975])
    return median, float(low), float(high)


def median_of_repeats_ci(repeats: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """(median, low, high) over the values of several repeats, by a bootstrap in two levels: repeats, then their values.

    Repeats of one thing differ by more than their steps do; resampling them makes that part of the interval.
    """
    arrays = [_checked(values) for values in repeats]
    arrays = [array for array in arrays if array.size]
    if not arrays:
        return None, None, None
    everything = np.concatenate(arrays)
    if len(arrays) == 1 or everything.size < MIN_VALUES:
        return median_ci(everything, seed)
    rng, num = np.random.default_rng(seed), len(arrays)
    sizes = np.array([array.size for array in arrays])
    table = np.zeros((num, sizes.max()))
    for row, array in zip(table, arrays, strict=True):
        row[: array.size] = array
    drawn = min(int(sizes.max()), MAX_DRAWN)
    chunk = max(1, _CHUNK_ELEMENTS // (num * drawn))
    medians = np.empty(RESAMPLES)
    for begin in range(0, RESAMPLES, chunk):
        count = min(chunk, RESAMPLES - begin)
        chosen = rng.integers(0, num, (count, num, 1))
        positions = (rng.random((count, num, drawn)) * sizes[chosen]).astype(np.int64)
        medians[begin : begin + count] = np.median(table[chosen, positions].reshape(count, -1), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(everything)), float(low), float(high)


def ratio_ci(numerator: Sequence[float], denominator: Sequence[float], seed: int = 0) -> Interval:
    """Ratio of two medians with its 95 % interval; the two samples are resampled independently."""
    above, below = _checked(numerator), _checked(denominator)
    if above.size == 0 or below.size == 0 or np.median(below) == 0:
        return None, None, None
    ratio = float(np.median(above) / np.median(below))
    if min(above.size, below.size) < MIN_VALUES:
        return ratio, None, None
    rng = np.random.default_rng(seed)
    lower = _bootstrap_medians(below, rng, RESAMPLES)
    if (lower == 0).any():
        return ratio, None, None
    low, high = np.quantile(_bootstrap_medians(above, rng, RESAMPLES) / lower, [0.025, 0.975])
    return ratio, float(low), float(high)


def differ(first: Interval, second: Interval) -> bool | None:
    """Whether two intervals lie apart, so that the medians may be called different; None without intervals."""
    if first[1] is None or first[2] is None or second[1] is None or second[2] is None:
        return None
    return first[2] < second[1] or second[2] < first[1]


def outliers(values: Sequence[float] | np.ndarray, threshold: float = 5.0) -> list[int]:
    """Positions further than `threshold` scaled median absolute deviations from the median: to show, not to drop."""
    array = _checked(values)
    if array.size < MIN_VALUES:
        return []
    distance = np.abs(array - np.median(array))
    spread = 1.4826 * float(np.median(distance))
    if spread == 0:
        return []
    return [int(index) for index in np.flatnonzero(distance > threshold * spread)]


def num_warmup(values: Sequence[float] | np.ndarray, minimum: int = 0) -> int | None:
    """Leading values that belong to warm-up: those before the first three in a row that look like the second half.

    Alike means at most three scaled median absolute deviations (and never less than 2 %) above the second
    half's median. None when the first half never gets there, or when there are too few values to tell.
    """
    array = _checked(values)
    half = array.size // 2
    if half < MIN_VALUES:
        return None
    steady = array[half:]
    middle = float(np.median(steady))
    spread = 1.4826 * float(np.median(np.abs(steady - middle)))
    settled = array <= middle + max(3 * spread, 0.02 * abs(middle))
    for begin in range(half):
        if settled[begin : begin + MIN_VALUES].all():
            return max(minimum, begin)
    return None


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank. None where one side does not vary.

    Raises ValueError for values that make no pairs.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values: a correlation needs pairs")
    middle = (len(first) + 1) / 2
    x, y = _ranks(first) - middle, _ranks(second) - middle
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / spread if spread else None


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, ties at their mean."""
    _, inverse, counts = np.unique(_checked(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
