"""The idle baseline stands beside a figure, or the reason why there is none."""

from __future__ import annotations

import pytest

from hpc_accel.measure.energy.aggregate import aggregate
from hpc_accel.measure.energy.idle import with_idle
from tests.measure.energy.test_aggregate import record, sensor


def test_idle_power_stands_beside_and_is_never_subtracted_from_the_total():
    energy = aggregate([record(sensor("cpu-package"))], 10.0)
    idle = aggregate([record(sensor("cpu-package", energy_j=400.0))], 10.0)
    beside = with_idle(energy, idle)
    assert beside.energy_j == energy.energy_j
    assert beside.idle_power_w == pytest.approx(40)
    assert beside.energy_above_idle_j == pytest.approx(600)
    other = aggregate([record(sensor("dram"))], 10.0)
    assert with_idle(energy, other).idle_power_w is None


def test_without_a_baseline_the_reason_says_so():
    energy = aggregate([record(sensor("dram"))], 10.0)
    assert "idle_s is 0" in with_idle(energy, None).idle_reason
    closed = aggregate([record(sensor("dram", energy_j=None, window_s=None, reason="mode 0400"))], 10.0)
    assert with_idle(energy, closed).idle_reason == f"while idle: {closed.reason}"
    assert with_idle(closed, energy).idle_reason == closed.reason
