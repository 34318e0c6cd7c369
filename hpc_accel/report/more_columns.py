"""The columns of summary.csv beyond the design's: energy in detail, utilisation, checks; each with its reason."""

from __future__ import annotations

from typing import Any

from hpc_accel.report import fields, footprint, reasons
from hpc_accel.report.doubts import doubts
from hpc_accel.report.ranking import Baselines
from hpc_accel.report.records import RunRecord

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
    steps = fields.mapping(run.summary, "steps")
    flops = fields.mapping(run.summary, "flops")
    left_none = None if run.summary else f"the run is {run.status}"
    return {
        "num_repeats": len([each for each in run.repeats if each.counts]) if run.repeats else 1 if run.counts else None,
        "num_timed_steps": fields.positive(steps, "num_timed"),
        "num_warmup_detected": fields.number(steps, "num_warmup_detected"),
        "warmup_reason": left_none or fields.text(steps, "warmup_reason"),
        "num_outliers": fields.number(steps, "outliers", "count"),
        "comm_overlapped_ms": fields.number(run.summary, "phases_ms", "comm_overlapped"),
        "comm_overlapped_reason": left_none or reasons.overlap_reason(run),
        "bubble_ideal": fields.number(run.summary, "bubble_ideal"),
        "flops_per_step": fields.positive(flops, "per_step"),
        "mfu": fields.positive(flops, "mfu"),
        "mfu_reason": left_none or reasons.mfu_reason(run),
        **_energy(run, left_none),
        **_factors(run, factors, left_none),
        "warnings": "; ".join(warnings(run, serial)) or None,
    }


def warnings(run: RunRecord, serial: Baselines) -> list[str]:
    """What the run itself warned of, and what in its figures is too good."""
    found = run.summary.get("warnings")
    said = [fields.clean(text) for text in found if isinstance(text, str)] if isinstance(found, list) else []
    return [*said, *doubts(run, serial)]


def _energy(run: RunRecord, left_none: str | None) -> dict[str, Any]:
    energy, target = fields.mapping(run.summary, "energy"), fields.mapping(run.summary, "target")
    unknown = reasons.energy_reason(run)
    phases = fields.mapping(energy, "by_phase_j")
    return {
        "energy_per_token_j": fields.positive(energy, "per_token_j"),
        "energy_per_token_reason": left_none or unknown or fields.text(energy, "per_token_reason"),
        "energy_per_epoch_j": fields.positive(energy, "per_epoch_j"),
        "energy_delay_product_js": fields.positive(energy, "energy_delay_product_js"),
        "steps_to_target": fields.positive(target, "num_steps"),
        "time_to_target_s": fields.positive(target, "time_s"),
        "energy_to_target_j": fields.positive(target, "energy_j"),
        "target_reason": left_none or fields.text(target, "reason"),
        "idle_power_w": fields.positive(energy, "idle_power_w"),
        "idle_reason": left_none or unknown or fields.text(energy, "idle_reason"),
        **{f"energy_{phase}_j": fields.positive(phases, phase) for phase in PHASES},
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
