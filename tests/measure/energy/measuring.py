"""What tests of sensors share: one window of virtual time, and which scopes a source has."""

from __future__ import annotations

from collections.abc import Iterable

from hpc_accel.measure.energy.figure import EnergyFigure
from hpc_accel.measure.energy.meter import EnergyMeter
from hpc_accel.measure.energy.sensors.sensor import Sensor
from tests.measure.energy.virtual_time import VirtualClock


def measure(clock: VirtualClock, seconds: float, gpu: str | None = None) -> EnergyFigure:
    """The energy of a window of so many seconds."""
    with EnergyMeter(None, gpu=gpu, clock=clock) as meter, meter.window("timed") as window:
        clock.sleep(seconds)
    return window.result


def scopes(sensors: Iterable[Sensor]) -> dict[str, str]:
    """Scope by name of the sensors that can be read."""
    return {sensor.info.name: sensor.info.scope for sensor in sensors if sensor.info.is_available}
