"""What a planner must beat: one constant rate for all layouts, and the rule of thumb of many guides."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from hpc_accel.plan.evaluate.predict import Answer
from hpc_accel.plan.evaluate.score import Judged, choice_scores, groups_of, time_scores


def constant_scores(judged: Sequence[Judged]) -> dict[str, Any]:
    """One FLOP/s per GPU for every row: of those that some row reaches, the one with the least mean error."""
    rows = [each for each in judged if each.case.scored and each.case.step_time_s and each.case.layout is not None]
    if not rows:
        return {"num_rows": 0}
    work = [(each.case.flops_per_gpu, each.case.step_time_s or 0.0) for each in rows]

    def error(rate: float) -> float:
        return statistics.fmean(abs(flops / rate / seconds - 1) for flops, seconds in work)

    rates = sorted(flops / seconds for flops, seconds in work)
    rate = min(rates[:: max(1, len(rates) // 200)], key=error)
    said = [
        Judged(case=each.case, answer=Answer(step_time_s=each.case.flops_per_gpu / rate, peak_memory_bytes=None))
        for each in rows
    ]
    return {"tflops_per_gpu": rate / 1e12} | time_scores(said)


def rule_scores(judged: Sequence[Judged]) -> dict[str, Any]:
    """Smallest tp, then smallest pp, then largest micro-batch: an order without times."""
    rows = [each for each in judged if each.case.scored]
    return choice_scores(groups_of(rows, lambda each: each.case.rule))
