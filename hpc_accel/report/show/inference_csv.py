"""inference.csv: one row per inference run and arrival rate."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from hpc_accel.record.inference import PERCENTILES, Rate
from hpc_accel.report.judge import inference
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords
from hpc_accel.report.show.csv_cells import cell

COLUMNS = (
    "run_id", "workload", "label", "status", "rate_per_s", "num_requests", "completed_per_s", "mean_batch",
    *(f"latency_{key}{end}_ms" for key in PERCENTILES for end in ("", "_ci_low", "_ci_high")),
    "latency_max_ms", "latency_reason",
    "waiting_p50_ms", "deadline_ms", "deadline_missed", "deadline_passed", "energy_per_request_j", "energy_scope",
    "energy_reason",
)  # fmt: skip


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


def _latency(rate: Rate, key: str) -> dict[str, float | None]:
    """A percentile and the ends of its interval, empty where the requests do not bound it."""
    found = inference.latency_ms(rate, key)
    return {
        f"latency_{key}_ms": found.value if found else None,
        f"latency_{key}_ci_low_ms": found.low if found else None,
        f"latency_{key}_ci_high_ms": found.high if found and math.isfinite(found.high) else None,
    }


def _rate_row(run: RunRecord, rate: Rate) -> dict[str, Any]:
    told = [text for key in PERCENTILES if (text := rate.latency_ms.percentile(key).reason)]
    return {
        "run_id": run.run_id,
        "workload": run.workload,
        "label": run.label,
        "status": run.status,
        "rate_per_s": rate.rate_per_s,
        "num_requests": rate.num_requests,
        "completed_per_s": rate.completed_per_s,
        "mean_batch": rate.mean_batch,
        **{name: value for key in PERCENTILES for name, value in _latency(rate, key).items()},
        "latency_max_ms": rate.latency_ms.max_ms,
        "latency_reason": "; ".join(told) or None,
        "waiting_p50_ms": rate.waiting_p50_ms.value,
        "deadline_ms": rate.deadline.deadline_ms.value,
        "deadline_missed": rate.deadline.share_missed.value,
        "deadline_passed": rate.deadline.passed,
        "energy_per_request_j": rate.energy.per_request_j.value,
        "energy_scope": rate.energy.scope,
        "energy_reason": rate.energy.reason or None,
    }
