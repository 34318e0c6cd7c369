"""How sure the figures are, run by run: warm-up, steps, repeats, outliers, the slowest rank, and its warnings."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import plausibility, ranking, wording
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
    steps = run.summary.steps
    if steps is None:
        return wording.NOT_MEASURED
    counted, detected = steps.num_warmup, steps.num_warmup_detected
    if detected.value is None:
        return f"{counted} left out; {detected.reason}"
    few = " (too few left out)" if detected.value > counted else ""
    return f"{counted} left out, {detected.value:g} detected{few}"


def _steps(run: RunRecord) -> str:
    if run.summary.steps is None:
        return wording.NOT_MEASURED
    timed, asked = run.num_timed, run.summary.steps.num_asked
    repeats = len([each for each in run.repeats if each.counts])
    text = f"{timed}" + (f" in {repeats} repeats" if repeats > 1 else "")
    return text + (f" ({asked} asked; extended for the energy sensors)" if timed > asked * max(1, repeats) else "")


def outlier_words(run: RunRecord) -> str:
    """`2: steps 7, 19`."""
    if run.summary.steps is None:
        return wording.NOT_MEASURED
    outliers = run.summary.steps.outliers
    if not outliers.count or not outliers.steps:
        return f"{outliers.count}"
    more = ", ..." if len(outliers.steps) > MAX_SHOWN else ""
    shown = ", ".join(map(str, outliers.steps[:MAX_SHOWN]))
    return f"{outliers.count}: step{'s' if outliers.count > 1 else ''} {shown}{more}"


def _straggler(run: RunRecord) -> str:
    found = run.summary.straggler
    if found.excess.value is None:
        return "one rank" if run.num_ranks == 1 else wording.NOT_MEASURED
    return f"rank {found.rank.value} on {found.host or '?'}, {wording.signed_percent(found.excess.value)}"
