"""The idle baseline beside a figure: the power of the same sensors while the ranks slept. Nothing is subtracted."""

from __future__ import annotations

from dataclasses import replace

from hpc_accel.measure.energy.figure import EnergyFigure

NO_IDLE = "idle power was not measured: measure.idle_s is 0"


def with_idle(energy: EnergyFigure, idle: EnergyFigure | None) -> EnergyFigure:
    """The same figure with the idle power beside it where both have one scope, else with the reason why not."""
    if energy.energy_j is None or energy.window_s is None:
        return replace(energy, idle_reason=energy.reason)
    if idle is None:
        return replace(energy, idle_reason=NO_IDLE)
    if idle.power_w is None:
        return replace(energy, idle_reason=f"while idle: {idle.reason}")
    if energy.scope != idle.scope:
        return replace(energy, idle_reason=f"while idle the sensors covered another scope: {idle.scope}")
    return replace(
        energy,
        idle_power_w=idle.power_w,
        idle_window_s=idle.window_s,
        idle_reason="",
        energy_above_idle_j=energy.energy_j - idle.power_w * energy.window_s,
    )
