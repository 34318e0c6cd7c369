"""Ratios B over A with intervals, and what they bear out.

A ratio is that of the geometric means over repeats of the run's median. Its interval is Student's, on the logarithm,
with the run-to-run variance of `spread.py`, and never narrower than what the dependent steps of the runs leave open.
All intervals of one quantity hold together with 95 % (Bonferroni): so an interval that leaves 1 out is a difference,
and two equal studies show one in at most one of twenty comparisons, however many pairs they have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

from hpc_accel.compare import student
from hpc_accel.compare.match import Match, match
from hpc_accel.compare.side import QUANTITIES, STEP_TIME, Configuration, Side
from hpc_accel.compare.spread import Variance, variances

ERROR_RATE = 0.05
MAX_LOG = 100.0
"""Of a ratio: beyond it there is no measurement."""
MANY = 1e6
"""Degrees of freedom of a normal distribution."""
MIN_PAIRS = 3
"""Before their ratios are averaged: with fewer their spread is not known."""
MIN_REPEATS_REMEDY = "measure each configuration several times: measure: {repeats: 3} in both studies"
MAX_FACTOR = 10.0
"""An interval that reaches further from its ratio tells nothing."""
TOO_WIDE = "the runs of one side differ so much, or are so few, that nothing can be said"
NO_SPREAD = "one run on each side: what differs from run to run is not known"
Verdict = Literal["slower", "faster", "no difference shown", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """B over A. Without an interval, `reason` says why; without a value too where nothing was measured."""

    a: float | None = None
    b: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    steps_low: float | None = None  # what the steps alone tell, as if runs did not differ
    steps_high: float | None = None
    reason: str = ""
    method: str = ""

    def excludes(self, share: float) -> bool:
        """Whether a slow-down of this share would have been seen: the interval ends below it."""
        return self.high is not None and self.high < 1 + share

    @property
    def verdict(self) -> Verdict:
        """What the interval bears out."""
        if self.low is None or self.high is None:
            return "unknown"
        return "slower" if self.low > 1 else "faster" if self.high < 1 else "no difference shown"

    def is_slower_by(self, share: float) -> bool:
        """Whether it is slower for sure, and as measured by at least this share."""
        return self.verdict == "slower" and self.value is not None and self.value >= 1 + share


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One configuration in both studies."""

    a: Configuration
    b: Configuration
    ratios: dict[str, Ratio]  # of each quantity

    @property
    def time(self) -> Ratio:
        """Of the step time, which the verdict is about."""
        return self.ratios[STEP_TIME]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two studies side by side. `overall` is the geometric mean over the pairs' ratios of step time."""

    a: Side
    b: Side
    found: Match
    pairs: tuple[Pair, ...]
    overall: Ratio

    @property
    def unknown(self) -> tuple[Pair, ...]:
        """Pairs of which nobody can say whether they are slower."""
        return tuple(pair for pair in self.pairs if pair.time.verdict == "unknown")

    def slower_by(self, share: float) -> tuple[Pair, ...]:
        """Pairs that are slower, and as measured by at least this share."""
        return tuple(pair for pair in self.pairs if pair.time.is_slower_by(share))


def compare(a: Side, b: Side) -> Comparison:
    """Match two studies and judge each pair."""
    found = match(a, b)
    by_quantity = {quantity: _ratios(found.pairs, quantity) for quantity in QUANTITIES}
    pairs = tuple(
        Pair(a=first, b=second, ratios={quantity: by_quantity[quantity][number] for quantity in QUANTITIES})
        for number, (first, second) in enumerate(found.pairs)
    )
    overall = _overall([pair.time.value for pair in pairs], len(pairs) + 1)
    return Comparison(a=a, b=b, found=found, pairs=pairs, overall=overall)


def _ratios(pairs: Sequence[tuple[Configuration, Configuration]], quantity: str) -> list[Ratio]:
    gaps = [_gap(a, b, quantity) for a, b in pairs]
    logs = [[_logs(each, quantity) for each in pair] for pair, gap in zip(pairs, gaps, strict=True) if not gap]
    spreads = iter(variances(logs))
    # The mean over pairs is judged too, with the step time.
    num = len(logs) + (quantity == STEP_TIME and len(logs) >= MIN_PAIRS)
    return [
        Ratio(reason=gap) if gap else _ratio(a, b, quantity, next(spreads), num)
        for (a, b), gap in zip(pairs, gaps, strict=True)
    ]


