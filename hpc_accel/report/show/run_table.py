"""The table of runs: its columns, its rows in order, and the JSON that the page's script shows a window of.

Rows of one workload stay together, the fastest first, those that are not ranked last. A reason for an empty cell
stands once in a numbered list, and cells name its number: the list can be read without a mouse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpc_accel.report.judge import metric, quantities, ranking, why, wording
from hpc_accel.report.judge.cells import Cell, Row
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords
from hpc_accel.report.show import run_columns, summary_table
from hpc_accel.report.show.page_tables import links

MAX_WITHOUT_SCRIPT = 200
"""Rows that the page holds as markup, for readers without JavaScript; summary.csv has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: how a value reads, and whether it is shown before the reader asks for all columns."""

    key: str
    title: str
    words: Callable[[Any], str]
    is_first: bool = False


COLUMNS = (
    Column(key="num_ranks", title="Ranks", words=str),
    Column(key="step_time_ms", title="ms per step", words=wording.short, is_first=True),
    Column(key="throughput_samples_per_s", title="Samples/s", words=wording.short, is_first=True),
    Column(key="slower_by_ms", title="Slower than the fastest, ms", words=wording.short, is_first=True),
    Column(key="speed_up", title="Times as fast as serial", words=lambda value: f"{value:.2f}", is_first=True),
    Column(key="efficiency", title="Share of ideal speed\u2011up", words=wording.percent),
    Column(key="metric_value", title="Held-out metric", words=lambda value: f"{value:.4g}"),
    Column(key="comm_exposed_ms", title="Exposed comm. ms", words=wording.short, is_first=True),
    Column(key="comm_overlapped_ms", title="Hidden comm. ms", words=wording.short),
    Column(key="bubble_fraction", title="Pipeline bubble", words=wording.percent),
    Column(key="mfu", title="FLOP utilisation", words=wording.percent),
    Column(key="peak_memory_bytes", title="Peak memory", words=wording.memory, is_first=True),
    Column(key="energy_per_sample_j", title="J/sample", words=wording.short, is_first=True),
    Column(key="cost", title="Cost of timed steps", words=wording.short, is_first=True),
    Column(key="final_loss", title="Final loss", words=lambda value: f"{value:.4g}"),
    Column(key="parity_max_rel_err", title="Parity error", words=wording.error),
    Column(key="predicted_step_time_ms", title="Predicted ms", words=wording.short),
    Column(key="prediction_error", title="Predicted, off by", words=wording.signed_percent),
)  # fmt: skip
Table = list[tuple[RunRecord, list[tuple[Cell, str, str]]]]
"""Runs in order; of each column its cell, the cell in words, and what stands small below."""


def table(records: StudyRecords) -> Table:
    """Every chosen run that trains."""
    references = summary_table.References.of(records)
    fastest = why.fastest_of(records.runs)
    found = []
    for run in in_order(records):
        row = _row(run, references, fastest)
        notes = _notes(run, row, references, fastest)
        found.append((run, [_told(column, row[column.key], notes.get(column.key, "")) for column in COLUMNS]))
    return found


def _row(run: RunRecord, references: summary_table.References, fastest: why.Fastest) -> Row:
    """The cells of COLUMNS, and those that notes are made of: a third of a summary's."""
    return {
        "num_ranks": Cell.of(run.num_ranks),
        **run_columns.times(run),
        **summary_table.compared(run, references),
        **run_columns.metric_cells(run, references.plain),
        **run_columns.predicted(run),
        "energy_per_sample_j": Cell.of(ranking.energy_per_sample_j(run), quantities.ENERGY.reason(run)),
        "slower_by_ms": why.slower_by_ms(run, fastest),
    }


def _told(column: Column, cell: Cell, note: str) -> tuple[Cell, str, str]:
    return cell, column.words(cell.value) if cell.value is not None else "", note


