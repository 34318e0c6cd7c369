"""Everything predicted of one run: step time by part, peak memory, energy and price where power and prices are known.

What cannot be known is None, with the reason.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.memory_fit import Fit, room_of
from hpc_accel.plan.predictable import not_probed
from hpc_accel.plan.software import Software, torch_amp
from hpc_accel.probe.hardware import Hardware
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.run import Run

NO_PRICE = "the site gives no price"


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a node costs, as the site says, and in which words ("EUR", "core-hours")."""

    per_node_hour: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted figures of one run. Energy and cost cover the run's timed steps, as the measured ones do."""

    step_time_ms: float | None
    step_time_reason: str | None = None
    parts_ms: dict[str, float] | None = None
    peak_memory_bytes: int
    memory_limit_bytes: int | None = None
    """What the fullest rank may take; None where nobody said how large its memory is."""
    memory_fit: Fit | None = None
    energy_j: float | None = None
    energy_reason: str | None = None
    cost: float | None = None
    cost_reason: str | None = None
    notes: tuple[str, ...] = ()
    """What the figures stand for less well than measured ones would, and memory that is tight or short."""

    def to_json(self) -> dict[str, Any]:
        """As plan.json holds it."""
        return asdict(self)


def predict(
    run: Run,
    facts: ModelFacts,
    hardware: Hardware,
    *,
    software: Software | None = None,
    prices: Prices | None = None,
    model: StepModel | None = None,
) -> Prediction:
    """Everything predicted of `run`. `model` may carry what earlier predictions computed for the same workload."""
    software = software or torch_amp(run.workload.optimizer, run.recipe, run.backend, facts.optimizer)
    model = model or StepModel(facts, hardware, run.recipe.precision, software, run.backend)
    room = room_of(run.layout, run.resources, model)
    memory: dict[str, Any] = {
        "peak_memory_bytes": room.need_bytes,
        "memory_limit_bytes": room.limit_bytes,
        "memory_fit": room.fit,
    }
    notes = model.notes(run.layout) + ((room.note,) if room.note else ())
    reason = model.unpredictable(run.layout, run.resources, run.device)
    reason = reason or model.uncertain(run.layout, run.resources)
    reason = reason or not_probed(run.recipe, model.kind, run.resources, model.calibration)
    if reason is not None:
        return Prediction(
            step_time_ms=None,
            step_time_reason=reason,
            **memory,
            notes=notes,
            energy_reason=f"no time predicted: {reason}",
            cost_reason=f"no time predicted: {reason}" if prices else NO_PRICE,
        )
    parts = model.parts_s(run.layout, run.resources)
    step_s = sum(parts.values())
    window_s = step_s * run.measure.steps
    num_nodes, power_w = run.resources.num_nodes, model.power_w(run.layout, run.resources)
    return Prediction(
        step_time_ms=step_s * 1e3,
        parts_ms={name: part * 1e3 for name, part in parts.items()},
        **memory,
        energy_j=power_w * num_nodes * window_s if power_w else None,
        energy_reason=None if power_w else model.kind.power_w_reason or "the probe read no power sensor",
        cost=prices.per_node_hour * num_nodes * window_s / 3600 if prices else None,
        cost_reason=None if prices else NO_PRICE,
        notes=notes,
    )
