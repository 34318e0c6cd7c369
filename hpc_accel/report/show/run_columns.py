"""Columns of the table of runs: what a run is, its times, its checks, and what was predicted of it."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import metric, quantities, ranking, reasons
from hpc_accel.report.judge.cells import Cell
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.labels import recipe_options
from hpc_accel.report.load.run_record import RunRecord

NO_PIPELINE = f"{quantities.NOT_APPLICABLE}: {quantities.BUBBLE.otherwise}"
Row = dict[str, Cell]


def identity(run: RunRecord) -> Row:
    """What a run is: its layout, recipe and resources."""
    layout, recipe, resources = run.part("layout"), run.part("recipe"), run.part("resources")
    device = safe_json.text(run.summary, "device")
    unplanned = "the plan does not say"
    return {
        "run_id": Cell.of(run.run_id),
        "workload": Cell.of(run.workload),
        "label": Cell.of(run.label),
        "status": Cell.of(run.status),
        "status_reason": Cell(value=reasons.status_reason(run)),
        "num_nodes": Cell.of(_number(run, "num_nodes") or safe_json.number(resources, "num_nodes"), unplanned),
        "num_ranks": Cell.of(_number(run, "num_ranks") or run.num_ranks),
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
        "device": Cell.of(device, f"the run is {run.status}"),
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
    time, rate, cost = ranking.step_time_ms(run), ranking.throughput(run), ranking.cost(run)
    untimed = quantities.STEP_TIME.reason(run)
    bounds = time if time and time.is_known else None
    unbounded = untimed or "the run left no interval"
    return {
        "step_time_ms": Cell.of(time.value if time else None, untimed),
        "step_time_ci_low_ms": Cell.of(bounds.low if bounds else None, unbounded),
        "step_time_ci_high_ms": Cell.of(bounds.high if bounds else None, unbounded),
        "throughput_samples_per_s": Cell.of(rate.value if rate else None, untimed),
        "cost": _cell(run, quantities.COST, cost.value if cost else None),
        "comm_exposed_ms": _cell(run, quantities.COMMUNICATION, _number(run, "phases_ms", "comm_exposed")),
        "comm_overlapped_ms": _cell(run, quantities.OVERLAP, _number(run, "phases_ms", "comm_overlapped")),
        "bubble_fraction": _cell(run, quantities.BUBBLE, _number(run, "bubble_fraction")),
        "bubble_ideal": _cell(run, quantities.BUBBLE_IDEAL, _number(run, "bubble_ideal")),
        "mfu": _cell(run, quantities.MFU, safe_json.positive(run.summary, "flops", "mfu")),
        "flops_per_step": _cell(run, quantities.FLOPS, safe_json.positive(run.summary, "flops", "per_step")),
        "peak_memory_bytes": _cell(run, quantities.MEMORY, safe_json.positive(run.summary, "peak_memory_bytes")),
        "final_loss": _cell(run, quantities.LOSS, _number(run, "losses", "final")),
        "parity_max_rel_err": _cell(run, quantities.PARITY, _number(run, "parity", "max_rel_err")),
        **_steps(run),
    }


def _steps(run: RunRecord) -> Row:
    """How many steps the times are from."""
    left_none = "the run left no steps" if run.summary else f"the run is {run.status}"
    repeats = len([each for each in run.repeats if each.counts]) if run.repeats else 1 if run.counts else None
    detected = safe_json.text(run.summary, "steps", "warmup_reason") or left_none
    return {
        "num_repeats": Cell.of(repeats, f"the run is {run.status}"),
        "num_timed_steps": Cell.of(safe_json.positive(run.summary, "steps", "num_timed"), left_none),
        "num_warmup_detected": Cell.of(_number(run, "steps", "num_warmup_detected"), detected),
        "num_outliers": Cell.of(_number(run, "steps", "outliers", "count"), left_none),
    }


def metric_cells(run: RunRecord, plain: metric.Baselines) -> Row:
    """The metric of held-out samples, and how far it is from that of the plain serial run that trained as long."""
    why = metric.reason(run)
    return {
        "metric": Cell.of(safe_json.text(run.summary, "metric", "name"), why),
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
    timed = safe_json.positive(run.summary, "steps", "num_timed")
    return planned * timed / asked if planned and asked and timed else planned


def _number(run: RunRecord, *path: str) -> float | None:
    return safe_json.number(run.summary, *path)


def _cell(run: RunRecord, quantity: quantities.Quantity, value: float | None) -> Cell:
    return Cell.of(value, quantity.reason(run))
