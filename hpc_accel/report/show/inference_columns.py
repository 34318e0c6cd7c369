"""Columns of the table of runs: latency, rates and answers of inference. `inference.csv` has them rate by rate."""

from __future__ import annotations

from hpc_accel.record.inference import PERCENTILES, Rate
from hpc_accel.report.judge import inference, quantities
from hpc_accel.report.judge.cells import Cell, Row
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord

TRAINS = f"{quantities.NOT_APPLICABLE}: the run trains"


def cells(run: RunRecord) -> Row:
    """Those of latency and deadline at the highest listed rate."""
    last = next(reversed(inference.rates(run)), None)
    return {**_latencies(run), **_rates(run, last), **_deadline(run, last), **_outputs(run)}


def _latencies(run: RunRecord) -> Row:
    found = {key: quantities.latency(key) for key in PERCENTILES}
    return {f"latency_{key}_ms": Cell.of(each.figure(run).value, each.reason(run)) for key, each in found.items()}


def _rates(run: RunRecord, last: Rate | None) -> Row:
    limit, why = inference.max_rate(run), _why(run)
    return {
        "batch_size": Cell.of(safe_json.positive(run.part("infer"), "batch_size"), why),
        "arrival_rate_per_s": Cell.of(last.rate_per_s if last else None, why),
        "completed_per_s": Cell.of(last.completed_per_s if last else None, why),
        "latency_limit_ms": Cell.of(inference.latency_limit_ms(run), why or "the study sets no infer.latency_limit_ms"),
        "max_rate_per_s": Cell.of(limit.value if limit else None, why or inference.limit_reason(run)),
        "energy_per_request_j": Cell.figure(last.energy.per_request_j) if last else Cell.of(None, why),
    }


def _deadline(run: RunRecord, last: Rate | None) -> Row:
    if last is None:
        return dict.fromkeys(("deadline_ms", "deadline_missed", "deadline_passed"), Cell.of(None, _why(run)))
    deadline = last.deadline
    return {
        "deadline_ms": Cell.figure(deadline.deadline_ms),
        "deadline_missed": Cell.figure(deadline.share_missed),
        "deadline_passed": Cell.of(deadline.passed, deadline.deadline_ms.reason),
    }


def _outputs(run: RunRecord) -> Row:
    outputs = run.summary.outputs
    if outputs is None:
        return dict.fromkeys(("output_max_rel_err", "top1_agreement", "metric_fp32"), Cell.of(None, _why(run)))
    return {
        "output_max_rel_err": Cell.figure(outputs.max_rel_err),
        "top1_agreement": Cell.figure(outputs.top1_agreement),
        "metric_fp32": Cell.figure(outputs.metric_of_reference),
    }


def metric_cells(run: RunRecord) -> Row:
    """The metric of the answers, and how far it is from that of the unchanged fp32 model."""
    metric, outputs = run.summary.metric, run.summary.outputs
    plain = outputs.metric_of_reference if outputs else metric.figure
    difference = metric.value - plain.value if metric.value is not None and plain.value is not None else None
    return {
        "metric": Cell.of(metric.name, metric.reason),
        "metric_value": Cell.figure(metric.figure),
        "metric_difference": Cell.of(difference, metric.reason or plain.reason),
    }


def _why(run: RunRecord) -> str | None:
    """Why a run has none of them: it trains, or left no figures; None where it inferred."""
    if not run.is_inference:
        return TRAINS
    return None if run.summary.inference else run.summary.step_time_ms.reason or f"the run is {run.status}"
