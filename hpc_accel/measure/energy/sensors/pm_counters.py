"""Cray pm_counters: /sys/cray/pm_counters, the node's own energy and that of its parts, world-readable, about 10 Hz.

A file holds `N J timestamp us`; the directory counts scans in `freshness`, which must go on, and resets
in `generation` and `startup`, which must stay. The node contains its parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hpc_accel.measure.energy.sensors import sysfs
from hpc_accel.measure.energy.sensors.sensor import Reading, Sensor, SensorError, SensorInfo, absent

SOURCE = "pm_counters"
NUM_TRIES = 3
ACCELERATOR = re.compile(r"accel(\d+)_energy")
SCOPES = {"energy": "node", "cpu_energy": "cpu-package", "memory_energy": "dram"}
MAX_POWER_W = {"node": 20_000.0, "cpu-package": 3000.0, "dram": 2000.0, "gpu-board": 3000.0}


@dataclass(frozen=True, slots=True)
class PmCounter:
    """One energy file of the directory."""

    info: SensorInfo
    path: Path

    def read(self) -> Reading:
        """Counter, sensor time, freshness and epoch of one scan: read again when a scan came in between."""
        directory = self.path.parent
        for _ in range(NUM_TRIES):
            before = sysfs.read_text(directory / "freshness")
            words = sysfs.read_text(self.path).split()
            epoch = "/".join(sysfs.optional_text(directory / name) or "" for name in ("generation", "startup"))
            if sysfs.read_text(directory / "freshness") == before:
                energy_j, sensor_time_ns = _parse(words, self.path)
                return Reading(
                    energy_j=energy_j,
                    sensor_time_ns=sensor_time_ns,
                    freshness=before,
                    epoch=epoch,
                )
        raise SensorError(f"{self.path}: changed during each of {NUM_TRIES} reads")


def _parse(words: list[str], path: Path) -> tuple[float, int | None]:
    """`N J timestamp us` as joules and nanoseconds; older systems leave the time stamp out."""
    try:
        energy_j = float(words[0])
        stamp_us = int(words[2]) if len(words) >= 4 and words[3] == "us" else None
    except (IndexError, ValueError):
        raise SensorError(f"{path}: {' '.join(words)[:40]!r} is not 'N J timestamp us'") from None
    if len(words) > 1 and words[1] != "J":
        raise SensorError(f"{path}: unit {words[1]!r}, expected J")
    return energy_j, None if stamp_us is None else stamp_us * 1000


def _scope(name: str) -> str | None:
    return "gpu-board" if ACCELERATOR.fullmatch(name) else SCOPES.get(name)


def _counter(path: Path, scope: str, update_period_s: float) -> Sensor:
    label = f"pm_counters {path.name}"
    info = SensorInfo(
        name=label,
        source=SOURCE,
        scope=scope,
        key=f"pm_counters/{path.name}",
        update_period_s=update_period_s,
        max_power_w=MAX_POWER_W[scope],
    )
    counter = PmCounter(info, path)
    try:
        counter.read()
    except SensorError as error:
        return absent(SOURCE, scope, error.reason, error.remedy, name=label, present=True)
    return counter


def discover() -> list[Sensor]:
    """The node's counter and its parts'."""
    directory = sysfs.root() / "cray" / "pm_counters"
    rate_hz = sysfs.optional_number(directory / "raw_scan_hz") or 10.0
    paths = [(path, _scope(path.name)) for path in sysfs.entries(directory)]
    found = [_counter(path, scope, 1 / rate_hz) for path, scope in paths if scope is not None]
    return found or [absent(SOURCE, "node", f"no {directory}: not an HPE Cray node")]
