"""RAPL: the processor's own energy counters, /sys/class/powercap/intel-rapl:* (Intel, and AMD since Zen).

Zones nest by name: intel-rapl:0 is a package, intel-rapl:0:1 a part of it; numbers have any number of
digits. Only core and uncore lie inside the package; dram does not on servers; psys contains all of it. The
intel-rapl-mmio zones are a second door to the same packages and are left alone. Counters begin anew at
max_energy_range_uj, often after minutes, so somebody has to look in between (energy/reader.py).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from hpc_accel.measure.energy.sensors import sysfs
from hpc_accel.measure.energy.sensors.sensor import Reading, Sensor, SensorError, SensorInfo, absent

SOURCE = "rapl"
ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")
UPDATE_PERIOD_S = 0.001
MAX_POWER_W = {"cpu-package": 1500.0, "cpu-core": 1500.0, "cpu-uncore": 1500.0, "dram": 1000.0, "platform": 10_000.0}
REMEDY = (
    "an administrator can allow it on the compute nodes: chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj "
    "(root only since Linux 5.10, CVE-2020-8694), or use the scheduler's energy accounting"
)


def scope_of(zone: str) -> str | None:
    """Scope of a zone by its name; None for one we do not know."""
    if zone.startswith("package"):
        return "cpu-package"
    return {"core": "cpu-core", "uncore": "cpu-uncore", "dram": "dram", "psys": "platform"}.get(zone)


@dataclass(frozen=True, slots=True)
class RaplZone:
    """One zone's counter in microjoules."""

    info: SensorInfo
    file: sysfs.KeptFile

    def read(self) -> Reading:
        """The counter now."""
        value_uj = self.file.number()
        return Reading(time_ns=time.perf_counter_ns(), energy_j=value_uj * 1e-6)


def _zone(directory: Path) -> Sensor | None:
    zone = sysfs.optional_text(directory / "name") or ""
    scope = scope_of(zone)
    if scope is None:
        return None
    label = f"{directory.name} {zone}"
    try:
        sysfs.read_number(directory / "energy_uj")
        range_j = sysfs.read_number(directory / "max_energy_range_uj") * 1e-6
    except SensorError as error:
        return absent(SOURCE, scope, error.reason, REMEDY if error.remedy else "", name=label, present=True)
    info = SensorInfo(
        name=label,
        source=SOURCE,
        scope=scope,
        key=directory.name,
        update_period_s=UPDATE_PERIOD_S,
        wrap_j=range_j,
        max_power_w=MAX_POWER_W[scope],
    )
    return RaplZone(info, sysfs.KeptFile(directory / "energy_uj"))


def discover() -> list[Sensor]:
    """All zones of this node."""
    powercap = sysfs.root() / "class" / "powercap"
    zones = [_zone(path) for path in sysfs.entries(powercap) if ZONE.fullmatch(path.name)]
    found = [zone for zone in zones if zone is not None]
    if found:
        return found
    return [
        absent(
            SOURCE,
            "cpu-package",
            f"no intel-rapl zones under {powercap}: a virtual machine, a container that masks them, or no driver",
            "on bare metal an administrator loads intel_rapl_msr; virtual machines have no counters",
        )
    ]
