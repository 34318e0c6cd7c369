"""summary.csv: one row per chosen run, the design's columns first, then the reasons for what is empty.

A cell that was not measured is empty, never 0. A text cell that a spreadsheet would take for a formula gets
a leading apostrophe.
"""

from __future__ import annotations

import csv
import io
from typing import Any

from hpc_accel.report import fields, metric, more_columns, ranking, reasons, serving_csv
from hpc_accel.report.records import RunRecord, StudyRecords

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
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def render(records: StudyRecords) -> str:
    """The whole file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [*COLUMNS, *MORE_COLUMNS, *METRIC_COLUMNS, *more_columns.COLUMNS, *serving_csv.COLUMNS]
    writer.writerow(columns)
    serial, plain = ranking.baselines(records.runs), metric.baselines(records.runs)
    for run in (*records.runs, *records.served):
        # A speed-up is over a serial run that trains: nothing an inference run could be compared with.
        values = row(run, {} if run.serves else serial, records.factors) | metric.columns(run, plain)
        values |= serving_csv.columns(run)  # later: what serves has a metric of its own
        writer.writerow([cell(values[column]) for column in columns])
    return out.getvalue()


def row(run: RunRecord, serial: ranking.Baselines, factors: dict[str, Any]) -> dict[str, Any]:
    """All columns of one run; None where not measured."""
    more = more_columns.columns(run, serial, factors)
    return {**_identity(run), **_measured(run), **_predicted(run), **_more(run, serial), **more}


def prediction_error(run: RunRecord) -> float | None:
    """(predicted - measured) / measured of the step time."""
    predicted = fields.positive(run.candidate, "prediction", "step_time_ms")
    measured = ranking.step_time_ms(run)
    return (predicted - measured.value) / measured.value if predicted and measured else None


def status_reason(run: RunRecord) -> str | None:
    """Why a run does not count: its error, what was wrong with its files, or its failed parity."""
    if run.counts:
        return None
    error = fields.text(run.summary, "error", "message")
    kind, rank = fields.text(run.summary, "error", "kind"), fields.number(run.summary, "error", "rank")
    parts = [f"{kind}: {error}" if kind and error else error, f"rank {rank:g}" if error and rank is not None else None]
    if error is None and run.status in ("wrong", "unchecked"):
        parts.append(fields.text(run.summary, "parity", "reason"))
    worst, allowed = (fields.number(run.summary, "parity", key) for key in ("max_rel_err", "tolerance"))
    if run.status == "wrong" and worst is not None and allowed is not None and (worst > allowed or not run.serves):
        what = "an output" if run.serves else "a loss"
        parts.append(f"{worst:.2g} is the largest difference of {what}, {allowed:.2g} is allowed")
    return "; ".join([part for part in parts if part] + list(run.problems)) or None


def _identity(run: RunRecord) -> dict[str, Any]:
    layout, recipe = run.part("layout"), run.part("recipe")
    return {
        "run_id": run.run_id,
        "workload": run.workload,
        "status": run.status,
        "num_nodes": fields.number(run.summary, "num_nodes") or fields.number(run.part("resources"), "num_nodes"),
        "num_ranks": fields.number(run.summary, "num_ranks") or run.num_ranks,
        **{key: fields.number(layout, key) for key in ("dp", "pp", "tp", "micro_batch_size", "accumulation_steps")},
        "shard": fields.text(layout, "shard"),
        "schedule": fields.text(layout, "schedule"),
        "global_batch_size": int(ranking.global_batch_size(run)),
        **{key: _option(recipe.get(key)) for key in ("precision", "compile", "recompute", "compression")},
        "backend": fields.text(run.run, "backend"),
        "device": fields.text(run.summary, "device"),
    }


def _measured(run: RunRecord) -> dict[str, Any]:
    time = ranking.step_time_ms(run)
    rate = ranking.throughput(run)
    cost = ranking.cost(run)
    energy = fields.positive(run.summary, "energy", "energy_j")
    return {
        "step_time_ms": time.value if time else None,
        "step_time_ci_low_ms": fields.positive(run.summary, "step_time_ms", "ci_low") if time else None,
        "step_time_ci_high_ms": fields.positive(run.summary, "step_time_ms", "ci_high") if time else None,
        "throughput_samples_per_s": rate.value if rate else None,
        "latency_p50_ms": fields.positive(run.summary, "latency_ms", "p50"),
        "latency_p99_ms": fields.positive(run.summary, "latency_ms", "p99"),
        "comm_exposed_ms": fields.number(run.summary, "phases_ms", "comm_exposed"),
        "bubble_fraction": fields.number(run.summary, "bubble_fraction"),
        "peak_memory_bytes": fields.positive(run.summary, "peak_memory_bytes"),
        "energy_j": energy,
        "energy_per_sample_j": ranking.energy_per_sample_j(run),
        "energy_scope": fields.text(run.summary, "energy", "scope"),
        "energy_method": fields.text(run.summary, "energy", "method"),
        "energy_reason": _reason(run, reasons.energy_reason(run) or fields.text(run.summary, "energy", "reason")),
        "cost": cost.value if cost else None,
        "final_loss": fields.number(run.summary, "losses", "final"),
        "parity_max_rel_err": fields.number(run.summary, "parity", "max_rel_err"),
    }


def _predicted(run: RunRecord) -> dict[str, Any]:
    return {
        "predicted_step_time_ms": fields.positive(run.candidate, "prediction", "step_time_ms"),
        "predicted_energy_j": _predicted_energy_j(run),
        "prediction_error": prediction_error(run),
        "prediction_reason": reasons.prediction_reason(run),
    }


def _predicted_energy_j(run: RunRecord) -> float | None:
    """For as many steps as were timed: the plan predicts the steps asked for, and a run may be extended or repeated."""
    planned = fields.positive(run.candidate, "prediction", "energy_j")
    asked, timed = fields.positive(run.run, "measure", "steps"), fields.positive(run.summary, "steps", "num_timed")
    return planned * timed / asked if planned and asked and timed else planned


def _more(run: RunRecord, serial: ranking.Baselines) -> dict[str, Any]:
    gain = ranking.speed_up(run, serial) if run.counts else None
    has_latency = fields.positive(run.summary, "latency_ms", "p50") is not None
    return {
        "label": run.label,
        "speed_up": gain.value if gain else None,
        "efficiency": gain.value / run.num_ranks if gain else None,
        "status_reason": status_reason(run),
        "cost_reason": _reason(run, reasons.cost_reason(run)),
        "bubble_reason": _reason(run, reasons.bubble_reason(run)),
        "comm_exposed_reason": _reason(run, reasons.communication_reason(run)),
        "latency_reason": None if has_latency else _reason(run, reasons.NO_LATENCY),
        "parity_reason": fields.text(run.summary, "parity", "reason"),
    }


def _reason(run: RunRecord, reason: str | None) -> str | None:
    """A run without a summary has one reason for everything."""
    return reason if reason is None or run.summary else f"the run is {run.status}"


def _option(value: Any) -> Any:
    return fields.clean(value) if isinstance(value, str) else value if isinstance(value, bool | int) else None


def cell(value: Any) -> str:
    """A value as it stands in a CSV file; nothing for what was not measured."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    return "'" + text if text.lstrip(" ").startswith(_FORMULA_STARTS) else text
