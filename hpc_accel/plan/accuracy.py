"""How good predictions were, once the same layouts have been measured: error, order, and what the choice cost.

Error alone proves nothing: tables of tuned runs are nearly constant. A planner is for choosing, so within each group
of comparable layouts count whether they are in the right order and how much slower the chosen one is than the best.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from hpc_accel.measure.statistics import spearman


def time_accuracy(groups: Sequence[Sequence[tuple[float, float]]]) -> dict[str, float]:
    """Errors over all (predicted, measured) pairs in per cent, and `choice_accuracy` of the predicted times."""
    errors = [predicted / measured - 1 for group in groups for predicted, measured in group]
    return {
        "mape": 100 * statistics.fmean(map(abs, errors)),
        "signed_error": 100 * statistics.fmean(errors),
        "max_error": 100 * max(map(abs, errors)),
    } | choice_accuracy(groups)


def choice_accuracy(groups: Sequence[Sequence[tuple[Any, float]]]) -> dict[str, float]:
    """Of (score, measured) pairs: regret in per cent of choosing each group's lowest score, and rank correlation.

    Scores are anything that can be ordered. Of equal scores the first is chosen.
    """
    regrets, correlations = [], []
    for group in groups:
        best = min(measured for _, measured in group)
        regrets.append(min(group, key=lambda pair: pair[0])[1] / best - 1)
        correlation = spearman(_as_numbers([score for score, _ in group]), [measured for _, measured in group])
        if correlation is not None:
            correlations.append(correlation)
    result = {
        "mean_regret": 100 * statistics.fmean(regrets),
        "max_regret": 100 * max(regrets),
        "groups_exact": sum(regret == 0 for regret in regrets),
        "num_groups": len(regrets),
    }
    if correlations:
        result["mean_spearman"] = statistics.fmean(correlations)
        result["min_spearman"] = min(correlations)
    return result


def _as_numbers(keys: Sequence[Any]) -> list[float]:
    """Numbers that order like `keys`, which may be tuples."""
    place = {key: float(i) for i, key in enumerate(sorted(set(keys)))}
    return [place[key] for key in keys]
