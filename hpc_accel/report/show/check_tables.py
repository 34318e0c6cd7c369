"""How sure the figures are, run by run: warm-up, steps, repeats, outliers, the slowest rank, and its warnings."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import plausibility, ranking, wording
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords

MAX_SHOWN = 5
"""Positions of outliers written out; steps.parquet has every step."""


def rows(records: StudyRecords) -> list[dict[str, Any]]:
    """One row per run that counts."""
    return [
        {
            "name": f"{run.workload} {run.label}",
            "warmup": warmup_words(run),
            "steps": _steps(run),
            "outliers": outlier_words(run),
            "straggler": _straggler(run),
        }
        for run in records.runs
        if run.counts
    ]


def warnings(records: StudyRecords) -> list[dict[str, Any]]:
    """What is to be known of runs that count; runs with the same words share an entry."""
    shared: dict[str, list[str]] = {}
    serial = ranking.baselines(records.runs)
    for run in records.runs:
        if run.counts:
            for text in plausibility.warnings(run, serial):
                shared.setdefault(text, []).append(f"{run.workload} {run.label}")
    return [{"text": text, "runs": wording.named(names, most=3)} for text, names in shared.items()]


def warmup_words(run: RunRecord) -> str:
    """`5 left out, 3 detected`."""
    steps = safe_json.mapping(run.summary, "steps")
    counted, detected = safe_json.number(steps, "num_warmup"), safe_json.number(steps, "num_warmup_detected")
    if counted is None:
        return wording.NOT_MEASURED
    if detected is None:
        return f"{counted:g} left out; {safe_json.text(steps, 'warmup_reason') or 'not looked for'}"
    return f"{counted:g} left out, {detected:g} detected{' (too few left out)' if detected > counted else ''}"


def _steps(run: RunRecord) -> str:
    timed, asked = (safe_json.positive(run.summary, "steps", key) for key in ("num_timed", "num_asked"))
    if timed is None:
        return wording.NOT_MEASURED
    repeats = len([each for each in run.repeats if each.counts])
    text = f"{timed:g}" + (f" in {repeats} repeats" if repeats > 1 else "")
    extended = asked is not None and timed > asked * max(1, repeats)
    return text + (f" ({asked:g} asked; extended for the energy sensors)" if extended else "")


def outlier_words(run: RunRecord) -> str:
    """`2: steps 7, 19`."""
    outliers = safe_json.mapping(run.summary, "steps", "outliers")
    count = safe_json.number(outliers, "count")
    if count is None:
        return wording.NOT_MEASURED
    found = outliers.get("steps")
    positions = [f"{step}" for step in found if isinstance(step, int)] if isinstance(found, list) else []
    if not count or not positions:
        return f"{count:g}"
    more = ", ..." if len(positions) > MAX_SHOWN else ""
    return f"{count:g}: step{'s' if count > 1 else ''} {', '.join(positions[:MAX_SHOWN])}{more}"


def _straggler(run: RunRecord) -> str:
    excess = safe_json.number(run.summary, "straggler", "excess")
    if excess is None:
        return "one rank" if run.num_ranks == 1 else wording.NOT_MEASURED
    rank = safe_json.number(run.summary, "straggler", "rank") or 0
    host = safe_json.text(run.summary, "straggler", "host") or "?"
    return f"rank {rank:g} on {host}, {wording.signed_percent(excess)}"
