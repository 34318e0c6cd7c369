"""Figures of merit of predictions against measurements: error, order, what a choice costs, and whether memory fits.

Error alone proves nothing: tables of tuned runs are nearly constant. A planner is for choosing, so within each group
of rows that differ only in layout count whether they are in the right order, how much slower the chosen one is than
the best, and how much slower the best of the first few is: those are what a study would measure.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hpc_accel.measure.statistics import spearman
from hpc_accel.plan.evaluate.case import Case
from hpc_accel.plan.evaluate.predict import Answer

FIRST = (1, 3, 5)
"""Sizes of a short list."""
HELD_WITHIN = 0.02
NEAR = 0.1
Pairs = Sequence[tuple[Any, float]]
"""(score, measured) of each row of a group; the lower the score the sooner it is chosen."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One row with what was said of it."""

    case: Case
    answer: Answer


def time_scores(judged: Sequence[Judged]) -> dict[str, Any]:
    """Errors in per cent over the rows with both times that count, and what their groups' order is worth."""
    rows = [each for each in judged if each.case.scored and each.case.step_time_s is not None]
    said = [each for each in rows if each.answer.step_time_s is not None]
    if not said:
        return {"num_rows": 0, "num_refused": len(rows)}
    errors = [each.answer.step_time_s / each.case.step_time_s - 1 for each in said]  # type: ignore[operator]
    sizes = sorted(map(abs, errors))
    scores = {
        "num_rows": len(said),
        "num_refused": len(rows) - len(said),
        "mape": 100 * statistics.fmean(sizes),
        "median_error": 100 * statistics.median(sizes),
        "signed_error": 100 * statistics.fmean(errors),
        "p90_error": 100 * sizes[math.ceil(0.9 * len(sizes)) - 1],
        "max_error": 100 * sizes[-1],
    }
    return scores | choice_scores(groups_of(rows, lambda each: each.answer.step_time_s or math.inf))


def groups_of(judged: Sequence[Judged], score: Callable[[Judged], Any]) -> list[Pairs]:
    """(score, measured) by group, where a mapping file names groups; those of one row say nothing.

    Published tables are often sorted by speed, so rows come in an order drawn by chance, always the same: of equal
    scores the first is chosen. A refused row has the score math.inf.
    """
    groups: dict[tuple[Any, ...], list[tuple[Any, float]]] = {}
    for each in sorted(judged, key=lambda each: random.Random(each.case.number).random()):
        if each.case.group and each.case.step_time_s is not None:
            groups.setdefault(each.case.group, []).append((score(each), each.case.step_time_s))
    return [groups[key] for key in sorted(groups, key=repr) if len(groups[key]) > 1]


def choice_scores(groups: Sequence[Pairs]) -> dict[str, Any]:
    """Rank correlation, regret in per cent of the first few of each group, and how often the best was picked."""
    if not groups:
        return {"num_groups": 0}
    correlations = [rho for group in groups if (rho := _spearman_of(group)) is not None]
    regrets = {first: [_regret(group, first) for group in groups] for first in FIRST}
    scores: dict[str, Any] = {"num_groups": len(groups)}
    if correlations:
        scores["mean_spearman"] = statistics.fmean(correlations)
        scores["min_spearman"] = min(correlations)
    for first, values in regrets.items():
        scores[f"regret_first_{first}"] = 100 * statistics.fmean(values)
    scores["max_regret"] = 100 * max(regrets[1])
    scores["best_picked"] = 100 * sum(value == 0 for value in regrets[1]) / len(groups)
    return scores


def memory_scores(judged: Sequence[Judged], limit_bytes: int | None) -> dict[str, Any]:
    """Signed error of peaks in per cent; of runs that did and did not fit, how many are called right.

    A failed run has no peak, so it tells only whether it was called a fit.
    """
    known = [each for each in judged if each.answer.peak_memory_bytes is not None]
    both = [each for each in known if each.case.ran and each.case.peak_memory_bytes]
    errors = [each.answer.peak_memory_bytes / each.case.peak_memory_bytes - 1 for each in both]  # type: ignore[operator]
    scores: dict[str, Any] = {"num_peaks": len(errors)}
    if errors:
        scores |= {
            "memory_signed_error": 100 * statistics.fmean(errors),
            "memory_median_error": 100 * statistics.median(map(abs, errors)),
            "memory_max_under": 100 * max(0.0, -min(errors)),
            "memory_max_over": 100 * max(0.0, *errors),
            "under_by_10_percent": 100 * sum(error < -0.1 for error in errors) / len(errors),
        }
    scores |= _held_scores(known) | _range_scores(both)
    failed = [each for each in known if not each.case.ran]
    if limit_bytes is not None:
        ran = [each for each in known if each.case.ran]
        scores["limit_gb"] = limit_bytes / 1e9
        scores["ran_but_refused"] = _share(ran, lambda need: need > limit_bytes)
        if failed:
            scores["num_failed"] = len(failed)
            scores["failed_but_called_fit"] = _share(failed, lambda need: need <= limit_bytes)
    return scores


def _held_scores(known: Sequence[Judged]) -> dict[str, Any]:
    """Of what is held between steps."""
    errors = [
        abs(each.answer.allocated_bytes / each.case.allocated_bytes - 1)
        for each in known
        if each.case.allocated_bytes and each.answer.allocated_bytes
    ]
    if not errors:
        return {}
    within = 100 * sum(error <= HELD_WITHIN for error in errors) / len(errors)
    return {"num_held": len(errors), "held_within_2_percent": within, "held_max_error": 100 * max(errors)}


def _range_scores(both: Sequence[Judged]) -> dict[str, Any]:
    """Of peaks whose arguments ran several times, and differed: whether predictions lie inside or near the range."""
    ranges: dict[tuple[Any, ...], list[Judged]] = {}
    for each in both:
        if each.case.arguments:
            ranges.setdefault(each.case.arguments, []).append(each)
    if not ranges:
        return {}
    inside = 0
    for same in ranges.values():
        said = [each.answer.peak_memory_bytes or 0.0 for each in same]
        peaks = [each.case.peak_memory_bytes or 0.0 for each in same]
        inside += min(peaks) * (1 - NEAR) <= min(said) and max(said) <= max(peaks) * (1 + NEAR)
    return {"num_argument_sets": len(ranges), "peak_in_or_near_range": 100 * inside / len(ranges)}


def _share(judged: Sequence[Judged], test: Callable[[float], bool]) -> float | None:
    needs = [each.answer.peak_memory_bytes for each in judged if each.answer.peak_memory_bytes is not None]
    return 100 * sum(map(test, needs)) / len(needs) if needs else None


def _regret(group: Pairs, first: int) -> float:
    """How much slower the best of the first few is than the group's best, refused rows among them."""
    listed = sorted(group, key=lambda pair: pair[0])[:first]
    return min(measured for _, measured in listed) / min(measured for _, measured in group) - 1


def _spearman_of(group: Pairs) -> float | None:
    group = [pair for pair in group if pair[0] != math.inf]
    if len(group) < 2:
        return None
    place = {key: float(i) for i, key in enumerate(sorted({score for score, _ in group}))}
    return spearman([place[score] for score, _ in group], [measured for _, measured in group])
