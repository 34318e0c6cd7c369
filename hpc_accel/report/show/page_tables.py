"""What the page shows, as plain rows and cards: every number already in words, every text still unescaped.

The template escapes; nothing here builds HTML.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.parse import quote

from hpc_accel.report.judge import answer, metric, plausibility, ranking, reasons, wording
from hpc_accel.report.judge.cells import Cell, Row
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.labels import layout_label
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords
from hpc_accel.report.show import summary_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the table of runs: how a value reads, and by what it sorts."""

    key: str
    title: str
    words: Callable[[Any], str]
    numeric: bool = True


COLUMNS = (
    Column(key="num_ranks", title="Ranks", words=str),
    Column(key="step_time_ms", title="Step ms", words=wording.short),
    Column(key="throughput_samples_per_s", title="Samples/s", words=wording.short),
    Column(key="speed_up", title="Speed\u2011up", words=lambda value: f"{value:.2f}"),
    Column(key="efficiency", title="Efficiency", words=wording.percent),
    Column(key="metric_value", title="Held-out metric", words=lambda value: f"{value:.4g}"),
    Column(key="comm_exposed_ms", title="Exposed comm. ms", words=wording.short),
    Column(key="comm_overlapped_ms", title="Hidden comm. ms", words=wording.short),
    Column(key="bubble_fraction", title="Bubble", words=wording.percent),
    Column(key="mfu", title="FLOP utilisation", words=wording.percent),
    Column(key="peak_memory_bytes", title="Peak memory", words=wording.memory),
    Column(key="energy_per_sample_j", title="J/sample", words=wording.short),
    Column(key="cost", title="Cost of timed steps", words=wording.short),
    Column(key="final_loss", title="Final loss", words=lambda value: f"{value:.4g}"),
    Column(key="parity_max_rel_err", title="Parity error", words=wording.error),
    Column(key="predicted_step_time_ms", title="Predicted ms", words=wording.short),
    Column(key="prediction_error", title="Error", words=wording.signed_percent),
)  # fmt: skip


def cards(records: StudyRecords) -> list[dict[str, Any]]:
    """One card per workload: which layout to use, how fast it is, and the command that runs it."""
    found: list[dict[str, Any]] = []
    for workload in records.workloads:
        runs = records.of(workload)
        run = answer.winner(records, workload)
        if run is None:
            found.append({"workload": workload, "run": None, "num_runs": len(runs)})
            continue
        best = ranking.fastest(runs)
        gain = ranking.speed_up(run, ranking.baselines(runs))
        found.append(
            {
                "workload": workload,
                "objective": _decided_by(records, run),
                "run": run,
                "meaning": layout_words(run),
                "tie": wording.named([other.label for other in best.ties], most=3) if best and best.run is run else "",
                "leaner": _leaner(best) if best and best.run is run else "",
                "disturbed": plausibility.disturbance(run),
                "step": _split(ranking.step_time_ms(run), "ms"),
                "rate": _split(ranking.throughput(run), "samples/s"),
                "gain": _split(gain, "") if gain else None,
                "is_serial": run.kind == "serial",
                "command": records.submit_command(run),
            }
        )
    return found


def _leaner(best: ranking.Best) -> str:
    """Of the runs that cannot be told from the best, the one of the fewest ranks, if it needs fewer."""
    fewest = min((best.run, *best.ties), key=lambda run: run.num_ranks)
    return fewest.label if fewest.num_ranks < best.run.num_ranks else ""


def _decided_by(records: StudyRecords, run: RunRecord) -> str:
    """What the recommended run is best for: the study's objective, or time where that could not be measured."""
    best = {
        "energy": [found.run for found in ranking.least_energy(records.of(run.workload)).values()],
        "cost": [found.run for found in [ranking.cheapest(records.of(run.workload))] if found],
    }
    return records.objective if best.get(records.objective) == [run] else "time"


