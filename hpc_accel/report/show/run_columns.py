"""Columns of the table of runs: what a run is, its times, its checks, and what was predicted of it."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import metric, quantities, ranking, reasons
from hpc_accel.report.judge.cells import Cell, Row
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.labels import recipe_options
from hpc_accel.report.load.run_record import RunRecord

NO_PIPELINE = f"{quantities.NOT_APPLICABLE}: {quantities.BUBBLE.otherwise}"
QUANTITIES = {
    "cost": quantities.COST,
    "comm_exposed_ms": quantities.COMMUNICATION,
    "comm_overlapped_ms": quantities.OVERLAP,
    "bubble_fraction": quantities.BUBBLE,
    "bubble_ideal": quantities.BUBBLE_IDEAL,
    "mfu": quantities.MFU,
    "flops_per_step": quantities.FLOPS,
    "peak_memory_bytes": quantities.MEMORY,
    "final_loss": quantities.LOSS,
    "parity_max_rel_err": quantities.PARITY,
}
"""Columns that show a quantity as it is recorded."""


def identity(run: RunRecord) -> Row:
    """What a run is: its layout, recipe and resources."""
    layout, recipe = run.part("layout"), run.part("recipe")
    unplanned = "the plan does not say"
    return {
        "run_id": Cell.of(run.run_id),
        "workload": Cell.of(run.workload),
        "label": Cell.of(run.label),
        "status": Cell.of(run.status),
        "status_reason": Cell(value=reasons.status_reason(run)),
        "num_nodes": Cell.of(_num_nodes(run), unplanned),
        "num_ranks": Cell.of(run.summary.num_ranks if run.has_record else run.num_ranks),
        **{key: Cell.of(safe_json.number(layout, key), unplanned) for key in ("dp", "pp", "tp")},
        "shard": Cell.of(safe_json.text(layout, "shard"), unplanned),
        "schedule": Cell.of(safe_json.text(layout, "schedule"), unplanned if run.has_pipeline else NO_PIPELINE),
        **{
            key: Cell.of(safe_json.number(layout, key), unplanned) for key in ("micro_batch_size", "accumulation_steps")
        },
        "global_batch_size": Cell.of(int(ranking.global_batch_size(run))),
        "precision": Cell.of(safe_json.text(recipe, "precision"), unplanned),
        "options": Cell.of(_options(recipe)),
        **{key: Cell.of(_option(recipe.get(key)), unplanned) for key in ("compile", "recompute", "compression")},
        "backend": Cell.of(safe_json.text(run.run, "backend"), "the run left no readable run.json"),
        "device": Cell.of(run.summary.device, f"the run is {run.status}"),
        "mode": Cell.of("infer" if run.is_inference else "train"),
    }


def _options(recipe: dict[str, Any]) -> str:
    clocks = [
        f"{key}={value:g}"
        for key in ("gpu_freq_mhz", "cpu_freq_khz", "power_limit_w")
        if (value := safe_json.positive(recipe, key)) is not None
    ]
    return " ".join([*recipe_options(recipe), *clocks]) or "none"


def _option(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return safe_json.clean(value) if isinstance(value, str) else None


def times(run: RunRecord) -> Row:
    """Times, memory, loss and parity."""
    time, rate = ranking.step_time_ms(run), ranking.throughput(run)
    untimed = quantities.STEP_TIME.reason(run)
    bounds = time if time and time.is_known else None
    unbounded = untimed or "the run left no interval"
    return {
        "step_time_ms": Cell.of(time.value if time else None, untimed),
        "step_time_ci_low_ms": Cell.of(bounds.low if bounds else None, unbounded),
        "step_time_ci_high_ms": Cell.of(bounds.high if bounds else None, unbounded),
        "throughput_samples_per_s": Cell.of(rate.value if rate else None, untimed),
        **{column: _cell(run, quantity) for column, quantity in QUANTITIES.items()},
        **_steps(run),
    }


def _steps(run: RunRecord) -> Row:
    """How many steps the times are from."""
    steps, left_none = run.summary.steps, run.summary.step_time_ms.reason or "the run left no steps"
    repeats = len([each for each in run.repeats if each.counts]) if run.repeats else 1 if run.counts else None
    return {
        "num_repeats": Cell.of(repeats, f"the run is {run.status}"),
        "num_timed_steps": Cell.of(run.num_timed or None, left_none),
        "num_warmup_detected": Cell.figure(steps.num_warmup_detected) if steps else Cell(reason=left_none),
        "num_outliers": Cell.of(steps.outliers.count if steps else None, left_none),
    }


def metric_cells(run: RunRecord, plain: metric.Baselines) -> Row:
    """The metric of held-out samples, and how far it is from that of the plain serial run that trained as long."""
    why = metric.reason(run)
    return {
        "metric": Cell.of(run.summary.metric.name, why),
        "metric_value": Cell.of(metric.value(run), why),
        "metric_difference": Cell.of(metric.difference(run, plain), why or metric.NO_PLAIN_RUN),
    }


def predicted(run: RunRecord) -> Row:
    """What the plan predicted, and how far off it was: (predicted - measured) / measured."""
    step_ms = safe_json.positive(run.candidate, "prediction", "step_time_ms")
    measured = ranking.step_time_ms(run)
    error = (step_ms - measured.value) / measured.value if step_ms and measured else None
    unpredicted = quantities.PREDICTION.reason(run)
    no_energy = safe_json.text(run.candidate, "prediction", "energy_reason") or unpredicted
    return {
        "predicted_step_time_ms": Cell.of(step_ms, unpredicted),
        "prediction_error": Cell.of(error, unpredicted or quantities.STEP_TIME.reason(run)),
        "predicted_energy_j": Cell.of(_predicted_energy_j(run), no_energy),
    }


def _predicted_energy_j(run: RunRecord) -> float | None:
    """For as many steps as were timed: the plan predicts the steps asked for, and a run may be extended or repeated."""
    planned = safe_json.positive(run.candidate, "prediction", "energy_j")
    asked = safe_json.positive(run.run, "measure", "steps")
    return planned * run.num_timed / asked if planned and asked and run.num_timed else planned


def _num_nodes(run: RunRecord) -> float | None:
    return run.summary.num_nodes if run.has_record else safe_json.number(run.part("resources"), "num_nodes")


def _cell(run: RunRecord, quantity: quantities.Quantity) -> Cell:
    return Cell.of(quantity.figure(run).value, quantity.reason(run))
