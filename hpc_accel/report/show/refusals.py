"""One table of everything that is not recommended though somebody might want it: what, how many, why, what to do.

Candidates of one rule share a row, and so do runs of one fate, because a search refuses thousands for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpc_accel.report.judge import wording
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.study_records import StudyRecords
from hpc_accel.report.show import page_tables

MAX_ROWS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """`stage` is where it ended: before a run, after it, or in the prediction."""

    stage: str
    count: int
    example: str
    why: str
    remedy: str


def refusals(records: StudyRecords) -> list[Refusal]:
    """Runs that failed first, because somebody waited for them."""
    return [*_runs(records), *_rules(records), *_searches(records), *_slower(records)][:MAX_ROWS]


def _runs(records: StudyRecords) -> list[Refusal]:
    return [
        Refusal(
            stage=f"run {each['status']}",
            count=len(each["runs"]),
            example=f"{each['runs'][0][0].workload} {each['runs'][0][0].label}",
            why=each["why"],
            remedy=each["remedy"],
        )
        for each in page_tables.not_counting(records)
    ]


def _rules(records: StudyRecords) -> list[Refusal]:
    """Listed candidates that break a rule, by rule."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for item in page_tables.refused(records):
        groups.setdefault(item["rule"], []).append(item)
    return [
        Refusal(
            stage="breaks a rule",
            count=len(items),
            example=items[0]["name"],
            why=f"{items[0]['value']}: {rule}" if items[0]["value"] else rule,
            remedy=items[0]["remedy"],
        )
        for rule, items in groups.items()
    ]


def _searches(records: StudyRecords) -> list[Refusal]:
    """What a search went through and left, by rule."""
    return [
        Refusal(
            stage="left by the search",
            count=int(safe_json.positive(item, "count") or 1),
            example=f"{safe_json.text(search, 'workload') or '?'} {safe_json.text(item, 'first') or ''}".strip(),
            why=safe_json.text(item, "rule") or "?",
            remedy="",
        )
        for search in records.searches
        for item in safe_json.items(search, "refused")
    ]


def _slower(records: StudyRecords) -> list[Refusal]:
    """Those that can work and were predicted to be worse than the ones that were measured, by workload."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for item in records.left_out:
        groups.setdefault(safe_json.text(item, "workload") or "?", []).append(item)
    found = []
    for workload, items in groups.items():
        times = [time for item in items if (time := safe_json.positive(item, "prediction", "step_time_ms"))]
        best = f", the fastest of them {wording.short(min(times))} ms a step" if times else ""
        found.append(
            Refusal(
                stage="not measured",
                count=len(items),
                example=f"{workload} {page_tables.candidate_name(items[0]).removeprefix(workload).strip()}",
                why=f"predicted to be worse than those that were measured{best}",
                remedy="list it in the study's layouts to measure it",
            )
        )
    return found
