"""Columns of the table of runs: joules, what they come to, by phase, as CO2 and money; estimates apart."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import footprint, quantities, ranking
from hpc_accel.report.judge.cells import Cell
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord

PHASES = ("compute", "comm_exposed", "pipeline_wait", "idle")
Row = dict[str, Cell]


def cells(run: RunRecord, factors: dict[str, Any]) -> Row:
    """All of them."""
    energy = safe_json.mapping(run.summary, "energy")
    unknown = quantities.ENERGY.reason(run)
    return {
        "energy_j": Cell.of(safe_json.positive(energy, "energy_j"), unknown),
        "energy_per_sample_j": Cell.of(ranking.energy_per_sample_j(run), unknown),
        "energy_scope": Cell.of(safe_json.text(energy, "scope"), unknown),
        "energy_method": Cell.of(safe_json.text(energy, "method"), unknown),
        # Of a total that is partial, too: it is measured, and the reason says what it lacks.
        "energy_reason": Cell(value=unknown or safe_json.text(energy, "reason")),
        **_derived(energy, unknown),
        **_to_target(run, unknown),
        **_by_phase(run),
        **_factors(run, factors),
    }


def _derived(energy: dict[str, Any], unknown: str | None) -> Row:
    per_token = unknown or safe_json.text(energy, "per_token_reason")
    return {
        "energy_per_token_j": Cell.of(safe_json.positive(energy, "per_token_j"), per_token),
        "energy_per_epoch_j": Cell.of(safe_json.positive(energy, "per_epoch_j"), unknown),
        "energy_delay_product_js": Cell.of(safe_json.positive(energy, "energy_delay_product_js"), unknown),
        "idle_power_w": Cell.of(
            safe_json.positive(energy, "idle_power_w"), unknown or safe_json.text(energy, "idle_reason")
        ),
    }


def _to_target(run: RunRecord, unknown: str | None) -> Row:
    target = safe_json.mapping(run.summary, "target")
    why = safe_json.text(target, "reason") or (None if run.summary else f"the run is {run.status}")
    return {
        "steps_to_target": Cell.of(safe_json.positive(target, "num_steps"), why),
        "time_to_target_s": Cell.of(safe_json.positive(target, "time_s"), why),
        "energy_to_target_j": Cell.of(safe_json.positive(target, "energy_j"), why or unknown),
    }


def _by_phase(run: RunRecord) -> Row:
    phases = safe_json.mapping(run.summary, "energy", "by_phase_j")
    why = quantities.ENERGY_PHASES.reason(run) or f"{quantities.NOT_APPLICABLE}: the run had no such phase"
    return {f"energy_{phase}_j": Cell.of(safe_json.positive(phases, phase), why) for phase in PHASES}


def _factors(run: RunRecord, factors: dict[str, Any]) -> Row:
    estimate = footprint.estimate_j(run, factors)
    method = footprint.estimate_method(factors) if estimate.value is not None else None
    return {
        "carbon_g": footprint.carbon_g(run, factors),
        "electricity_cost": footprint.electricity_cost(run, factors),
        "estimated_energy_j": estimate,
        "estimated_method": Cell.of(method, estimate.reason),
    }
