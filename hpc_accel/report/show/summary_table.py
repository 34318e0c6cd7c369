"""The table of runs: one row per run, one cell per column, each a value or the reason for having none.

`summary.csv` shows `CSV_COLUMNS`, `summary.parquet` and `summary.json` all columns, the page some of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hpc_accel.report.judge import metric, plausibility, quantities, ranking, reasons
from hpc_accel.report.judge.cells import Cell, Row
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords
from hpc_accel.report.show import energy_columns, inference_columns, run_columns

FORMAT = 1
"""Of summary.csv, summary.parquet and summary.json: raised when a column goes, or means something else."""

CSV_COLUMNS = (
    "run_id", "workload", "label", "status", "num_nodes", "num_ranks", "dp", "pp", "tp", "shard", "schedule",
    "micro_batch_size", "accumulation_steps", "global_batch_size", "precision", "options", "backend", "device", "mode",
    "step_time_ms", "step_time_ci_low_ms", "step_time_ci_high_ms", "throughput_samples_per_s", "speed_up", "efficiency",
    "comm_exposed_ms", "bubble_fraction", "mfu", "peak_memory_bytes", "latency_p50_ms", "latency_p99_ms", "energy_j",
    "energy_per_sample_j", "energy_scope", "energy_reason", "cost", "final_loss", "metric", "metric_value",
    "parity_max_rel_err", "predicted_step_time_ms", "prediction_error", "warnings", "reasons",
)  # fmt: skip
"""A promise to users: their names and their order stay."""

IDENTITY = CSV_COLUMNS[: CSV_COLUMNS.index("step_time_ms")]
"""Columns that say what the run is; the others say what was measured of it."""

MORE_COLUMNS = (
    "status_reason", "compile", "recompute", "compression", "num_repeats", "num_timed_steps", "num_warmup_detected",
    "num_outliers", "comm_overlapped_ms", "bubble_ideal", "flops_per_step", "metric_difference", "predicted_energy_j",
    "energy_method", "energy_per_token_j", "energy_per_epoch_j", "energy_delay_product_js", "idle_power_w",
    "steps_to_target", "time_to_target_s", "energy_to_target_j",
    *(f"energy_{phase}_j" for phase in energy_columns.PHASES),
    "carbon_g", "electricity_cost", "estimated_energy_j", "estimated_method",
    "batch_size", "arrival_rate_per_s", "completed_per_s", "latency_p90_ms", "latency_p99_9_ms", "latency_limit_ms",
    "max_rate_per_s", "deadline_ms", "deadline_missed", "deadline_passed", "energy_per_request_j",
    "output_max_rel_err", "top1_agreement", "metric_fp32",
)  # fmt: skip
"""Of summary.parquet and summary.json alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """What the runs of a study are compared with. Found once: looking for it run by run would take quadratic time."""

    serial: ranking.Baselines
    serial_statuses: dict[tuple[str, str], str]
    plain: metric.Baselines
    factors: dict[str, Any]

    @classmethod
    def of(cls, records: StudyRecords) -> References:
        """Those of a study."""
        return cls(
            serial=ranking.baselines(records.runs),
            serial_statuses=ranking.serial_statuses(records.runs),
            plain=metric.baselines(records.runs),
            factors=records.factors,
        )


def rows(records: StudyRecords) -> list[Row]:
    """A row per run: those that train in the plan's order, then those that infer."""
    references = References.of(records)
    return [row(run, references) for run in (*records.runs, *records.inference_runs)]


def row(run: RunRecord, references: References) -> Row:
    """All cells of one run, those of MORE_COLUMNS included."""
    cells = {
        **run_columns.identity(run),
        **run_columns.times(run),
        **compared(run, references),
        **run_columns.predicted(run),
        **energy_columns.cells(run, references.factors),
        **inference_columns.cells(run),
        "warnings": Cell(value=_warnings(run, references)),
    }
    cells |= (
        inference_columns.metric_cells(run) if run.is_inference else run_columns.metric_cells(run, references.plain)
    )
    return cells


def reasons_json(cells: Row) -> str:
    """JSON: column of summary.csv -> why its cell is empty."""
    found = {column: why for column in CSV_COLUMNS[:-1] if (why := cells[column].reason)}
    return json.dumps(found, ensure_ascii=False)


def _warnings(run: RunRecord, references: References) -> str | None:
    """Why the run does not count, what it warned of, and what in its figures is too good."""
    why = reasons.status_reason(run)
    return "; ".join([*([why] if why else []), *plausibility.warnings(run, references.serial)]) or None


def compared(run: RunRecord, references: References) -> Row:
    """Against the fastest serial run of the same workload and precision."""
    gain = ranking.speed_up(run, references.serial) if run.counts and not run.is_inference else None
    why = _no_speed_up(run, references)
    return {
        "speed_up": Cell.of(gain.value if gain else None, why),
        "efficiency": Cell.of(gain.value / run.num_ranks if gain else None, why),
    }


def _no_speed_up(run: RunRecord, references: References) -> str:
    if run.is_inference:
        return f"{quantities.NOT_APPLICABLE}: a speed-up is over a serial run that trains"
    if not run.counts:
        return f"the run is {run.status}"
    return ranking.no_baseline_words(run, references.serial_statuses)
