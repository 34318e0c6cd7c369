"""Fake /sys trees whose counters rise at known constant power, written by a thread about 100 times a second."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.measure.energy.virtual_time import VirtualClock

WIDTH = 24
"""Values are written in place at one width, so that no reader sees half of one."""


def power_meter(root: Path, power_w: float) -> Path:
    """A tree at `root` with one meter of a node's constant power; gives `root`."""
    meter = root / "class/hwmon/hwmon0"
    meter.mkdir(parents=True)
    microwatts = str(round(power_w * 1e6))
    for name, text in (("name", "power_meter"), ("power1_average", microwatts), ("power1_average_interval", "10")):
        (meter / name).write_text(text)
    return root


class Rising:
    """Files that follow the clock: `with Rising() as tree: tree.add(path, lambda seconds: text)`.

    With a virtual clock they are exact at each of its moments, without a thread.
    """

    def __init__(self, clock: VirtualClock | None = None, period_s: float = 0.01) -> None:
        self._clock = clock
        self._files: list[tuple[int, Callable[[float], str]]] = []
        self._period_s = period_s
        self._stop = threading.Event()
        self._start = time.perf_counter()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def add(self, path: Path, text: Callable[[float], str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(0.0).ljust(WIDTH) + "\n")
        self._files.append((os.open(path, os.O_WRONLY), text))

    def counter(self, path: Path, power_w: float, *, start_j: float = 1000.0, wrap_j: float | None = None) -> None:
        """A counter in microjoules that rises at `power_w`, from `start_j`, and begins anew at `wrap_j`."""

        def value(seconds: float) -> str:
            total_j = start_j + power_w * seconds
            return str(round((total_j % wrap_j if wrap_j else total_j) * 1e6))

        self.add(path, value)

    def _run(self) -> None:
        # On a busy machine a late writer would look like a sensor with another power: go first where that is allowed.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        while not self._stop.wait(self._period_s):
            self._write(time.perf_counter() - self._start)

    def _write(self, seconds: float) -> None:
        for descriptor, text in self._files:
            os.pwrite(descriptor, text(seconds).ljust(WIDTH).encode(), 0)

    def __enter__(self) -> Rising:
        if self._clock is not None:
            self._clock.on_change.append(self._write)
        else:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._clock is not None:
            self._clock.on_change.remove(self._write)
        else:
            self._thread.join()
        for descriptor, _text in self._files:
            os.close(descriptor)


def rapl_zone(
    tree: Rising, root: Path, zone: str, name: str, power_w: float, *, wrap_j: float = 262_143.0, start_j: float = 10.0
) -> Path:
    """One powercap zone; returns its counter's file."""
    directory = root / "class" / "powercap" / zone
    directory.mkdir(parents=True)
    (directory / "name").write_text(name + "\n")
    (directory / "max_energy_range_uj").write_text(f"{round(wrap_j * 1e6)}\n")
    tree.counter(directory / "energy_uj", power_w, start_j=start_j, wrap_j=wrap_j)
    return directory / "energy_uj"


def server(tree: Rising, root: Path) -> None:
    """One package at 100 W with cores inside it, DRAM at 10 W beside it, psys around all."""
    rapl_zone(tree, root, "intel-rapl:0", "package-0", 100.0)
    rapl_zone(tree, root, "intel-rapl:0:0", "core", 70.0)
    rapl_zone(tree, root, "intel-rapl:0:1", "dram", 10.0)
    rapl_zone(tree, root, "intel-rapl:10", "psys", 150.0)
    rapl_zone(tree, root, "intel-rapl-mmio:0", "package-0", 100.0)


def pm_counters(tree: Rising, root: Path, *, generation: Callable[[float], str] = lambda _s: "1") -> Path:
    """A Cray node at 500 W with one CPU at 120 W and two accelerators at 150 W, scanned at 10 Hz."""
    directory = root / "cray" / "pm_counters"

    def scanned(power_w: float) -> Callable[[float], str]:
        return lambda s: f"{round(power_w * int(s * 10) / 10)} J {1_000_000 + int(s * 10) * 100_000} us"

    for name, power_w in (("energy", 500), ("cpu_energy", 120), ("accel0_energy", 150), ("accel1_energy", 150)):
        tree.add(directory / name, scanned(power_w))
    tree.add(directory / "freshness", lambda s: str(int(s * 10)))
    tree.add(directory / "generation", generation)
    (directory / "startup").write_text("1700000000\n")
    (directory / "raw_scan_hz").write_text("10\n")
    return directory


def meter(root: Path, number: int, label: str, power_w: float) -> None:
    """One hwmon power meter at constant power."""
    directory = root / "class" / "hwmon" / f"hwmon{number}"
    directory.mkdir(parents=True)
    (directory / "name").write_text("power_meter\n")
    (directory / "power1_oem_info").write_text(label + "\n")
    (directory / "power1_average").write_text(f"{round(power_w * 1e6)}\n")
    (directory / "power1_average_interval").write_text("100\n")


@contextlib.contextmanager
def pretended_root(root: Path) -> Iterator[None]:
    """Programs started inside read their sensors below `root`."""
    before = os.environ.get("HPC_ACCEL_SYSFS")
    os.environ["HPC_ACCEL_SYSFS"] = str(root)
    try:
        yield
    finally:
        os.environ.pop("HPC_ACCEL_SYSFS")
        if before is not None:
            os.environ["HPC_ACCEL_SYSFS"] = before
