"""Cray's counters: a scan belongs together, a reset or standstill has no figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_accel.measure.energy.sensors import pm_counters
from hpc_accel.measure.energy.sensors.sensor import SensorError
from tests.measure import trees
from tests.measure.energy.measuring import measure, scopes


def test_pm_counters_node_and_parts(sysfs, clock):
    with trees.Rising(clock) as tree:
        trees.pm_counters(tree, sysfs)
        assert scopes(pm_counters.discover()) == {
            "pm_counters energy": "node",
            "pm_counters cpu_energy": "cpu-package",
            "pm_counters accel0_energy": "gpu-board",
            "pm_counters accel1_energy": "gpu-board",
        }
        energy = measure(clock, 9.0)
    assert energy.scope == "whole nodes"
    assert energy.energy_j == pytest.approx(4500.0, abs=1)
    assert energy.resolution_warning is True


def test_pm_counters_reset_in_between_has_no_figure(sysfs, clock):
    with trees.Rising(clock) as tree:
        trees.pm_counters(tree, sysfs, generation=lambda s: "1" if s < 0.6 else "2")
        energy = measure(clock, 1.2)
    assert energy.energy_j is None
    assert "reset" in energy.reason


def test_pm_counters_that_stand_still_have_no_figure(sysfs, clock):
    tree = trees.Rising(clock)
    trees.pm_counters(tree, sysfs)
    energy = measure(clock, 0.5)
    assert energy.energy_j is None
    assert "stuck" in energy.reason


def test_pm_counters_in_another_unit_are_not_believed(sysfs):
    directory = trees.pm_counters(trees.Rising(), sysfs)
    with pytest.raises(SensorError, match="unit 'W'"):
        pm_counters.PmCounter(pm_counters.discover()[0].info, _written(directory / "cpu_energy", "5 W 7 us")).read()


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
