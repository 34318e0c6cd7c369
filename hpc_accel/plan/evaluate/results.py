"""A study's own runs against what its plan said of them: errors, order, what the choice costs, and memory.

Runs that something disturbed are counted, and judged apart: what was timed then is not what the machine does.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.files import read_object
from hpc_accel.measure.statistics import spearman
from hpc_accel.record import Broken, Summary, read

DISTURBED = "disturbed: "
"""How a summary's warnings of it begin."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One measured run of a plan. Times in milliseconds; `predicted_ms` None where `reason` says why."""

    workload: str
    run_id: str
    label: str
    predicted_ms: float | None
    reason: str | None
    measured_ms: float
    low_ms: float
    high_ms: float
    predicted_bytes: int | None
    measured_bytes: float | None
    disturbed: bool

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return self.predicted_ms / self.measured_ms - 1 if self.predicted_ms is not None else None


def outcomes_of(results: Path) -> list[Outcome]:
    """The measured runs of a study's results. Raises ConfigError where there is no plan to compare them with."""
    plan = read_object(results / "plan.json")
    if isinstance(plan, str) or not isinstance(plan.get("candidates"), list):
        raise ConfigError(
            f"{results}: {plan if isinstance(plan, str) else 'plan.json has no candidates'}",
            "a study's predictions are judged from the directory with its plan.json and runs",
            "name the results of a study, for example results/quickstart, or a table with its mapping",
        )
    found, unread = [], ""
    for candidate in plan["candidates"]:
        if not candidate.get("chosen") or candidate.get("infer") is not None:
            continue
        summary = read(results / "runs" / candidate["run_id"] / "summary.json", candidate["run_id"])
        if isinstance(summary, Summary) and summary.step_time_ms.positive is not None:
            found.append(_outcome(candidate, summary))
        elif isinstance(summary, Broken):
            unread = unread or f"{candidate['run_id']}: {summary.reason}"
    if not found:
        raise ConfigError(
            f"{results}: no run was measured{f' ({unread})' if unread else ''}",
            "predictions are judged by runs that have a step time",
            "measure the study with this version first",
        )
    return found


def _outcome(candidate: dict[str, Any], summary: Summary) -> Outcome:
    prediction = candidate.get("prediction") or {}
    time = summary.step_time_ms
    measured = float(time.value or 0.0)
    return Outcome(
        workload=candidate["workload"],
        run_id=candidate["run_id"],
        label=candidate["run_id"].rpartition("-")[0],
        predicted_ms=prediction.get("step_time_ms"),
        reason=prediction.get("step_time_reason") or (None if prediction else "the plan predicted nothing"),
        measured_ms=measured,
        low_ms=measured if time.ci_low is None else time.ci_low,
        high_ms=measured if time.ci_high is None else time.ci_high,
        predicted_bytes=prediction.get("peak_memory_bytes"),
        measured_bytes=summary.memory.peak_memory_bytes.value,
        disturbed=any(warning.startswith(DISTURBED) for warning in summary.warnings),
    )


def evaluate_results(results: Path) -> dict[str, Any]:
    """All figures of one study, over all its runs and over those that nothing disturbed."""
    outcomes = outcomes_of(results)
    quiet = [each for each in outcomes if not each.disturbed]
    refused: dict[str, int] = {}
    for each in outcomes:
        if each.predicted_ms is None:
            refused[each.reason or ""] = refused.get(each.reason or "", 0) + 1
    return {
        "study": results.name,
        "num_runs": len(outcomes),
        "num_disturbed": len(outcomes) - len(quiet),
        "all": scores(outcomes),
        "quiet": scores(quiet),
        "refused": [{"reason": reason, "num_rows": count} for reason, count in sorted(refused.items())],
        "runs": [
            {
                "run": each.label,
                "predicted_ms": each.predicted_ms,
                "measured_ms": each.measured_ms,
                "interval_ms": [each.low_ms, each.high_ms],
                "error": None if each.error is None else 100 * each.error,
                "memory_error": _memory_error(each),
                "disturbed": each.disturbed,
            }
            for each in outcomes
        ],
    }


def scores(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Errors in per cent, the order of pairs whose intervals differ, the regret of each workload's choice, memory."""
    said = [each for each in outcomes if each.error is not None]
    errors = [each.error for each in said if each.error is not None]
    memory = [error for each in outcomes if (error := _memory_error(each)) is not None]
    found: dict[str, Any] = {"num_rows": len(said), "num_refused": len(outcomes) - len(said)}
    if errors:
        sizes = sorted(map(abs, errors))
        found |= {
            "mape": 100 * statistics.fmean(sizes),
            "median_error": 100 * statistics.median(sizes),
            "signed_error": 100 * statistics.fmean(errors),
            "max_error": 100 * sizes[-1],
        }
    pairs = [_in_order(one, other) for one, other in _distinct(said)]
    if pairs:
        found |= {"num_pairs": len(pairs), "pairs_in_order": 100 * sum(pairs) / len(pairs)}
    correlations = [rho for group in _groups(said) if (rho := _spearman(group)) is not None]
    if correlations:
        found["mean_spearman"] = statistics.fmean(correlations)
    regrets = [_regret(group) for group in _groups(said)]
    if regrets:
        found |= {"num_groups": len(regrets), "regret_first_1": 100 * statistics.fmean(regrets)}
        found["max_regret"] = 100 * max(regrets)
    if memory:
        found |= {"num_peaks": len(memory), "memory_signed_error": statistics.fmean(memory)}
        found["memory_max_under"] = max(0.0, -min(memory))
    return found


def _groups(outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
    """Runs of one workload, where there are several."""
    groups: dict[str, list[Outcome]] = {}
    for each in outcomes:
        groups.setdefault(each.workload, []).append(each)
    return [group for group in groups.values() if len(group) > 1]


def _distinct(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """Pairs of one workload whose measured intervals do not overlap."""
    pairs = [pair for group in _groups(outcomes) for pair in combinations(group, 2)]
    return [(a, b) for a, b in pairs if a.high_ms < b.low_ms or b.high_ms < a.low_ms]


def _in_order(one: Outcome, other: Outcome) -> bool:
    assert one.predicted_ms is not None and other.predicted_ms is not None
    return (one.predicted_ms < other.predicted_ms) == (one.measured_ms < other.measured_ms)


def _spearman(group: Sequence[Outcome]) -> float | None:
    """Over the runs that differ from at least one other of the group."""
    differing = {id(each) for pair in _distinct(group) for each in pair}
    kept = [each for each in group if id(each) in differing]
    if len(kept) < 3:
        return None
    return spearman([each.predicted_ms or math.nan for each in kept], [each.measured_ms for each in kept])


def _regret(group: Sequence[Outcome]) -> float:
    """How much slower the one predicted fastest is than the fastest; 0 where their intervals overlap."""
    chosen = min(group, key=lambda each: each.predicted_ms or math.inf)
    best = min(group, key=lambda each: each.measured_ms)
    return 0.0 if chosen.low_ms <= best.high_ms else chosen.measured_ms / best.measured_ms - 1


def _memory_error(each: Outcome) -> float | None:
    """Signed, in per cent."""
    if not each.predicted_bytes or not each.measured_bytes:
        return None
    return 100 * (each.predicted_bytes / each.measured_bytes - 1)