def in_order(records: StudyRecords) -> list[RunRecord]:
    """By workload as planned, then by time per sample; what is not ranked stands last."""

    def place(run: RunRecord) -> tuple[int, bool, float]:
        step = ranking.step_time_ms(run) if run.counts else None
        time = step.value / ranking.global_batch_size(run) if step else 0.0
        return order[run.workload], step is None, time

    order = {name: place for place, name in enumerate(records.workloads)}
    return sorted(records.runs, key=place)


def _notes(run: RunRecord, row: Row, references: summary_table.References, fastest: why.Fastest) -> dict[str, str]:
    """What stands small below a figure."""
    notes = {"slower_by_ms": why.words(run, fastest)}
    if row["metric_value"].value is not None:
        notes["metric_value"] = metric.words(run, references.plain)
    ideal = row["bubble_ideal"].value
    if ideal is not None and row["bubble_fraction"].value is not None:
        notes["bubble_fraction"] = f"ideal {wording.percent(ideal)}"
    low, high = row["step_time_ci_low_ms"].value, row["step_time_ci_high_ms"].value
    if low and high:
        notes["step_time_ms"] = f"{wording.short(low)} to {wording.short(high)}"
    if row["speed_up"].value is not None:
        serial = references.serial[run.workload, run.precision]
        notes["speed_up"] = "is the serial run" if serial is run else f"over {serial.label}"
    if (row["efficiency"].value or 0) > 1:
        notes["efficiency"] = "above ideal: see How sure"
    return notes


def to_json(rows: Table, winners: dict[str, str]) -> dict[str, Any]:
    """Column by column; texts that repeat stand once. `links` are bits: 1 script, 2 log, 4 trace."""
    reasons: dict[str, int] = {}
    columns = [_column(column, [told[at] for _, told in rows], reasons) for at, column in enumerate(COLUMNS)]
    runs = [run for run, _ in rows]
    return {
        "labels": [run.label for run in runs],
        "ids": [run.run_id for run in runs],
        "workload": _coded([run.workload for run in runs]),
        "status": _coded([run.status for run in runs]),
        "counts": [int(run.counts) for run in runs],
        "winners": [at for at, run in enumerate(runs) if winners.get(run.workload) == run.run_id],
        "links": [sum(BITS[name] for name, _ in links(run)) for run in runs],
        "columns": columns,
        "reasons": list(reasons),
    }


def _column(column: Column, told: list[tuple[Cell, str, str]], reasons: dict[str, int]) -> dict[str, Any]:
    """One column: texts and what stands below them, the order of its values, and the numbers of reasons by row.

    Where no run has a value, `reason` is the most frequent of the numbers, and `reasons` has those of the other rows.
    """
    known = [cell.value is not None for cell, *_ in told]
    numbers = {
        at: reasons.setdefault(cell.reason or "", len(reasons) + 1)
        for at, (cell, *_) in enumerate(told)
        if cell.value is None
    }
    usual = 0 if any(known) or not told else Counter(numbers.values()).most_common(1)[0][0]
    return {
        "title": column.title,
        "first": column.is_first and any(known),
        "texts": [text for _, text, _ in told] if any(known) else [],
        "notes": _coded([note for *_, note in told]) if any(note for *_, note in told) else None,
        "order": _places([cell.value for cell, *_ in told]) if any(known) else [],
        "reason": usual,
        "reasons": {at: number for at, number in numbers.items() if number != usual},
    }


def _coded(texts: list[str]) -> dict[str, Any]:
    """Each text once, and for each row which of them it has."""
    codes: dict[str, int] = {}
    rows = [codes.setdefault(text, len(codes)) for text in texts]
    return {"of": list(codes), "rows": rows}


def _places(values: list[Any]) -> list[int]:
    """Of each value its place among all, from 1; equal values share one, and 0 is for those that are missing."""
    places = {value: place for place, value in enumerate(sorted({each for each in values if each is not None}), 1)}
    return [places.get(value, 0) for value in values]


BITS = {"script": 1, "log": 2, "trace": 4}
