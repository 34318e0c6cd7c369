"""Power meters of Grace and ACPI are integrated, and what nests is not added."""

from __future__ import annotations

import pytest

from hpc_accel.measure.energy.sensors import hwmon
from tests.measure import trees
from tests.measure.energy.measuring import measure, scopes


def test_graces_zones_nest_and_are_integrated(sysfs, clock):
    for number, (label, power_w) in enumerate(
        [
            ("Module Power Socket 0", 300),
            ("Grace Power Socket 0", 90),
            ("CPU Power Socket 0", 60),
            ("SysIO Power Socket 0", 20),
        ]
    ):
        trees.meter(sysfs, number, label, power_w)
    assert sorted(scopes(hwmon.discover()).values()) == ["grace", "grace-cpu", "grace-sysio", "module"]
    energy = measure(clock, 1.0)
    assert energy.scope == "modules (CPU + GPU)"
    assert energy.method == "integrated-power"
    assert energy.power_w == pytest.approx(300.0, rel=1e-9)


def test_an_acpi_meter_is_labelled_as_one(sysfs):
    trees.meter(sysfs, 0, "", 240)
    assert scopes(hwmon.discover()) == {"hwmon0 ACPI power meter": "node"}
