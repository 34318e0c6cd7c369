"""Columns of the table of runs: latency, rates and answers of inference. `inference.csv` has them rate by rate."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import inference, quantities
from hpc_accel.report.judge.cells import Cell
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord

TRAINS = f"{quantities.NOT_APPLICABLE}: the run trains"
Row = dict[str, Cell]


def cells(run: RunRecord) -> Row:
    """Those of latency and deadline at the highest listed rate."""
    last = (inference.rates(run) or [{}])[-1]
    return {
        **_latencies(run),
        **_rates(run, last),
        **_deadline(run, last),
        **_outputs(run),
    }


def _latencies(run: RunRecord) -> Row:
    return {
        f"latency_{key}_ms": Cell.of(
            safe_json.positive(run.summary, "latency_ms", key), quantities.latency(key).reason(run)
        )
        for key in safe_json.PERCENTILES
    }


def _rates(run: RunRecord, last: dict[str, Any]) -> Row:
    limit, limits = inference.max_rate(run), safe_json.mapping(run.summary, "inference", "limit")
    no_limit = _why(run, "the study sets no infer.latency_limit_ms")
    return {
        "batch_size": Cell.of(safe_json.positive(run.part("infer"), "batch_size"), _why(run, "the plan does not say")),
        "arrival_rate_per_s": Cell.of(safe_json.positive(last, "rate_per_s"), _why(run, "no rate was measured")),
        "completed_per_s": Cell.of(safe_json.positive(last, "served_per_s"), _why(run, "no rate was measured")),
        "latency_limit_ms": Cell.of(safe_json.positive(limits, "latency_limit_ms"), no_limit),
        "max_rate_per_s": Cell.of(limit.value if limit else None, _why(run, inference.limit_reason(run))),
        "energy_per_request_j": Cell.of(
            safe_json.positive(last, "energy", "per_request_j"), _why(run, safe_json.text(last, "energy", "reason"))
        ),
    }


def _deadline(run: RunRecord, last: dict[str, Any]) -> Row:
    why = _why(run, safe_json.text(last, "deadline", "reason") or "the study sets no infer.deadline_ms")
    passed = safe_json.at(last, "deadline", "passed")
    return {
        "deadline_ms": Cell.of(safe_json.positive(last, "deadline", "deadline_ms"), why),
        "deadline_missed": Cell.of(safe_json.number(last, "deadline", "share_missed"), why),
        "deadline_passed": Cell.of(passed if isinstance(passed, bool) else None, why),
    }


def _outputs(run: RunRecord) -> Row:
    outputs = safe_json.mapping(run.summary, "outputs")
    return {
        "output_max_rel_err": Cell.of(
            safe_json.number(outputs, "max_rel_err"), _why(run, safe_json.text(run.summary, "parity", "reason"))
        ),
        "top1_agreement": Cell.of(
            safe_json.number(outputs, "top1_agreement"), _why(run, safe_json.text(outputs, "top1_reason"))
        ),
        "metric_fp32": Cell.of(
            safe_json.number(outputs, "metric", "reference_value"), _why(run, safe_json.text(outputs, "metric_reason"))
        ),
    }


def metric_cells(run: RunRecord) -> Row:
    """The metric of the answers, and how far it is from that of the unchanged fp32 model."""
    metric = safe_json.mapping(run.summary, "outputs", "metric")
    figure, plain = safe_json.number(metric, "value"), safe_json.number(metric, "reference_value")
    difference = figure - plain if figure is not None and plain is not None else None
    why = _why(run, safe_json.text(run.summary, "outputs", "metric_reason"))
    return {
        "metric": Cell.of(safe_json.text(metric, "name"), why),
        "metric_value": Cell.of(figure, why),
        "metric_difference": Cell.of(difference, why),
    }


def _why(run: RunRecord, reason: str | None) -> str | None:
    """The reason, where the run could have measured it and left a record."""
    if not run.is_inference:
        return TRAINS
    return reason if run.summary else f"the run is {run.status}"
