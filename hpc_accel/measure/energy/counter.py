"""From readings to joules: differences of a counter over its wraps, or the integral of power.

A sensor's energy only ever grows. What makes it wrong (a reset, an impossible jump, a gap in which a counter may
have wrapped twice, a silence of a power meter) is kept as a fault; a window with a fault has no figure. Two
marks of a counter, at both ends of a window, give the window's energy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from hpc_accel.measure.energy.sensors.sensor import Reading, SensorInfo

NS = 1e-9
MAX_SILENCE_S = 5.0
"""Longest gap between two readings of a power meter that is still integrated (or 20 of its periods)."""
JUMP_UPDATES = 4
"""Updates' worth of the largest power a counter may run ahead of the time between two reads."""


class Mark(NamedTuple):
    """The state of a counter at one end of a window."""

    total_j: float
    time_ns: int
    sensor_time_ns: int | None
    freshness: str
    num_faults: int
    fault: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SensorInterval:
    """What one sensor measured between two marks; `energy_j` is None exactly where `reason` is not empty."""

    energy_j: float | None
    window_s: float
    reason: str = ""


class EnergyCounter:
    """The energy that passed one sensor since the first reading."""

    def __init__(self, info: SensorInfo) -> None:
        self.info = info
        self._total_j = 0.0
        self._last: Reading | None = None
        self._first_ns = self._last_ns = 0
        self._num_faults = 0
        self._fault = ""

    def add(self, reading: Reading, time_ns: int) -> None:
        """Take one reading of `time_ns` in."""
        last, self._last = self._last, reading
        last_ns, self._last_ns = self._last_ns, time_ns
        if last is None:
            self._first_ns = time_ns
            return
        duration_s = (time_ns - last_ns) * NS
        if duration_s < 0:
            self._break("the clock went back")
        elif reading.energy_j is not None and last.energy_j is not None:
            self._add_counter(last, reading, last.energy_j, reading.energy_j, duration_s)
        elif reading.power_w is not None and last.power_w is not None:
            self._add_power(last.power_w, reading.power_w, duration_s)
        else:
            self._break("the sensor changed between counter and power")

    def _add_counter(self, last: Reading, now: Reading, before_j: float, after_j: float, duration_s: float) -> None:
        if now.epoch != last.epoch:
            self._break(f"the counter was reset (epoch {last.epoch} became {now.epoch})")
            return
        delta_j = after_j - before_j
        wrap_j = self.info.wrap_j
        if delta_j < 0:
            if wrap_j is None or after_j < 0 or before_j > wrap_j:
                self._break(f"the counter went back from {before_j:.3f} J to {after_j:.3f} J: reset")
                return
            delta_j += wrap_j
        limit_w = self.info.max_power_w
        if delta_j > limit_w * (duration_s + JUMP_UPDATES * self.info.update_period_s):
            self._break(f"{delta_j:.3f} J in {duration_s:.3f} s is more than {limit_w:g} W: reset or broken")
        elif wrap_j is not None and self._may_hide_a_wrap(duration_s, wrap_j):
            self._break(f"not read for {duration_s:.1f} s, in which the counter may have wrapped unseen")
        else:
            self._total_j += delta_j

    def _may_hide_a_wrap(self, duration_s: float, wrap_j: float) -> bool:
        """Whether one whole range could have passed: at the largest power, or at four times what was seen so far."""
        power_w = self.info.max_power_w
        if power_w * duration_s < wrap_j:
            return False
        if self._total_j > 0:
            seen_s = max((self._last_ns - self._first_ns) * NS - duration_s, 1e-3)
            power_w = min(power_w, 4 * self._total_j / seen_s)
        return power_w * duration_s >= wrap_j

    def _add_power(self, before_w: float, after_w: float, duration_s: float) -> None:
        if not (0 <= after_w <= self.info.max_power_w):
            self._break(f"{after_w:g} W is not between 0 and {self.info.max_power_w:g} W")
        elif duration_s > max(MAX_SILENCE_S, 20 * self.info.update_period_s):
            self._break(f"no reading for {duration_s:.1f} s: the power in between is unknown")
        else:
            self._total_j += (before_w + after_w) / 2 * duration_s

    def _break(self, fault: str) -> None:
        self._num_faults += 1
        self._fault = fault

    def mark(self) -> Mark | None:
        """The state now; None before the first reading."""
        if self._last is None:
            return None
        return Mark(
            total_j=self._total_j,
            time_ns=self._last_ns,
            sensor_time_ns=self._last.sensor_time_ns,
            freshness=self._last.freshness,
            num_faults=self._num_faults,
            fault=self._fault,
        )


def interval(info: SensorInfo, start: Mark, end: Mark) -> SensorInterval:
    """One sensor's window. With the sensor's own time stamps the duration is the sensor's."""
    window_s = (end.time_ns - start.time_ns) * NS
    if start.sensor_time_ns is not None and end.sensor_time_ns is not None:
        window_s = (end.sensor_time_ns - start.sensor_time_ns) * NS
    energy_j = end.total_j - start.total_j
    if end.num_faults != start.num_faults:
        return SensorInterval(energy_j=None, window_s=window_s, reason=f"{info.name}: {end.fault}")
    if start.freshness and start.freshness == end.freshness:
        reason = f"{info.name}: stuck, freshness stayed {end.freshness}"
        return SensorInterval(energy_j=None, window_s=window_s, reason=reason)
    if energy_j <= 0 or window_s <= 0:
        reason = (
            f"{info.name}: did not change in {max(window_s, 0):.3f} s (stuck, or the window is shorter than an update)"
        )
        return SensorInterval(energy_j=None, window_s=window_s, reason=reason)
    return SensorInterval(energy_j=energy_j, window_s=window_s)
