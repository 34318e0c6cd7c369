"""AMD boards through Zeus: two dies count once, broken counters are integrated."""

from __future__ import annotations

import pytest

from hpc_accel.measure.energy.sensors import zeus_amd
from tests.measure import fake_zeus
from tests.measure.energy.measuring import measure


def test_amd_without_zeus_names_the_remedy(sysfs, monkeypatch):
    (sysfs / "class/kfd").mkdir(parents=True)
    monkeypatch.setenv("HPC_ACCEL_TESTING", "1")
    monkeypatch.setenv("HPC_ACCEL_ZEUS_MODULE", "no_such_library")
    (sensor,) = zeus_amd.discover()
    assert "hpc-accel[energy]" in sensor.info.remedy


def test_amd_boards_of_two_dies_count_once_and_broken_counters_are_integrated(sysfs, clock, monkeypatch):
    (sysfs / "class/kfd").mkdir(parents=True)
    monkeypatch.setattr(fake_zeus, "now_s", lambda: clock.now_ns() * 1e-9)
    for variable, value in (
        ("TESTING", "1"),
        ("ZEUS_MODULE", "tests.measure.fake_zeus"),
        ("AMDSMI_MODULE", "tests.measure.fake_zeus"),
    ):
        monkeypatch.setenv(f"HPC_ACCEL_{variable}", value)
    energy = measure(clock, 0.5)
    assert energy.power_w == pytest.approx(600.0, rel=1e-6)
    assert energy.method == "integrated-power"
    assert energy.is_partial is False
    assert [sensor.key for sensor in energy.sensors] == ["amd/0000:c1:00.0", "amd/0000:d1:00.0"]
