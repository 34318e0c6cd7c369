"""Every source of sensors: a new one is one file with `discover` and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hpc_accel.measure.energy.sensors import hwmon, intel, nvml, pm_counters, rapl, zeus_amd
from hpc_accel.measure.energy.sensors.sensor import Sensor


class Source(NamedTuple):
    """How to find a source's sensors, and the scope that is missing where it does not answer."""

    name: str
    scope: str
    discover: Callable[[], list[Sensor]]


SOURCES = (
    Source(pm_counters.SOURCE, "node", pm_counters.discover),
    Source(nvml.SOURCE, "gpu-board", nvml.discover),
    Source(zeus_amd.SOURCE, "gpu-board", zeus_amd.discover),
    Source(rapl.SOURCE, "cpu-package", rapl.discover),
    Source(intel.SOURCE, "gpu-card", intel.discover),
    Source(hwmon.SOURCE, "node", hwmon.discover),
)
