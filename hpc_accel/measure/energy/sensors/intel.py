"""Intel GPUs: energy counters of the i915 and xe drivers, /sys/class/hwmon/*/energy1_input in microjoules.

The hardware register has 32 bits; the kernel accumulates it at each read and so survives one wrap between
two reads, not two: the reader looks at least every 30 seconds. i915_gt<N> is a tile of its card. Some
cards' counters stand at 0 (B580): a counter that does not move gives no figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpc_accel.measure.energy.sensors import sysfs
from hpc_accel.measure.energy.sensors.sensor import Reading, Sensor, SensorError, SensorInfo, absent

SOURCE = "intel"
MAX_POWER_W = 1500.0
REGISTER_J = 2**32 / 2**14
"""Range of the register in its usual unit of 2^-14 J; no wrap to correct, only a reason to look often enough."""


@dataclass(frozen=True, slots=True)
class IntelCounter:
    """One card's or tile's counter."""

    info: SensorInfo
    file: sysfs.KeptFile

    def read(self) -> Reading:
        """The counter now."""
        value_uj = self.file.number()
        return Reading(energy_j=value_uj * 1e-6)


def _scope(driver: str) -> str | None:
    if driver in ("i915", "xe"):
        return "gpu-card"
    return "gpu-tile" if driver.startswith("i915_gt") else None


def _counter(directory: Path, driver: str, scope: str) -> Sensor | None:
    """The card's counter: xe labels its two, of which the package's lies inside the card's."""
    path = directory / "energy1_input"
    if sysfs.optional_text(directory / "energy1_label") not in (None, "card") or not sysfs.exists(path):
        return None
    device = directory / "device"
    address = device.resolve().name if sysfs.exists(device) else directory.name
    label = f"{driver} {address}"
    try:
        sysfs.read_number(path)
    except SensorError as error:
        return absent(SOURCE, scope, error.reason, error.remedy, name=label, present=True)
    info = SensorInfo(name=label, source=SOURCE, scope=scope, key=f"intel/{address}/{driver}", max_power_w=MAX_POWER_W)
    return IntelCounter(info, sysfs.KeptFile(path))


def discover() -> list[Sensor]:
    """All cards and tiles of this node."""
    found: list[Sensor] = []
    for directory in sysfs.entries(sysfs.root() / "class" / "hwmon"):
        driver = sysfs.optional_text(directory / "name") or ""
        scope = _scope(driver)
        counter = _counter(directory, driver, scope) if scope else None
        if counter is not None:
            found.append(counter)
    return found or [absent(SOURCE, "gpu-card", "no Intel GPU (no i915 or xe under hwmon)")]
