"""Power meters of /sys/class/hwmon named power_meter: Grace's zones, and the ACPI meter of a node or power supply.

They give power only, averaged by the device, so energy is integrated and says so. Grace's zones nest: a
module contains its GPU and Grace, Grace contains CPU and SysIO; the label in power1_oem_info tells which
is which. A meter without such a label is the ACPI one: the whole node as its maker understands it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpc_accel.measure.energy.sensors import sysfs
from hpc_accel.measure.energy.sensors.sensor import Reading, Sensor, SensorError, SensorInfo, absent

SOURCE = "hwmon"
DEFAULT_PERIOD_S = 1.0
GRACE = {
    "module power": "module",
    "grace power": "grace",
    "cpu power": "grace-cpu",
    "sysio power": "grace-sysio",
}


@dataclass(frozen=True, slots=True)
class PowerMeter:
    """One meter's average power in microwatts."""

    info: SensorInfo
    file: sysfs.KeptFile

    def read(self) -> Reading:
        """The power now."""
        value_uw = self.file.number()
        return Reading(power_w=value_uw * 1e-6)


def scope_of(label: str) -> str:
    """Scope of a meter by its label: Grace's zones by name, everything else is a node's meter."""
    for words, scope in GRACE.items():
        if label.lower().startswith(words):
            return scope
    return "node"


def _meter(directory: Path) -> Sensor:
    label = sysfs.optional_text(directory / "power1_oem_info") or ""
    scope = scope_of(label)
    name = f"{directory.name} {label if scope != 'node' else 'ACPI power meter ' + label}".strip()
    period_ms = sysfs.optional_number(directory / "power1_average_interval")
    path = directory / "power1_average"
    try:
        sysfs.read_number(path)
    except SensorError as error:
        return absent(SOURCE, scope, error.reason, error.remedy, name=name, present=True)
    device = directory / "device"
    info = SensorInfo(
        name=name,
        source=SOURCE,
        scope=scope,
        key=f"hwmon/{device.resolve() if sysfs.exists(device) else directory.name}/{label}",
        kind="power",
        update_period_s=period_ms / 1000 if period_ms else DEFAULT_PERIOD_S,
    )
    return PowerMeter(info, sysfs.KeptFile(path))


def discover() -> list[Sensor]:
    """All power meters of this node."""
    hwmon = sysfs.root() / "class" / "hwmon"
    found = [_meter(path) for path in sysfs.entries(hwmon) if sysfs.optional_text(path / "name") == "power_meter"]
    return found or [
        absent(
            SOURCE,
            "node",
            f"no power_meter under {hwmon}: neither a Grace node nor an ACPI power meter",
            "where the machine has one, an administrator enables it in the BIOS and loads acpi_power_meter",
        )
    ]
