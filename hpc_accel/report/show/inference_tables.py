"""Inference runs as the rows and cards of the page."""

from __future__ import annotations

from typing import Any

from hpc_accel.record.inference import PERCENTILES, Rate
from hpc_accel.report.judge import inference, plausibility, reasons, wording
from hpc_accel.report.judge.ranking import global_batch_size, throughput
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
                "disturbed": plausibility.disturbance(top.run),
            }
        )
    return found


def latency_rows(records: StudyRecords) -> list[dict[str, Any]]:
    """One row per counting run and arrival rate."""
    found = []
    for run in records.inference_runs:
        for rate in inference.rates(run) if run.counts else []:
            found.append(
                {
                    "name": f"{run.workload} {run.label}",
                    "rate": wording.short(rate.rate_per_s),
                    "completed": wording.short(rate.completed_per_s),
                    "latencies": [
                        {
                            "text": wording.short(value.value) if value else "",
                            "spread": inference.spread_words(value) if value else "",
                            "reason": rate.latency_ms.percentile(key).reason or None,
                        }
                        for key in PERCENTILES
                        for value in [inference.latency_ms(rate, key)]
                    ],
                    "requests": f"{rate.num_requests:,}",
                    "batch": wording.short(rate.mean_batch),
                    "deadline": _verdict(rate),
                    "energy": wording.short(rate.energy.per_request_j.value),
                    "energy_reason": rate.energy.reason,
                }
            )
    return found


def _verdict(rate: Rate) -> dict[str, Any]:
    passed = rate.deadline.passed
    if passed is None:
        return {"text": "none set", "passed": None}
    share = wording.percent(rate.deadline.share_missed.value)
    return {"text": f"{'met' if passed else 'missed'} ({share} late)", "passed": passed}


def run_rows(records: StudyRecords) -> list[dict[str, Any]]:
    """One row per inference run: full batches, the highest rate, and what its recipe does to the answers."""
    found = []
    for run in records.inference_runs:
        outputs, limit = run.summary.outputs, inference.max_rate(run)
        rate = throughput(run)
        error = outputs.max_rel_err.value if outputs else None
        agreement = outputs.top1_agreement.value if outputs else None
        found.append(
            {
                "run": run,
                "step": wording.with_interval(rate.inverse(1e3 * global_batch_size(run)))
                if rate
                else wording.NOT_MEASURED,
                "rate": wording.short(rate.value) if rate else wording.NOT_MEASURED,
                "limit": wording.short(limit.value) if limit else "",
                "limit_reason": inference.limit_reason(run),
                "error": wording.error(error) if error is not None else "",
                "agreement": wording.percent(agreement) if agreement is not None else "",
                "agreement_reason": outputs.top1_agreement.reason if outputs else wording.NOT_MEASURED,
                "metric": inference.metric_words(run),
                "metric_reason": run.summary.metric.reason or wording.NOT_MEASURED,
                "memory": wording.memory(run.summary.memory.peak_memory_bytes.value),
                "status_reason": reasons.status_reason(run),
            }
        )
    return found


def notes(records: StudyRecords) -> list[dict[str, str]]:
    """What a reader must know of recipes and layouts; runs with the same words share an entry."""
    shared: dict[str, list[str]] = {}
    for run in records.inference_runs:
        for note in run.summary.inference.notes if run.summary.inference else ():
            shared.setdefault(note, []).append(f"{run.workload} {run.label}")
    return [{"text": text, "runs": wording.named(names, most=3)} for text, names in shared.items()]


def generation_rows(records: StudyRecords) -> list[dict[str, str]]:
    """One row per counting run and cache setting."""
    found = []
    for run in records.inference_runs:
        for item in run.summary.inference.generate if run.summary.inference and run.counts else ():
            error = item.cache_max_rel_err.value
            found.append(
                {
                    "name": f"{run.workload} {run.label}",
                    "cache": "with" if item.kv_cache else "without",
                    "tokens": f"{item.prompt} + {item.tokens}",
                    "first": wording.short(item.time_to_first_token_ms.value),
                    "each": wording.short(item.time_per_output_token_ms.value),
                    "rate": wording.short(item.tokens_per_s),
                    "energy": wording.short(item.energy.per_token_j.value),
                    "error": wording.error(error) if error is not None else "is the reference",
                }
            )
    return found
