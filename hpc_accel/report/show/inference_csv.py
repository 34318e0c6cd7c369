"""Inference in tables for programs: more columns of summary.csv, and inference.csv with one row per run and rate."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from hpc_accel.report.judge import inference
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords
from hpc_accel.report.show.csv_cells import cell

COLUMNS = (
    "mode", "batch_size", "arrival_rate_per_s", "served_per_s", "latency_p90_ms", "latency_p99_9_ms",
    "latency_limit_ms", "max_rate_per_s", "max_rate_reason", "deadline_ms", "deadline_missed", "deadline_passed",
    "energy_per_request_j", "energy_per_request_reason", "output_max_rel_err", "top1_agreement", "top1_reason",
    "metric_fp32",
)  # fmt: skip
RATE_COLUMNS = (
    "run_id", "workload", "label", "status", "rate_per_s", "num_requests", "served_per_s", "mean_batch",
    *(f"latency_{key}{end}_ms" for key in safe_json.PERCENTILES for end in ("", "_ci_low", "_ci_high")),
    "latency_max_ms", "latency_reason",
    "waiting_p50_ms", "deadline_ms", "deadline_missed", "deadline_passed", "energy_per_request_j", "energy_scope",
    "energy_reason",
)  # fmt: skip


def columns(run: RunRecord) -> dict[str, Any]:
    """The columns of summary.csv; those of latency are at the highest listed rate. All but `mode` None in training.

    Of inference also the columns that training has of the metric: the difference is that from the fp32 model.
    """
    if not run.is_inference:
        return dict.fromkeys(COLUMNS) | {"mode": "train"}
    last = (inference.rates(run) or [{}])[-1]
    outputs, limit = safe_json.mapping(run.summary, "outputs"), inference.max_rate(run)
    left_none = None if run.summary else f"the run is {run.status}"
    metric = safe_json.mapping(outputs, "metric")
    figure, plain = safe_json.number(metric, "value"), safe_json.number(metric, "reference_value")
    return {
        "mode": "infer",
        "batch_size": safe_json.positive(run.part("infer"), "batch_size"),
        "arrival_rate_per_s": safe_json.positive(last, "rate_per_s"),
        "served_per_s": safe_json.positive(last, "served_per_s"),
        "latency_p90_ms": safe_json.positive(last, "latency_ms", "p90"),
        "latency_p99_9_ms": safe_json.positive(last, "latency_ms", "p99_9"),
        "latency_limit_ms": safe_json.positive(run.summary, "inference", "limit", "latency_limit_ms"),
        "max_rate_per_s": limit.value if limit else None,
        "max_rate_reason": left_none or inference.limit_reason(run),
        **_deadline(last),
        "energy_per_request_j": safe_json.positive(last, "energy", "per_request_j"),
        "energy_per_request_reason": left_none or safe_json.text(last, "energy", "reason"),
        "output_max_rel_err": safe_json.number(outputs, "max_rel_err"),
        "top1_agreement": safe_json.number(outputs, "top1_agreement"),
        "top1_reason": left_none or safe_json.text(outputs, "top1_reason"),
        "metric": safe_json.text(metric, "name"),
        "metric_value": figure,
        "metric_difference": figure - plain if figure is not None and plain is not None else None,
        "metric_fp32": plain,
        "metric_reason": left_none or safe_json.text(outputs, "metric_reason"),
    }


def _deadline(rate: dict[str, Any]) -> dict[str, Any]:
    passed = safe_json.at(rate, "deadline", "passed")
    return {
        "deadline_ms": safe_json.positive(rate, "deadline", "deadline_ms"),
        "deadline_missed": safe_json.number(rate, "deadline", "share_missed"),
        "deadline_passed": passed if isinstance(passed, bool) else None,
    }


def render(records: StudyRecords) -> str:
    """inference.csv."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(RATE_COLUMNS)
    for run in records.inference_runs:
        for rate in inference.rates(run):
            values = _rate_row(run, rate)
            writer.writerow([cell(values[column]) for column in RATE_COLUMNS])
    return out.getvalue()


def _latency(rate: dict[str, Any], key: str) -> dict[str, float | None]:
    """A percentile and the ends of its interval, empty where the requests do not bound it."""
    found = inference.latency_ms(rate, key)
    known = found is not None and found.is_known
    return {
        f"latency_{key}_ms": found.value if found else None,
        f"latency_{key}_ci_low_ms": found.low if found and known else None,
        f"latency_{key}_ci_high_ms": found.high if found and known and math.isfinite(found.high) else None,
    }


def _rate_row(run: RunRecord, rate: dict[str, Any]) -> dict[str, Any]:
    reasons = safe_json.mapping(rate, "latency_ms", "reasons")
    told = [text for key in safe_json.PERCENTILES if (text := safe_json.text(reasons, key))]
    return {
        "run_id": run.run_id,
        "workload": run.workload,
        "label": run.label,
        "status": run.status,
        **{key: safe_json.positive(rate, key) for key in ("rate_per_s", "num_requests", "served_per_s", "mean_batch")},
        **{name: value for key in safe_json.PERCENTILES for name, value in _latency(rate, key).items()},
        "latency_max_ms": safe_json.positive(rate, "latency_ms", "max"),
        "latency_reason": "; ".join(told) or None,
        "waiting_p50_ms": safe_json.number(rate, "waiting_p50_ms"),
        **_deadline(rate),
        "energy_per_request_j": safe_json.positive(rate, "energy", "per_request_j"),
        "energy_scope": safe_json.text(rate, "energy", "scope"),
        "energy_reason": safe_json.text(rate, "energy", "reason"),
    }
