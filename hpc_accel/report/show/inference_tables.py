"""Inference runs as the rows and cards of the page."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import inference, reasons, wording
from hpc_accel.report.judge.ranking import throughput
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords


def cards(records: StudyRecords) -> list[dict[str, Any]]:
    """One card per workload with inference runs."""
    found: list[dict[str, Any]] = []
    for workload in records.inference_workloads:
        runs = records.inference_runs_of(workload)
        top = inference.best(runs)
        if top is None:
            found.append({"workload": workload, "run": None, "num_runs": len(runs), "why": inference.best_words(runs)})
            continue
        found.append(
            {
                "workload": workload,
                "run": top.run,
                "figure": inference.figure_words(top),
                "deadline": inference.deadline(top.run),
                "command": records.submit_command(top.run),
                "outputs": inference.outputs_words(top.run).removeprefix("; "),
                "tie": wording.named([run.label for run in top.ties], most=3) if top.ties else "",
            }
        )
    return found


def latency_rows(records: StudyRecords) -> list[dict[str, Any]]:
    """One row per counting run and arrival rate."""
    found = []
    for run in records.inference_runs:
        for rate in inference.rates(run) if run.counts else []:
            missing = safe_json.mapping(rate, "latency_ms", "reasons")
            found.append(
                {
                    "name": f"{run.workload} {run.label}",
                    "rate": wording.short(safe_json.positive(rate, "rate_per_s")),
                    "completed": wording.short(safe_json.positive(rate, "served_per_s")),
                    "latencies": [
                        {
                            "text": wording.short(value.value) if value else "",
                            "spread": inference.spread_words(value) if value and value.is_known else "",
                            "reason": None if value else safe_json.text(missing, key) or wording.NOT_MEASURED,
                        }
                        for key in safe_json.PERCENTILES
                        for value in [inference.latency_ms(rate, key)]
                    ],
                    "requests": f"{safe_json.number(rate, 'num_requests') or 0:,.0f}",
                    "batch": wording.short(safe_json.positive(rate, "mean_batch")),
                    "deadline": _verdict(rate),
                    "energy": wording.short(safe_json.positive(rate, "energy", "per_request_j")),
                    "energy_reason": safe_json.text(rate, "energy", "reason"),
                }
            )
    return found


def _verdict(rate: dict[str, Any]) -> dict[str, Any]:
    passed = safe_json.at(rate, "deadline", "passed")
    if not isinstance(passed, bool):
        return {"text": "none set", "passed": None}
    share = wording.percent(safe_json.number(rate, "deadline", "share_missed"))
    return {"text": f"{'met' if passed else 'missed'} ({share} late)", "passed": passed}


def run_rows(records: StudyRecords) -> list[dict[str, Any]]:
    """One row per inference run: full batches, the highest rate, and what its recipe does to the answers."""
    found = []
    for run in records.inference_runs:
        outputs, limit = safe_json.mapping(run.summary, "outputs"), inference.max_rate(run)
        rate = throughput(run)
        error, agreement = safe_json.number(outputs, "max_rel_err"), safe_json.number(outputs, "top1_agreement")
        found.append(
            {
                "run": run,
                "step": wording.with_interval(rate.inverse(1e3 * _batch(run))) if rate else wording.NOT_MEASURED,
                "rate": wording.short(rate.value) if rate else wording.NOT_MEASURED,
                "limit": wording.short(limit.value) if limit else "",
                "limit_reason": inference.limit_reason(run),
                "error": wording.error(error) if error is not None else "",
                "agreement": wording.percent(agreement) if agreement is not None else "",
                "agreement_reason": safe_json.text(outputs, "top1_reason") or wording.NOT_MEASURED,
                "metric": inference.metric_words(run),
                "metric_reason": safe_json.text(outputs, "metric_reason") or wording.NOT_MEASURED,
                "memory": wording.memory(safe_json.positive(run.summary, "peak_memory_bytes")),
                "status_reason": reasons.status_reason(run),
            }
        )
    return found


def notes(records: StudyRecords) -> list[dict[str, str]]:
    """What a reader must know of recipes and layouts; runs with the same words share an entry."""
    shared: dict[str, list[str]] = {}
    for run in records.inference_runs:
        found = safe_json.at(run.summary, "inference", "notes")
        for note in found if isinstance(found, list) else []:
            if isinstance(note, str):
                shared.setdefault(safe_json.clean(note), []).append(f"{run.workload} {run.label}")
    return [{"text": text, "runs": wording.named(names, most=3)} for text, names in shared.items()]


def _batch(run: RunRecord) -> float:
    return safe_json.positive(run.summary, "steps", "global_batch_size") or 1.0


def generation_rows(records: StudyRecords) -> list[dict[str, str]]:
    """One row per counting run and cache setting."""
    found = []
    for run in records.inference_runs:
        for item in safe_json.items(run.summary, "inference", "generate") if run.counts else []:
            error = safe_json.number(item, "cache_max_rel_err")
            found.append(
                {
                    "name": f"{run.workload} {run.label}",
                    "cache": "with" if item.get("kv_cache") is True else "without",
                    "tokens": f"{safe_json.number(item, 'prompt') or 0:g} + {safe_json.number(item, 'tokens') or 0:g}",
                    "first": wording.short(safe_json.positive(item, "time_to_first_token_ms", "median")),
                    "each": wording.short(safe_json.positive(item, "time_per_output_token_ms", "median")),
                    "rate": wording.short(safe_json.positive(item, "tokens_per_s")),
                    "energy": wording.short(safe_json.positive(item, "energy", "per_token_j")),
                    "error": wording.error(error) if error is not None else "is the reference",
                }
            )
    return found
