"""Statistics that only a report needs: mean prediction error, the interval of a ratio, overlap.

The interval of a step time itself is computed where the steps are (summary.json); here two of them are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A median with its 95 % interval; without one (`is_known` False) low and high equal the value."""

    value: float
    low: float
    high: float
    is_known: bool = True

    def overlaps(self, other: Interval) -> bool:
        """Whether the two cannot be told apart: without intervals nobody can say that they differ."""
        if not (self.is_known and other.is_known):
            return True
        return self.low <= other.high and other.low <= self.high

    def scaled(self, factor: float) -> Interval:
        """The interval in another unit; `factor` is above 0."""
        ends = {"low": self.low * factor, "high": self.high * factor}
        return Interval(value=self.value * factor, is_known=self.is_known, **ends)

    def inverse(self, numerator: float = 1.0) -> Interval:
        """numerator / x, whose low end comes from the high end: a throughput from a time."""
        ends = {"low": numerator / self.high, "high": numerator / self.low}
        return Interval(value=numerator / self.value, is_known=self.is_known, **ends)


def ratio(above: Interval, below: Interval) -> Interval:
    """above / below for two independent positive quantities.

    Their relative errors are added in quadrature on the logarithmic scale, each side for itself, so that an
    asymmetric interval stays asymmetric and the result never falls below 0.
    """
    value = above.value / below.value
    down = math.hypot(math.log(above.value / above.low), math.log(below.high / below.value))
    up = math.hypot(math.log(above.high / above.value), math.log(below.value / below.low))
    known = above.is_known and below.is_known
    return Interval(value=value, low=value * math.exp(-down), high=value * math.exp(up), is_known=known)


def mean_absolute_percentage_error(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Mean of |predicted - measured| / measured as a fraction; None without pairs."""
    errors = [abs(p - m) / m for p, m in zip(predicted, measured, strict=True) if m > 0]
    return sum(errors) / len(errors) if errors else None
