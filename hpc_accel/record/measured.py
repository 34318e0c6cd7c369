"""From what the meter measured to the record's Energy; the one place where joules are divided by samples and tokens."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hpc_accel.measure.energy import derived
from hpc_accel.measure.energy.figure import NOT_ATTRIBUTED, EnergyFigure
from hpc_accel.record.energy import (
    Coverage,
    Device,
    Energy,
    EnergyPhases,
    RequestEnergy,
    Sensor,
    TokenEnergy,
)
from hpc_accel.record.figure import Joules, JouleSeconds, Seconds, Watts
from hpc_accel.record.parts import Steps

NO_IDLE_GPU = "no GPU was measured that no rank computes on"
NO_SENSOR = "no sensor measured"


def energy_of(found: EnergyFigure, steps: Steps) -> Energy:
    """The `energy` object for a window of `steps`."""
    reason, remedy = _reason(found), found.remedy
    idle = found.idle_reason or reason
    whole = Energy.missing(reason or NO_SENSOR, remedy).changed(
        **_brief(found),
        sensors=tuple(Sensor(**asdict(each)) for each in found.sensors),
        coverage=Coverage(**asdict(found.coverage)),
        num_windows=found.num_windows,
        resolution_s=Seconds.of(found.resolution_s, reason or NO_SENSOR, remedy),
        unused_gpus_j=Joules.of(found.unused_gpus_j, NO_IDLE_GPU),
        idle_power_w=Watts.of(found.idle_power_w, idle),
        idle_window_s=Seconds.of(found.idle_window_s, idle),
        energy_above_idle_j=Joules.of(found.energy_above_idle_j, idle),
        phases=_phases(found),
    )
    return with_shares(whole, steps)


def request_energy(found: EnergyFigure, num_requests: int) -> RequestEnergy:
    """Of a window that answered as many requests."""
    per_request_j = Joules.of(derived.per(found.energy_j, num_requests), _reason(found), found.remedy)
    return RequestEnergy(**_brief(found), per_request_j=per_request_j)


def token_energy(found: EnergyFigure, num_tokens: int) -> TokenEnergy:
    """Of a window that generated as many tokens."""
    per_token_j = Joules.of(derived.per(found.energy_j, num_tokens), _reason(found), found.remedy)
    return TokenEnergy(**_brief(found), per_token_j=per_token_j)


def _brief(found: EnergyFigure) -> dict[str, Any]:
    return found.brief() | {"reason": _reason(found)}


def _reason(found: EnergyFigure) -> str:
    """Why there is no energy. A run's record is not lost for a sensor that did not say why."""
    return found.reason or (NO_SENSOR if found.energy_j is None else "")


def _phases(found: EnergyFigure) -> EnergyPhases:
    if found.phases is None:
        return EnergyPhases(reason=_reason(found) or NOT_ATTRIBUTED)
    by_device = tuple(Device(**asdict(each)) for each in found.phases.by_device)
    phases_j = found.phases.by_phase_j or {}
    known = {name: value for name, value in phases_j.items() if value is not None}
    if not known or len(known) < len(phases_j):
        return EnergyPhases(by_device=by_device, reason=found.phases.phases_reason or NOT_ATTRIBUTED)
    return EnergyPhases(
        by_phase_j=known,
        by_device=by_device,
        is_resolved=found.phases.phases_resolved,
        method=found.phases.phases_method,
        note=found.phases.phases_note,
    )


def with_shares(energy: Energy, steps: Steps) -> Energy:
    """The same energy with what follows from it: per step, sample, token and epoch, and times the time of a step.

    An epoch is the samples that it trains on, the dropped ones left out. Energy times delay is of one step, so that
    runs of different length can be compared.
    """
    reason, remedy = energy.reason, energy.remedy
    per_step_j = derived.per(energy.energy_j, steps.num_timed)
    per_sample_j = derived.per(energy.energy_j, steps.num_samples)
    epoch, tokens = steps.samples_per_epoch, steps.tokens_per_sample
    step_s = energy.window_s / steps.num_timed if energy.window_s is not None and steps.num_timed else None
    per_epoch_j = per_sample_j * epoch.value if per_sample_j is not None and epoch.value else None
    return energy.changed(
        per_step_j=Joules.of(per_step_j, reason, remedy),
        per_sample_j=Joules.of(per_sample_j, reason, remedy),
        per_token_j=Joules.of(derived.per(per_sample_j, tokens.value), reason or tokens.reason, remedy),
        per_epoch_j=Joules.of(per_epoch_j, reason or epoch.reason, remedy),
        energy_delay_product_js=JouleSeconds.of(derived.energy_delay_product_js(per_step_j, step_s), reason, remedy),
    )
