"""Inference runs as rows and cards: which configuration serves the most requests within the limit, and at what latency.

With `infer.latency_limit_ms` the best has the highest rate within it; without, the shortest p99 at the highest listed
rate (p50 where there were too few requests for a p99), and what overlaps with it is a tie. Runs of wrong answers are
never ranked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hpc_accel.report import fields, summary_csv, wording
from hpc_accel.report.ranking import Best, throughput
from hpc_accel.report.records import RunRecord, StudyRecords
from hpc_accel.report.statistics import Interval


def rates(run: RunRecord) -> list[dict[str, Any]]:
    """What was measured at each arrival rate, the lowest rate first."""
    found = [rate for rate in fields.items(run.summary, "inference", "rates") if fields.positive(rate, "rate_per_s")]
    return sorted(found, key=lambda rate: fields.positive(rate, "rate_per_s") or 0.0)


def max_rate(run: RunRecord) -> Interval | None:
    """The highest rate within the limit, and as its upper end the lowest that broke it."""
    limit = fields.mapping(run.summary, "inference", "limit")
    found = fields.positive(limit, "max_rate_per_s")
    if found is None:
        return None
    return Interval(value=found, low=found, high=max(found, fields.positive(limit, "next_rate_per_s") or found))


def best(runs: list[RunRecord]) -> Best | None:
    """The run to serve with, and those that cannot be told from it."""
    counting = [run for run in runs if run.counts]
    limited = [(rate, run) for run in counting if (rate := max_rate(run))]
    if limited:
        highest, run = max(limited, key=lambda pair: pair[0].value)
        ties = tuple(each for rate, each in limited if each is not run and rate.overlaps(highest))
        return Best(run=run, value=highest, ties=ties)
    if any(fields.positive(run.summary, "inference", "limit", "latency_limit_ms") for run in counting):
        return None  # a limit that no run holds has no winner
    timed = [(value, run) for run in counting if (value := _tail_ms(run)) is not None]
    if not timed:
        return None
    shortest, run = min(timed, key=lambda pair: pair[0].value)
    ties = tuple(each for value, each in timed if each is not run and value.overlaps(shortest))
    return Best(run=run, value=shortest, ties=ties)


def _tail_ms(run: RunRecord) -> Interval | None:
    last = rates(run)[-1:]
    values = [latency_ms(rate, key) for rate in last for key in ("p99", "p50")]
    return next((value for value in values if value is not None), None)


def latency_ms(rate: dict[str, Any], key: str) -> Interval | None:
    """A percentile at one arrival rate, with its interval; an end beyond the longest latency is infinite."""
    value, ends = fields.positive(rate, "latency_ms", key), fields.at(rate, "latency_ms", "intervals", key)
    if value is None:
        return None
    if not isinstance(ends, list) or len(ends) != 2:
        return Interval(value=value, low=value, high=value, is_known=False)
    low, high = (end if isinstance(end, int | float) and end > 0 else None for end in ends)
    return Interval(value=value, low=min(low or 0.0, value), high=max(high or math.inf, value))


def best_words(runs: list[RunRecord]) -> str:
    """One workload's part of the answer's line."""
    found = best(runs)
    if found is None:
        reasons = dict.fromkeys(why for run in runs if run.counts and (why := limit_reason(run)))
        counts = sum(run.counts for run in runs)
        why = f"none within the limit: {next(iter(reasons))}" if reasons else f"{counts} of {len(runs)} runs count"
        return f"{wording.NOT_MEASURED if not counts else 'no configuration'} ({why})"
    tie = f" (a tie with {wording.named([run.label for run in found.ties])})" if found.ties else ""
    return f"{found.run.label}, {_figure(found)}{tie}{_after(deadline(found.run).words)}{outputs_words(found.run)}"


def _figure(found: Best) -> str:
    run = found.run
    limit = fields.mapping(run.summary, "inference", "limit")
    if max_rate(run):
        percentile, limit_ms = fields.number(limit, "percentile") or 99, fields.positive(limit, "latency_limit_ms")
        bound = f"p{percentile:g} within {limit_ms or 0:g} ms"
        return f"{wording.short(found.value.value)} requests/s with {bound}"
    last = rates(run)[-1]
    key = "p99" if fields.positive(last, "latency_ms", "p99") else "p50"
    rate = wording.short(fields.positive(last, "rate_per_s"))
    spread = f" ({_spread(found.value)})" if found.value.is_known else ""
    return f"{key} {wording.short(found.value.value)} ms{spread} at {rate} requests/s"


def _spread(latency: Interval) -> str:
    """`17 to 35`, or `17 or more` where too few requests bound it."""
    low = wording.short(latency.low)
    return f"{low} to {wording.short(latency.high)}" if math.isfinite(latency.high) else f"{low} or more"


def limit_reason(run: RunRecord) -> str | None:
    """Why there is no highest rate; None where there is."""
    if max_rate(run):
        return None
    return fields.text(run.summary, "inference", "limit", "reason") or "no highest rate was looked for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """Whether the listed arrival rates met the deadline; None and no words where there is none."""

    passed: bool | None
    words: str


def deadline(run: RunRecord) -> Deadline:
    """The verdict on a run: missed at the lowest rate that missed it, or met up to the highest."""
    judged = [rate for rate in rates(run) if isinstance(fields.at(rate, "deadline", "passed"), bool)]
    if not judged:
        return Deadline(passed=None, words="")
    late = [rate for rate in judged if not fields.at(rate, "deadline", "passed")]
    decisive = late[0] if late else judged[-1]
    at = f"{fields.positive(decisive, 'rate_per_s') or 0:g} requests/s"
    limit = f"the deadline of {fields.positive(decisive, 'deadline', 'deadline_ms') or 0:g} ms"
    if not late:
        return Deadline(passed=True, words=f"{limit} is met up to {at}")
    share = wording.percent(fields.number(decisive, "deadline", "share_missed"))
    return Deadline(passed=False, words=f"at {at} {share} miss {limit}")


def _after(words: str) -> str:
    return f"; {words}" if words else ""


def outputs_words(run: RunRecord) -> str:
    """What the recipe did to the answers, said where it did something."""
    outputs = fields.mapping(run.summary, "outputs")
    error, agreement = fields.number(outputs, "max_rel_err"), fields.number(outputs, "top1_agreement")
    if error is None or error < 1e-4:
        return ""
    agreed = f", {wording.percent(agreement)} of the classes agree" if agreement is not None else ""
    return f"; outputs differ from fp32 by up to {wording.percent(error)}{agreed}{metric_words(run, before=', ')}"


def metric_words(run: RunRecord, before: str = "") -> str:
    """`accuracy 0.961 (fp32 0.964)`, or nothing."""
    metric = fields.mapping(run.summary, "outputs", "metric")
    value, reference = fields.number(metric, "value"), fields.number(metric, "reference_value")
    if value is None or reference is None:
        return ""
    return f"{before}{fields.text(metric, 'name') or 'metric'} {value:.4g} (fp32 {reference:.4g})"


def cards(records: StudyRecords) -> list[dict[str, Any]]:
    """One card per workload that was served."""
    found: list[dict[str, Any]] = []
    for workload in records.served_workloads:
        runs = records.served_of(workload)
        top = best(runs)
        if top is None:
            found.append({"workload": workload, "run": None, "num_runs": len(runs), "why": best_words(runs)})
            continue
        found.append(
            {
                "workload": workload,
                "run": top.run,
                "figure": _figure(top),
                "deadline": deadline(top.run),
                "command": records.submit_command(top.run),
                "outputs": outputs_words(top.run).removeprefix("; "),
                "tie": wording.named([run.label for run in top.ties], most=3) if top.ties else "",
            }
        )
    return found


def latency_rows(records: StudyRecords) -> list[dict[str, Any]]:
    """One row per counting run and arrival rate."""
    found = []
    for run in records.served:
        for rate in rates(run) if run.counts else []:
            reasons = fields.mapping(rate, "latency_ms", "reasons")
            found.append(
                {
                    "name": f"{run.workload} {run.label}",
                    "rate": wording.short(fields.positive(rate, "rate_per_s")),
                    "served": wording.short(fields.positive(rate, "served_per_s")),
                    "latencies": [
                        {
                            "text": wording.short(value.value) if value else "",
                            "spread": _spread(value) if value and value.is_known else "",
                            "reason": None if value else fields.text(reasons, key) or wording.NOT_MEASURED,
                        }
                        for key in fields.PERCENTILES
                        for value in [latency_ms(rate, key)]
                    ],
                    "requests": f"{fields.number(rate, 'num_requests') or 0:,.0f}",
                    "batch": wording.short(fields.positive(rate, "mean_batch")),
                    "deadline": _verdict(rate),
                    "energy": wording.short(fields.positive(rate, "energy", "per_request_j")),
                    "energy_reason": fields.text(rate, "energy", "reason"),
                }
            )
    return found


def _verdict(rate: dict[str, Any]) -> dict[str, Any]:
    passed = fields.at(rate, "deadline", "passed")
    if not isinstance(passed, bool):
        return {"text": "none set", "passed": None}
    share = wording.percent(fields.number(rate, "deadline", "share_missed"))
    return {"text": f"{'met' if passed else 'missed'} ({share} late)", "passed": passed}


def run_rows(records: StudyRecords) -> list[dict[str, Any]]:
    """One row per inference run: full batches, the highest rate, and what its recipe does to the answers."""
    found = []
    for run in records.served:
        outputs, limit = fields.mapping(run.summary, "outputs"), max_rate(run)
        rate = throughput(run)
        error, agreement = fields.number(outputs, "max_rel_err"), fields.number(outputs, "top1_agreement")
        found.append(
            {
                "run": run,
                "step": wording.with_interval(rate.inverse(1e3 * _batch(run))) if rate else wording.NOT_MEASURED,
                "rate": wording.short(rate.value) if rate else wording.NOT_MEASURED,
                "limit": wording.short(limit.value) if limit else "",
                "limit_reason": limit_reason(run),
                "error": wording.error(error) if error is not None else "",
                "agreement": wording.percent(agreement) if agreement is not None else "",
                "agreement_reason": fields.text(outputs, "top1_reason") or wording.NOT_MEASURED,
                "metric": metric_words(run),
                "metric_reason": fields.text(outputs, "metric_reason") or wording.NOT_MEASURED,
                "memory": wording.memory(fields.positive(run.summary, "peak_memory_bytes")),
                "status_reason": summary_csv.status_reason(run),
            }
        )
    return found


def notes(records: StudyRecords) -> list[dict[str, str]]:
    """What a reader must know of recipes and layouts; runs with the same words share an entry."""
    shared: dict[str, list[str]] = {}
    for run in records.served:
        found = fields.at(run.summary, "inference", "notes")
        for note in found if isinstance(found, list) else []:
            if isinstance(note, str):
                shared.setdefault(fields.clean(note), []).append(f"{run.workload} {run.label}")
    return [{"text": text, "runs": wording.named(names, most=3)} for text, names in shared.items()]


def _batch(run: RunRecord) -> float:
    return fields.positive(run.summary, "steps", "global_batch_size") or 1.0


def generation_rows(records: StudyRecords) -> list[dict[str, str]]:
    """One row per counting run and cache setting."""
    found = []
    for run in records.served:
        for item in fields.items(run.summary, "inference", "generate") if run.counts else []:
            error = fields.number(item, "cache_max_rel_err")
            found.append(
                {
                    "name": f"{run.workload} {run.label}",
                    "cache": "with" if item.get("kv_cache") is True else "without",
                    "tokens": f"{fields.number(item, 'prompt') or 0:g} + {fields.number(item, 'tokens') or 0:g}",
                    "first": wording.short(fields.positive(item, "time_to_first_token_ms", "median")),
                    "each": wording.short(fields.positive(item, "time_per_output_token_ms", "median")),
                    "rate": wording.short(fields.positive(item, "tokens_per_s")),
                    "energy": wording.short(fields.positive(item, "energy", "per_token_j")),
                    "error": wording.error(error) if error is not None else "is the reference",
                }
            )
    return found
