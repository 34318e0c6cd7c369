"""RAPL: the processor's own energy counters, /sys/class/powercap/intel-rapl:* (Intel, and AMD since Zen).

Zones nest by name: intel-rapl:0 is a package, intel-rapl:0:1 a part of it; numbers have any number of digits. Only core
and uncore lie inside the package; dram does not on servers; psys contains all of it. The intel-rapl-mmio zones are a
second door to the same packages, used where the first one is missing.

A processor of several dies has one zone for each, package-0-die-0 and so on. On Intel each die counts for itself; on
AMD some kernels show the one counter of the package once per die, and adding them reports several times the truth. So
dies of one package whose counters are the same count once.

Counters begin anew at max_energy_range_uj, often after minutes, so somebody has to look in between (energy/reader.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hpc_accel.measure.energy.sensors import sysfs
from hpc_accel.measure.energy.sensors.sensor import Reading, Sensor, SensorError, SensorInfo, absent

SOURCE = "rapl"
ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")
MMIO_ZONE = re.compile(r"intel-rapl-mmio:\d+(:\d+)?")
DIE = re.compile(r"(package-\d+)-die-\d+")
NUM_LOOKS = 5
"""Looks at two counters before they are taken for different ones: one of them may begin anew in between."""
UPDATE_PERIOD_S = 0.001
MAX_POWER_W = {"cpu-package": 1500.0, "cpu-core": 1500.0, "cpu-uncore": 1500.0, "dram": 1000.0, "platform": 10_000.0}
UPDATE_UJ = MAX_POWER_W["cpu-package"] * UPDATE_PERIOD_S * 1e6
"""The most that one update of a package can add."""
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
        return Reading(energy_j=value_uj * 1e-6)


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


def _is_mirror(one: Path, other: Path) -> bool:
    """Whether both zones show one counter: the other's value lies between two of the first one's, but for an update.

    That of a counter of its own lies there by chance only: a few joules of a range of 65 kJ or more.
    """
    try:
        for _ in range(NUM_LOOKS):
            before, between, after = (sysfs.read_number(zone / "energy_uj") for zone in (one, other, one))
            if before - UPDATE_UJ <= between <= after + UPDATE_UJ:
                return True
    except SensorError:
        pass
    return False


def _without_mirrors(zones: list[Path]) -> list[Path]:
    """The zones less those of dies that show another die's counter, and less the parts of these."""
    firsts: dict[str, list[Path]] = {}
    mirrors: set[str] = set()
    for zone in zones:
        die = DIE.fullmatch(sysfs.optional_text(zone / "name") or "")
        if die is not None:
            known = firsts.setdefault(die[1], [])
            if any(_is_mirror(first, zone) for first in known):
                mirrors.add(zone.name)
            else:
                known.append(zone)
    return [zone for zone in zones if ":".join(zone.name.split(":")[:2]) not in mirrors]


def discover() -> list[Sensor]:
    """All zones of this node."""
    powercap = sysfs.root() / "class" / "powercap"
    entries = sysfs.entries(powercap)
    paths = [path for path in entries if ZONE.fullmatch(path.name)]
    paths = paths or [path for path in entries if MMIO_ZONE.fullmatch(path.name)]
    zones = [_zone(path) for path in _without_mirrors(paths)]
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
