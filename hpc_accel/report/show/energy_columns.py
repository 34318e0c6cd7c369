"""Columns of the table of runs: joules, what they come to, by phase, as CO2 and money; estimates apart."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import footprint, quantities, ranking
from hpc_accel.report.judge.cells import Cell, Row
from hpc_accel.report.load.run_record import RunRecord

PHASES = ("compute", "comm_exposed", "pipeline_wait", "idle")


def cells(run: RunRecord, factors: dict[str, Any]) -> Row:
    """All of them."""
    energy = run.summary.energy
    unknown = quantities.ENERGY.reason(run)
    return {
        "energy_j": Cell.figure(energy.figure),
        "energy_per_sample_j": Cell.of(ranking.energy_per_sample_j(run), unknown),
        "energy_scope": Cell.of(energy.scope, unknown),
        "energy_method": Cell.of(energy.method, unknown),
        # Of a total that is partial, too: it is measured, and the reason says what it lacks.
        "energy_reason": Cell(value=unknown or energy.reason or None),
        "energy_per_token_j": Cell.figure(energy.per_token_j),
        "energy_per_epoch_j": Cell.figure(energy.per_epoch_j),
        "energy_delay_product_js": Cell.figure(energy.energy_delay_product_js),
        "idle_power_w": Cell.figure(energy.idle_power_w),
        "steps_to_target": Cell.figure(run.summary.target.num_steps),
        "time_to_target_s": Cell.figure(run.summary.target.time_s),
        "energy_to_target_j": Cell.figure(run.summary.target.energy_j),
        **_by_phase(run),
        **_factors(run, factors),
    }


def _by_phase(run: RunRecord) -> Row:
    phases = run.summary.energy.phases.by_phase_j
    why = quantities.ENERGY_PHASES.reason(run) or f"{quantities.NOT_APPLICABLE}: the run had no such phase"
    return {f"energy_{phase}_j": Cell.of(phases.get(phase) or None, why) for phase in PHASES}


def _factors(run: RunRecord, factors: dict[str, Any]) -> Row:
    estimate = footprint.estimate_j(run, factors)
    method = footprint.estimate_method(factors) if estimate.value is not None else None
    return {
        "carbon_g": footprint.carbon_g(run, factors),
        "electricity_cost": footprint.electricity_cost(run, factors),
        "estimated_energy_j": estimate,
        "estimated_method": Cell.of(method, estimate.reason),
    }