def layout_words(run: RunRecord) -> str:
    """The layout in plain words, for the card of the winner."""
    layout = run.part("layout")
    sizes = {key: int(safe_json.positive(layout, key) or 1) for key in ("dp", "pp", "tp")}
    words = {"dp": "{} data-parallel replicas", "pp": "{} pipeline stages", "tp": "{} tensor-parallel ranks"}
    parts = [words[key].format(size) for key, size in sizes.items() if size > 1] or ["one rank, nothing split"]
    micro = safe_json.positive(layout, "micro_batch_size") or 0
    steps = int(safe_json.positive(layout, "accumulation_steps") or 1)
    batches = f"{wording.counted(steps, 'micro-batch').replace('batchs', 'batches')} of {micro:g}"
    return f"{' x '.join(parts)}; {run.precision}; {batches} per rank and step"


def _split(interval: Any, unit: str) -> dict[str, str] | None:
    if interval is None:
        return None
    spread = f"{wording.short(interval.low)} to {wording.short(interval.high)}" if interval.high > interval.low else ""
    return {"value": wording.short(interval.value), "unit": unit, "spread": spread}


def table(records: StudyRecords) -> list[dict[str, Any]]:
    """Every chosen run as a row of cells; an empty cell carries its reason."""
    references = summary_table.References.of(records)
    rows = []
    for run in records.runs:
        row = summary_table.row(run, references)
        notes = _notes(run, row, references)
        cells = [_cell(column, row[column.key], notes.get(column.key, "")) for column in COLUMNS]
        rows.append({"run": run, "cells": cells, "links": links(run)})
    return rows


def _cell(column: Column, cell: Cell, note: str) -> dict[str, Any]:
    text = column.words(cell.value) if cell.value is not None else ""
    return {"text": text, "sort": "" if cell.value is None else cell.value, "reason": cell.reason, "note": note}


def _notes(run: RunRecord, row: Row, references: summary_table.References) -> dict[str, str]:
    """What stands small beside a figure."""
    notes = {}
    if row["metric_value"].value is not None:
        notes["metric_value"] = metric.words(run, references.plain)
    ideal = row["bubble_ideal"].value
    if ideal is not None and row["bubble_fraction"].value is not None:
        notes["bubble_fraction"] = f"ideal {wording.percent(ideal)}"
    low, high = row["step_time_ci_low_ms"].value, row["step_time_ci_high_ms"].value
    if low and high:
        notes["step_time_ms"] = f"{wording.short(low)} to {wording.short(high)}"
    return notes


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
            "name": _candidate_name(item),
            **{key: safe_json.text(item, "refused", key) or "" for key in ("value", "rule", "remedy")},
        }
        for item in records.refused
    ]


def searched(records: StudyRecords) -> list[dict[str, Any]]:
    """What a search over layouts went through: how many, and how many each rule refused."""
    found = []
    for search in records.searches:
        counts = [safe_json.number(search, f"num_{key}") for key in ("enumerated", "feasible", "simulated")]
        seen, can_work, simulated = (f"{count:,.0f}" if count is not None else "?" for count in counts)
        rules = [
            {
                "rule": safe_json.text(item, "rule") or "?",
                "count": f"{safe_json.number(item, 'count') or 0:,.0f}",
                "first": safe_json.text(item, "first") or "",
            }
            for item in safe_json.items(search, "refused")
        ]
        words = f"{seen} layouts enumerated, {can_work} can work, {simulated} were predicted in full"
        found.append({"workload": safe_json.text(search, "workload") or "?", "words": words, "rules": rules})
    return found


def left_out(records: StudyRecords) -> list[dict[str, str]]:
    """Candidates that can work but were not measured."""
    return [
        {
            "name": _candidate_name(item),
            "why": safe_json.text(item, "why") or "",
            "predicted": wording.short(safe_json.positive(item, "prediction", "step_time_ms")),
        }
        for item in records.left_out
    ]


def _candidate_name(item: dict[str, Any]) -> str:
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
