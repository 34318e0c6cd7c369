"""summary.csv: one row per chosen run, the design's columns first, then the reasons for what is empty.

A cell that was not measured is empty, never 0. A text cell that a spreadsheet would take for a formula gets
a leading apostrophe.
"""

from __future__ import annotations

import csv
import io
from typing import Any

from hpc_accel.report.judge import metric, ranking, reasons
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords
from hpc_accel.report.show import energy_columns, inference_csv
from hpc_accel.report.show.csv_cells import cell

COLUMNS = (
    "run_id", "workload", "status", "num_nodes", "num_ranks", "dp", "pp", "tp", "shard", "schedule",
    "micro_batch_size", "accumulation_steps", "global_batch_size", "precision", "compile", "recompute",
    "compression", "backend", "device", "step_time_ms", "step_time_ci_low_ms", "step_time_ci_high_ms",
    "throughput_samples_per_s", "latency_p50_ms", "latency_p99_ms", "comm_exposed_ms", "bubble_fraction",
    "peak_memory_bytes", "energy_j", "energy_per_sample_j", "energy_scope", "energy_reason", "cost", "final_loss",
    "parity_max_rel_err", "predicted_step_time_ms", "predicted_energy_j", "prediction_error",
)  # fmt: skip
MORE_COLUMNS = (
    "label", "energy_method", "speed_up", "efficiency", "status_reason", "cost_reason", "bubble_reason",
    "comm_exposed_reason", "latency_reason", "parity_reason", "prediction_reason",
)  # fmt: skip
METRIC_COLUMNS = ("recipe_options", "metric", "metric_value", "metric_difference", "metric_reason")


def render(records: StudyRecords) -> str:
    """The whole file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [*COLUMNS, *MORE_COLUMNS, *METRIC_COLUMNS, *energy_columns.COLUMNS, *inference_csv.COLUMNS]
    writer.writerow(columns)
    serial, plain = ranking.baselines(records.runs), metric.baselines(records.runs)
    for run in (*records.runs, *records.inference_runs):
        # A speed-up is over a serial run that trains: nothing an inference run could be compared with.
        values = row(run, {} if run.is_inference else serial, records.factors) | metric.columns(run, plain)
        values |= inference_csv.columns(run)  # later: inference has a metric of its own
        writer.writerow([cell(values[column]) for column in columns])
    return out.getvalue()


def row(run: RunRecord, serial: ranking.Baselines, factors: dict[str, Any]) -> dict[str, Any]:
    """All columns of one run; None where not measured."""
    more = energy_columns.columns(run, serial, factors)
    return {**_identity(run), **_measured(run), **_predicted(run), **_more(run, serial), **more}


def prediction_error(run: RunRecord) -> float | None:
    """(predicted - measured) / measured of the step time."""
    predicted = safe_json.positive(run.candidate, "prediction", "step_time_ms")
    measured = ranking.step_time_ms(run)
    return (predicted - measured.value) / measured.value if predicted and measured else None


def _identity(run: RunRecord) -> dict[str, Any]:
    layout, recipe = run.part("layout"), run.part("recipe")
    return {
        "run_id": run.run_id,
        "workload": run.workload,
        "status": run.status,
        "num_nodes": safe_json.number(run.summary, "num_nodes") or safe_json.number(run.part("resources"), "num_nodes"),
        "num_ranks": safe_json.number(run.summary, "num_ranks") or run.num_ranks,
        **{key: safe_json.number(layout, key) for key in ("dp", "pp", "tp", "micro_batch_size", "accumulation_steps")},
        "shard": safe_json.text(layout, "shard"),
        "schedule": safe_json.text(layout, "schedule"),
        "global_batch_size": int(ranking.global_batch_size(run)),
        **{key: _option(recipe.get(key)) for key in ("precision", "compile", "recompute", "compression")},
        "backend": safe_json.text(run.run, "backend"),
        "device": safe_json.text(run.summary, "device"),
    }


def _measured(run: RunRecord) -> dict[str, Any]:
    time = ranking.step_time_ms(run)
    rate = ranking.throughput(run)
    cost = ranking.cost(run)
    energy = safe_json.positive(run.summary, "energy", "energy_j")
    return {
        "step_time_ms": time.value if time else None,
        "step_time_ci_low_ms": safe_json.positive(run.summary, "step_time_ms", "ci_low") if time else None,
        "step_time_ci_high_ms": safe_json.positive(run.summary, "step_time_ms", "ci_high") if time else None,
        "throughput_samples_per_s": rate.value if rate else None,
        "latency_p50_ms": safe_json.positive(run.summary, "latency_ms", "p50"),
        "latency_p99_ms": safe_json.positive(run.summary, "latency_ms", "p99"),
        "comm_exposed_ms": safe_json.number(run.summary, "phases_ms", "comm_exposed"),
        "bubble_fraction": safe_json.number(run.summary, "bubble_fraction"),
        "peak_memory_bytes": safe_json.positive(run.summary, "peak_memory_bytes"),
        "energy_j": energy,
        "energy_per_sample_j": ranking.energy_per_sample_j(run),
        "energy_scope": safe_json.text(run.summary, "energy", "scope"),
        "energy_method": safe_json.text(run.summary, "energy", "method"),
        "energy_reason": _reason(run, reasons.energy_reason(run) or safe_json.text(run.summary, "energy", "reason")),
        "cost": cost.value if cost else None,
        "final_loss": safe_json.number(run.summary, "losses", "final"),
        "parity_max_rel_err": safe_json.number(run.summary, "parity", "max_rel_err"),
    }


def _predicted(run: RunRecord) -> dict[str, Any]:
    return {
        "predicted_step_time_ms": safe_json.positive(run.candidate, "prediction", "step_time_ms"),
        "predicted_energy_j": _predicted_energy_j(run),
        "prediction_error": prediction_error(run),
        "prediction_reason": reasons.prediction_reason(run),
    }


def _predicted_energy_j(run: RunRecord) -> float | None:
    """For as many steps as were timed: the plan predicts the steps asked for, and a run may be extended or repeated."""
    planned = safe_json.positive(run.candidate, "prediction", "energy_j")
    asked, timed = (
        safe_json.positive(run.run, "measure", "steps"),
        safe_json.positive(run.summary, "steps", "num_timed"),
    )
    return planned * timed / asked if planned and asked and timed else planned


def _more(run: RunRecord, serial: ranking.Baselines) -> dict[str, Any]:
    gain = ranking.speed_up(run, serial) if run.counts else None
    has_latency = safe_json.positive(run.summary, "latency_ms", "p50") is not None
    return {
        "label": run.label,
        "speed_up": gain.value if gain else None,
        "efficiency": gain.value / run.num_ranks if gain else None,
        "status_reason": reasons.status_reason(run),
        "cost_reason": _reason(run, reasons.cost_reason(run)),
        "bubble_reason": _reason(run, reasons.bubble_reason(run)),
        "comm_exposed_reason": _reason(run, reasons.communication_reason(run)),
        "latency_reason": None if has_latency else _reason(run, reasons.NO_LATENCY),
        "parity_reason": safe_json.text(run.summary, "parity", "reason"),
    }


def _reason(run: RunRecord, reason: str | None) -> str | None:
    """A run without a summary has one reason for everything."""
    return reason if reason is None or run.summary else f"the run is {run.status}"


def _option(value: Any) -> Any:
    return safe_json.clean(value) if isinstance(value, str) else value if isinstance(value, bool | int) else None
