"""What a training will take, by the run that was measured in the same layout: time, energy, cost, CO2."""

from __future__ import annotations

from hpc_accel.measure.energy.derived import JOULES_PER_KWH
from hpc_accel.record.figure import Grams, Joules, Milliseconds, OwnUnit, Seconds
from hpc_accel.record.production import Factors, Forecast
from hpc_accel.report.judge import ranking
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord

NO_PRICE = "the site gives no price_per_node_hour"
NO_CARBON = "the site gives no carbon_g_per_kwh"


def forecast_of(measured: RunRecord, factors: dict[str, object], num_steps: int) -> Forecast:
    """Of `num_steps` steps. `factors` are the site's, from the plan."""
    summary = measured.summary
    step = summary.step_time_ms
    time_s = step.value * num_steps / 1e3 if step.value is not None else None
    per_step_j = summary.energy.per_step_j
    energy_j = per_step_j.value * num_steps if per_step_j.value is not None else None
    price = safe_json.positive(measured.candidate, "price_per_node_hour")
    carbon = safe_json.positive(factors, "carbon_g_per_kwh")
    nodes = summary.num_nodes
    planned_ms = safe_json.positive(measured.candidate, "prediction", "step_time_ms")
    return Forecast(
        measured_run=measured.run_id,
        num_steps=num_steps,
        num_nodes=nodes,
        step_time_ms=step,
        planned_step_time_ms=Milliseconds.of(planned_ms, "the plan has no prediction of this run"),
        time_s=Seconds.of(time_s, step.reason),
        energy_j=Joules.of(energy_j, per_step_j.reason, per_step_j.remedy),
        cost=OwnUnit.of(_cost(measured, num_steps), NO_PRICE),
        carbon_g=Grams.of(
            energy_j / JOULES_PER_KWH * carbon if energy_j and carbon else None, per_step_j.reason or NO_CARBON
        ),
        factors=Factors(
            currency=safe_json.text(factors, "currency") or "", price_per_node_hour=price, carbon_g_per_kwh=carbon
        ),
    )


def _cost(measured: RunRecord, num_steps: int) -> float | None:
    per_sample = ranking.cost_per_sample(measured)
    return per_sample.value * num_steps * ranking.global_batch_size(measured) if per_sample else None
