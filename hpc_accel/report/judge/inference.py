"""Inference runs judged: which configuration answers the most requests within the limit, and at what latency.

With `infer.latency_limit_ms` the best has the highest rate within it; without, the shortest p99 at the highest listed
rate (p50 where there were too few requests for a p99), and what overlaps with it is a tie. Runs of wrong answers are
never ranked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpc_accel.record.inference import Rate
from hpc_accel.report.judge import wording
from hpc_accel.report.judge.ranking import Best
from hpc_accel.report.judge.statistics import Interval
from hpc_accel.report.load.run_record import RunRecord


def rates(run: RunRecord) -> list[Rate]:
    """What was measured at each arrival rate, the lowest rate first."""
    measured = run.summary.inference
    return sorted(measured.rates, key=lambda rate: rate.rate_per_s) if measured else []


def max_rate(run: RunRecord) -> Interval | None:
    """The highest rate within the limit, and as its upper end the lowest that broke it."""
    limit = run.summary.inference.limit if run.summary.inference else None
    found = limit.max_rate_per_s.positive if limit else None
    if limit is None or found is None:
        return None
    return Interval(value=found, low=found, high=max(found, limit.next_rate_per_s.value or found))


def best(runs: list[RunRecord]) -> Best | None:
    """The best configuration, and those that cannot be told from it."""
    counting = [run for run in runs if run.counts]
    limited = [(rate, run) for run in counting if (rate := max_rate(run))]
    if limited:
        highest, run = max(limited, key=lambda pair: pair[0].value)
        ties = tuple(each for rate, each in limited if each is not run and rate.overlaps(highest))
        return Best(run=run, value=highest, ties=ties)
    if any(latency_limit_ms(run) for run in counting):
        return None  # a limit that no run holds has no winner
    timed = _tails_ms(counting)
    if not timed:
        return None
    shortest, run = min(timed, key=lambda pair: pair[0].value)
    ties = tuple(each for value, each in timed if each is not run and value.overlaps(shortest))
    return Best(run=run, value=shortest, ties=ties)


def _tails_ms(runs: list[RunRecord]) -> list[tuple[Interval, RunRecord]]:
    """The 99th percentile at the highest rate where every run has one, else the median of those that have it."""
    for key in ("p99", "p50"):
        found = [
            (value, run) for run in runs for rate in rates(run)[-1:] if (value := latency_ms(rate, key)) is not None
        ]
        if found and (key == "p50" or len(found) == len(runs)):
            return found
    return []


def latency_limit_ms(run: RunRecord) -> float | None:
    """The limit that the study sets, if it does."""
    return run.summary.inference.limit.latency_limit_ms.positive if run.summary.inference else None


def latency_ms(rate: Rate, key: str) -> Interval | None:
    """A percentile at one arrival rate, with its interval; an end beyond the longest latency is infinite."""
    estimate = rate.latency_ms.percentile(key)
    value = estimate.positive
    if value is None:
        return None
    return Interval(value=value, low=min(estimate.ci_low or 0.0, value), high=max(estimate.ci_high or math.inf, value))


def best_words(runs: list[RunRecord]) -> str:
    """One workload's part of the answer's line."""
    found = best(runs)
    if found is None:
        reasons = dict.fromkeys(why for run in runs if run.counts and (why := limit_reason(run)))
        counts = sum(run.counts for run in runs)
        why = f"none within the limit: {next(iter(reasons))}" if reasons else f"{counts} of {len(runs)} runs count"
        return f"{wording.NOT_MEASURED if not counts else 'no configuration'} ({why})"
    tie = f" (a tie with {wording.named([run.label for run in found.ties])})" if found.ties else ""
    return f"{found.run.label}, {figure_words(found)}{tie}{_after(deadline(found.run).words)}{outputs_words(found.run)}"


def figure_words(found: Best) -> str:
    """What the best configuration reached: its highest rate within the limit, else its latency at the highest rate."""
    run = found.run
    if run.summary.inference and max_rate(run):
        bound = f"p{run.summary.inference.limit.percentile:g} within {latency_limit_ms(run) or 0:g} ms"
        return f"{wording.short(found.value.value)} requests/s with {bound}"
    last = rates(run)[-1]
    key = "p99" if last.latency_ms.p99.positive else "p50"
    rate = wording.short(last.rate_per_s)
    spread = f" ({spread_words(found.value)})" if found.value.is_known else ""
    return f"{key} {wording.short(found.value.value)} ms{spread} at {rate} requests/s"


def spread_words(latency: Interval) -> str:
    """`17 to 35`, or `17 or more` where too few requests bound it."""
    low = wording.short(latency.low)
    return f"{low} to {wording.short(latency.high)}" if math.isfinite(latency.high) else f"{low} or more"


def limit_reason(run: RunRecord) -> str | None:
    """Why there is no highest rate; None where there is."""
    if max_rate(run):
        return None
    measured = run.summary.inference
    return measured.limit.max_rate_per_s.reason if measured else run.summary.throughput_samples_per_s.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """Whether the listed arrival rates met the deadline; None and no words where there is none."""

    passed: bool | None
    words: str


def deadline(run: RunRecord) -> Deadline:
    """The verdict on a run: missed at the lowest rate that missed it, or met up to the highest."""
    judged = [rate for rate in rates(run) if rate.deadline.passed is not None]
    if not judged:
        return Deadline(passed=None, words="")
    late = [rate for rate in judged if not rate.deadline.passed]
    decisive = late[0] if late else judged[-1]
    at = f"{decisive.rate_per_s:g} requests/s"
    limit = f"the deadline of {decisive.deadline.deadline_ms.value or 0:g} ms"
    if not late:
        return Deadline(passed=True, words=f"{limit} is met up to {at}")
    share = wording.percent(decisive.deadline.share_missed.value)
    return Deadline(passed=False, words=f"at {at} {share} miss {limit}")


def _after(words: str) -> str:
    return f"; {words}" if words else ""


def outputs_words(run: RunRecord) -> str:
    """What the recipe did to the answers, said where it did something."""
    outputs = run.summary.outputs
    error = outputs.max_rel_err.value if outputs else None
    if outputs is None or error is None or error < 1e-4:
        return ""
    agreement = outputs.top1_agreement.value
    agreed = f", {wording.percent(agreement)} of the classes agree" if agreement is not None else ""
    return f"; outputs differ from fp32 by up to {wording.percent(error)}{agreed}{metric_words(run, before=', ')}"


def metric_words(run: RunRecord, before: str = "") -> str:
    """`accuracy 0.961 (fp32 0.964)`, or nothing."""
    metric, outputs = run.summary.metric, run.summary.outputs
    reference = outputs.metric_of_reference.value if outputs else None
    if metric.value is None or reference is None:
        return ""
    return f"{before}{metric.name or 'metric'} {metric.value:.4g} (fp32 {reference:.4g})"
