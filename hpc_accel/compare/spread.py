"""The run-to-run spread of each configuration, of which a few repeats tell little.

Two or three repeats give a variance that is off by a factor of several. What all configurations have in common helps:
each variance is drawn towards the common one, the more so the more alike they are (Smyth, "Linear models and empirical
Bayes methods for assessing differential expression in microarray experiments", 2004, section 6). Variances that are not
alike stay what they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpc_accel.compare import student

MIN_CONFIGURATIONS = 3
"""With repeats, before anything is taken from their common variance."""
MIN_BORROWED_DF = 1.0
"""Below it the spreads are so unlike that a configuration without repeats has nothing to borrow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variance:
    """Of one run's logarithm, with its degrees of freedom; `is_borrowed` without a repeat of its own."""

    value: float
    df: float
    is_borrowed: bool = False


def variances(groups: Sequence[Sequence[Sequence[float]]]) -> list[Variance | None]:
    """The variance of each pair; None where nobody knows it.

    `groups` has per pair the logarithms of both sides' repeats. A configuration has one variance on both sides.
    """
    own = [_own(group) for group in groups]
    known = [each for each in own if each is not None]
    common = _common(known) if len(known) >= MIN_CONFIGURATIONS else None
    if common is None:
        return list(own)
    most = sum(each.df for each in known)
    # How alike the spreads are is itself known from few: never more than half of what all repeats tell together.
    common = replace(common, df=min(common.df, most / 2))
    return [_drawn(each, common, most) for each in own]


def _own(group: Sequence[Sequence[float]]) -> Variance | None:
    df = sum(len(side) - 1 for side in group)
    if df < 1:
        return None
    squares = sum(float(((array := np.asarray(side)) - array.mean()) @ (array - array.mean())) for side in group)
    return Variance(value=squares / df, df=df)


def _common(known: Sequence[Variance]) -> Variance | None:
    """The prior: its variance, and how many degrees of freedom it is worth. None where nothing varies."""
    values = np.array([each.value for each in known])
    middle = float(np.median(values[values > 0])) if (values > 0).any() else 0.0
    if middle == 0:
        return None
    half = [each.df / 2 for each in known]
    logs = np.log(np.maximum(values, 1e-5 * middle))
    logs -= np.array([student.digamma(x) - math.log(x) for x in half])
    excess = float(logs.var(ddof=1)) - float(np.mean([student.trigamma(x) for x in half]))
    if excess <= 0:  # they differ no more than chance makes them
        return Variance(value=float(np.average(values, weights=half)), df=math.inf)
    worth = student.inverse_trigamma(excess)
    value = math.exp(float(logs.mean()) + student.digamma(worth) - math.log(worth))
    return Variance(value=value, df=2 * worth)


def _drawn(own: Variance | None, common: Variance, most: float) -> Variance | None:
    """Both weighted by their degrees of freedom, of which there are never more than all repeats have together."""
    if own is None:
        return replace(common, is_borrowed=True) if common.df >= MIN_BORROWED_DF else None
    df = own.df + common.df
    return Variance(value=(own.df * own.value + common.df * common.value) / df, df=min(df, most))
