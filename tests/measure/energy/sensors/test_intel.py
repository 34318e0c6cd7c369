"""Intel cards and tiles by their drivers' counters."""

from __future__ import annotations

import pytest

from hpc_accel.measure.energy.sensors import intel
from tests.measure import trees
from tests.measure.energy.measuring import measure, scopes


def test_intel_card_and_tile_and_a_counter_at_zero(sysfs, clock):
    with trees.Rising(clock) as tree:
        for number, (driver, power_w, start_j) in enumerate([("i915", 80, 5.0), ("i915_gt0", 40, 5.0), ("xe", 0, 0.0)]):
            directory = sysfs / "class/hwmon" / f"hwmon{number}"
            tree.counter(directory / "energy1_input", power_w, start_j=start_j)
            (directory / "name").write_text(driver + "\n")
        assert scopes(intel.discover()) == {
            "i915 hwmon0": "gpu-card", "i915_gt0 hwmon1": "gpu-tile", "xe hwmon2": "gpu-card",
        }  # fmt: skip
        energy = measure(clock, 2.0)
    assert energy.power_w == pytest.approx(80.0, rel=1e-6)
    assert energy.is_partial is True
    assert "did not change" in energy.reason
