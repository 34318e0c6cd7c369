"""A stand-in for zeus.device.gpu and amdsmi: an MI250 board of two dies, and an MI100 whose counter is broken."""

from __future__ import annotations

import time


def now_s() -> float:
    """The time that counters follow."""
    return time.perf_counter()


class Gpu:
    """One AMD GPU as zeus shows it."""

    def __init__(self, name: str, address: str, power_w: float, *, has_counter: bool, is_odd: bool = False) -> None:
        self._name, self.handle, self._power_w, self._has_counter = name, address, power_w, has_counter
        self._is_dual_die_odd_chiplet = is_odd

    def get_name(self) -> str:
        return self._name

    def get_total_energy_consumption(self) -> int:
        if not self._has_counter:
            raise RuntimeError("energy counter is not accurate")
        return round(now_s() * self._power_w * 1000)

    def get_average_power_usage(self) -> int:
        raise RuntimeError("N/A")

    def get_instant_power_usage(self) -> int:
        if self._is_dual_die_odd_chiplet:
            raise RuntimeError("N/A")
        return round(self._power_w * 1000)


class Gpus:
    """The collection."""

    gpus = (
        Gpu("AMD Instinct MI250X", "0000:c1:00.0", 400.0, has_counter=True),
        Gpu("AMD Instinct MI250X", "0000:c6:00.0", 0.0, has_counter=False, is_odd=True),
        Gpu("AMD Instinct MI100", "0000:d1:00.0", 200.0, has_counter=False),
    )


def get_gpus() -> Gpus:
    return Gpus()


def amdsmi_get_gpu_device_bdf(handle: str) -> str:
    return handle
