"""inference.csv: one row per inference run and arrival rate."""

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
    "run_id", "workload", "label", "status", "rate_per_s", "num_requests", "completed_per_s", "mean_batch",
    *(f"latency_{key}{end}_ms" for key in safe_json.PERCENTILES for end in ("", "_ci_low", "_ci_high")),
    "latency_max_ms", "latency_reason",
    "waiting_p50_ms", "deadline_ms", "deadline_missed", "deadline_passed", "energy_per_request_j", "energy_scope",
    "energy_reason",
)  # fmt: skip


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
    writer.writerow(COLUMNS)
    for run in records.inference_runs:
        for rate in inference.rates(run):
            values = _rate_row(run, rate)
            writer.writerow([cell(values[column]) for column in COLUMNS])
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
    missing = [text for key in safe_json.PERCENTILES if (text := safe_json.text(reasons, key))]
    return {
        "run_id": run.run_id,
        "workload": run.workload,
        "label": run.label,
        "status": run.status,
        **{key: safe_json.positive(rate, key) for key in ("rate_per_s", "num_requests", "mean_batch")},
        "completed_per_s": safe_json.positive(rate, "served_per_s"),
        **{name: value for key in safe_json.PERCENTILES for name, value in _latency(rate, key).items()},
        "latency_max_ms": safe_json.positive(rate, "latency_ms", "max"),
        "latency_reason": "; ".join(missing) or None,
        "waiting_p50_ms": safe_json.number(rate, "waiting_p50_ms"),
        **_deadline(rate),
        "energy_per_request_j": safe_json.positive(rate, "energy", "per_request_j"),
        "energy_scope": safe_json.text(rate, "energy", "scope"),
        "energy_reason": safe_json.text(rate, "energy", "reason"),
    }
