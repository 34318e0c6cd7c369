"""The columns of summary.csv beyond the design's: energy in detail, utilisation, checks; each with its reason."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import footprint, plausibility, reasons
from hpc_accel.report.judge.ranking import Baselines
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord

PHASES = ("compute", "comm_exposed", "pipeline_wait", "idle")
COLUMNS = (
    "num_repeats", "num_timed_steps", "num_warmup_detected", "warmup_reason", "num_outliers", "comm_overlapped_ms",
    "comm_overlapped_reason", "bubble_ideal", "flops_per_step", "mfu", "mfu_reason",
    "energy_per_token_j", "energy_per_token_reason", "energy_per_epoch_j", "energy_delay_product_js",
    "steps_to_target", "time_to_target_s", "energy_to_target_j", "target_reason", "idle_power_w", "idle_reason",
    *(f"energy_{phase}_j" for phase in PHASES), "energy_phases_reason",
    "carbon_g", "carbon_reason", "electricity_cost", "electricity_reason",
    "estimated_energy_j", "estimated_method", "estimated_reason", "warnings",
)  # fmt: skip


def columns(run: RunRecord, serial: Baselines, factors: dict[str, Any]) -> dict[str, Any]:
    """All of them; None where not measured."""
    steps = safe_json.mapping(run.summary, "steps")
    flops = safe_json.mapping(run.summary, "flops")
    left_none = None if run.summary else f"the run is {run.status}"
    return {
        "num_repeats": len([each for each in run.repeats if each.counts]) if run.repeats else 1 if run.counts else None,
        "num_timed_steps": safe_json.positive(steps, "num_timed"),
        "num_warmup_detected": safe_json.number(steps, "num_warmup_detected"),
        "warmup_reason": left_none or safe_json.text(steps, "warmup_reason"),
        "num_outliers": safe_json.number(steps, "outliers", "count"),
        "comm_overlapped_ms": safe_json.number(run.summary, "phases_ms", "comm_overlapped"),
        "comm_overlapped_reason": left_none or reasons.overlap_reason(run),
        "bubble_ideal": safe_json.number(run.summary, "bubble_ideal"),
        "flops_per_step": safe_json.positive(flops, "per_step"),
        "mfu": safe_json.positive(flops, "mfu"),
        "mfu_reason": left_none or reasons.mfu_reason(run),
        **_energy(run, left_none),
        **_factors(run, factors, left_none),
        "warnings": "; ".join(plausibility.warnings(run, serial)) or None,
    }


def _energy(run: RunRecord, left_none: str | None) -> dict[str, Any]:
    energy, target = safe_json.mapping(run.summary, "energy"), safe_json.mapping(run.summary, "target")
    unknown = reasons.energy_reason(run)
    phases = safe_json.mapping(energy, "by_phase_j")
    return {
        "energy_per_token_j": safe_json.positive(energy, "per_token_j"),
        "energy_per_token_reason": left_none or unknown or safe_json.text(energy, "per_token_reason"),
        "energy_per_epoch_j": safe_json.positive(energy, "per_epoch_j"),
        "energy_delay_product_js": safe_json.positive(energy, "energy_delay_product_js"),
        "steps_to_target": safe_json.positive(target, "num_steps"),
        "time_to_target_s": safe_json.positive(target, "time_s"),
        "energy_to_target_j": safe_json.positive(target, "energy_j"),
        "target_reason": left_none or safe_json.text(target, "reason"),
        "idle_power_w": safe_json.positive(energy, "idle_power_w"),
        "idle_reason": left_none or unknown or safe_json.text(energy, "idle_reason"),
        **{f"energy_{phase}_j": safe_json.positive(phases, phase) for phase in PHASES},
        "energy_phases_reason": None if phases else left_none or reasons.energy_phases_reason(run),
    }


def _factors(run: RunRecord, factors: dict[str, Any], left_none: str | None) -> dict[str, Any]:
    carbon, price = footprint.carbon_g(run, factors), footprint.electricity_cost(run, factors)
    estimate = footprint.estimate_j(run, factors)
    return {
        "carbon_g": carbon.value,
        "carbon_reason": left_none or carbon.reason,
        "electricity_cost": price.value,
        "electricity_reason": left_none or price.reason,
        "estimated_energy_j": estimate.value,
        "estimated_method": footprint.estimate_method(factors) if estimate.value is not None else None,
        "estimated_reason": left_none or estimate.reason,
    }