def _gap(a: Configuration, b: Configuration, quantity: str) -> str:
    """Why there is no ratio; empty where there is one."""
    for name, each in (("A", a), ("B", b)):
        if each.problem:
            return f"in {name} {each.problem}"
        if not each.values(quantity):
            return f"{QUANTITIES[quantity]} was not measured in {name}"
    if quantity == "energy_per_sample_j" and (a.energy_basis != b.energy_basis or not a.energy_basis):
        bases = [each.energy_basis or "several among the repeats" for each in (a, b)]
        return f"energies of different scope or method: {bases[0]} in A, {bases[1]} in B"
    return ""


def _logs(configuration: Configuration, quantity: str) -> list[float]:
    return [math.log(value) for value in configuration.values(quantity)]


def _ratio(a: Configuration, b: Configuration, quantity: str, spread: Variance | None, num: int) -> Ratio:
    first, second = _logs(a, quantity), _logs(b, quantity)
    shift = fmean(second) - fmean(first)
    if abs(shift) > MAX_LOG:
        return Ratio(reason="the two are so far apart that one of them is no measurement")
    steps = _steps_variance(a, b) if quantity == STEP_TIME else 0.0
    is_readable = quantity == STEP_TIME and _is_readable(a) and _is_readable(b)
    within = _interval(shift, math.sqrt(steps), MANY, num) if is_readable and steps else (None, None)
    means = (math.exp(fmean(first)), math.exp(fmean(second)), math.exp(shift))
    found = Ratio(a=means[0], b=means[1], value=means[2], steps_low=within[0], steps_high=within[1])
    if spread is None:
        return replace(found, reason=NO_SPREAD)
    error = math.sqrt(max(spread.value * (1 / len(first) + 1 / len(second)), steps))
    low, high = _interval(shift, error, spread.df, num)
    if low is None:
        return replace(found, reason=TOO_WIDE)
    method = f"{len(first)} and {len(second)} runs, Student's t with {spread.df:.1f} degrees of freedom"
    borrowed = "; the spread is that of the other configurations" if spread.is_borrowed else ""
    return replace(found, low=low, high=high, method=method + borrowed)


def _steps_variance(a: Configuration, b: Configuration) -> float:
    """Of the logarithm of the ratio, by the steps alone, or the least that it can be; 0 where none can be read."""
    sums = []
    for each in (a, b):
        errors = [repeat.log_error for repeat in each.repeats]
        sums.append(sum((error or 0.0) ** 2 for error in errors) / len(errors) ** 2)
    return sum(sums)


def _is_readable(each: Configuration) -> bool:
    """Whether the steps of each run tell how exact its median is, so that they bound the ratio by themselves."""
    return all(repeat.log_error is not None and not repeat.is_least_error for repeat in each.repeats)


def _interval(shift: float, error: float, df: float, num: int) -> tuple[float, float] | tuple[None, None]:
    """With 95 % together for `num` intervals; None where it reaches too far to tell anything."""
    half = student.quantile(ERROR_RATE / num, df) * error if error else 0.0
    if half > math.log(MAX_FACTOR):
        return None, None
    return math.exp(shift - half), math.exp(shift + half)


def _overall(ratios: Sequence[float | None], num: int) -> Ratio:
    """The mean over pairs, whose interval comes from how the pairs differ: it needs no repeats."""
    logs = [math.log(value) for value in ratios if value]
    if len(logs) < MIN_PAIRS:
        return Ratio(reason=f"fewer than {MIN_PAIRS} pairs have a ratio")
    shift = fmean(logs)
    low, high = _interval(shift, stdev(logs) / math.sqrt(len(logs)), len(logs) - 1, num)
    if low is None:
        return Ratio(value=math.exp(shift), reason="the pairs differ too much for a mean to tell anything")
    return Ratio(value=math.exp(shift), low=low, high=high, method=f"Student's t over {len(logs)} pairs")
