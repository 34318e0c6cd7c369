"""What the page lists, as plain rows: every number already in words, every text still unescaped.

The template escapes; nothing here builds HTML.
"""

from __future__ import annotations

import re
from statistics import median
from typing import Any
from urllib.parse import quote

from hpc_accel.report.judge import reasons, wording
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.labels import layout_label
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords


def links(run: RunRecord) -> list[tuple[str, str]]:
    """Name and relative address of the files a run left."""
    names = {"script": "job.sbatch", "log": "log.txt", "trace": "trace.json"}
    base = f"runs/{quote(run.run_id, safe='')}"
    return [(name, f"{base}/{file}") for name, file in names.items() if (run.directory / file).is_file()]


def not_counting(records: StudyRecords) -> list[dict[str, Any]]:
    """Runs that are not ranked: why, and what to do; runs of the same fate share an entry."""
    fates: dict[tuple[str, str, str], list[RunRecord]] = {}
    for run in (*records.runs, *records.inference_runs):
        if not run.counts:
            why = reasons.status_reason(run) or f"the run is {run.status}"
            fates.setdefault((run.status, why, run.remedy or ""), []).append(run)
    return [
        {"status": status, "why": why, "remedy": remedy, "runs": [(run, links(run)) for run in runs]}
        for (status, why, remedy), runs in fates.items()
    ]


def damaged(records: StudyRecords) -> list[str]:
    """Problems with files of runs that count all the same, and of the study."""
    runs = (*records.runs, *records.inference_runs)
    found = [f"{run.workload} {run.label}: {problem}" for run in runs if run.counts for problem in run.problems]
    return [*records.problems, *found]


def refused(records: StudyRecords) -> list[dict[str, str]]:
    """Candidates that cannot work: value, rule, remedy."""
    return [
        {
            "name": candidate_name(item),
            **{key: safe_json.text(item, "refused", key) or "" for key in ("value", "rule", "remedy")},
        }
        for item in records.refused
    ]


def searched(records: StudyRecords) -> list[dict[str, str]]:
    """What a search over layouts went through, in words."""
    found = []
    for search in records.searches:
        counts = [safe_json.number(search, f"num_{key}") for key in ("enumerated", "feasible", "simulated")]
        seen, can_work, simulated = (f"{count:,.0f}" if count is not None else "?" for count in counts)
        words = f"{seen} layouts enumerated, {can_work} can work, {simulated} were predicted in full"
        found.append({"workload": safe_json.text(search, "workload") or "?", "words": words})
    return found


def left_out(records: StudyRecords) -> list[dict[str, str]]:
    """Candidates that can work but were not measured."""
    return [
        {
            "name": candidate_name(item),
            "why": safe_json.text(item, "why") or "",
            "predicted": wording.short(safe_json.positive(item, "prediction", "step_time_ms")),
        }
        for item in records.left_out
    ]


def candidate_name(item: dict[str, Any]) -> str:
    """Workload, layout, precision and micro-batches of a candidate."""
    precision = safe_json.text(item, "recipe", "precision") or ""
    steps = safe_json.number(item, "layout", "accumulation_steps") or 1
    workload = safe_json.text(item, "workload") or "?"
    return f"{workload} {layout_label(safe_json.mapping(item, 'layout'))} {precision} x{steps:g}"


def startup(runs: list[RunRecord]) -> str:
    """Median start-up of the runs that count, phase by phase, in words."""
    names = {"imports": "imports", "mpi_init": "MPI", "model_build": "model", "first_step": "first step"}
    parts = []
    for key, name in names.items():
        times = [value for run in runs if run.counts and (value := run.summary.startup_ms.of(key).positive)]
        if times:
            parts.append(f"{name} {wording.duration(median(times))}")
    return ", ".join(parts)


def provenance(records: StudyRecords) -> list[tuple[str, str]]:
    """Versions and machines; where runs differ, all values are shown."""
    values: dict[str, dict[str, None]] = {}
    runs = (*records.runs, *records.inference_runs)
    measured = [{**run.summary.provenance, "device_name": run.summary.device_name} for run in runs]
    for facts in [safe_json.mapping(records.hardware, "provenance"), *measured]:
        for key, value in facts.items():
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                # A commit's first 12 digits name it; all 40 fill the line.
                words = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28}\b", r"\1", safe_json.clean(str(value)))
                values.setdefault(safe_json.clean(key), {})[words] = None
    return [(key.replace("_", " "), wording.named(list(seen), most=4)) for key, seen in sorted(values.items())]


def gap_rows(records: StudyRecords) -> list[dict[str, str]]:
    """What was not measured, why and the remedy, for the whole study."""
    return [
        {
            "quantity": gap.quantity,
            "runs": "every run" if gap.num_runs == gap.of_runs else f"{gap.num_runs} of {gap.of_runs} runs",
            "reason": gap.reason,
            "remedy": gap.remedy,
        }
        for gap in reasons.gaps(records)
    ]
