"""RAPL zones against a tree of known power."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from hpc_accel.measure.energy.figure import EnergyFigure
from hpc_accel.measure.energy.sensors import rapl
from tests.measure import trees
from tests.measure.energy.measuring import measure, scopes


def test_rapl_zones_by_name_and_without_the_second_door(sysfs, clock):
    with trees.Rising(clock) as tree:
        trees.server(tree, sysfs)
        assert scopes(rapl.discover()) == {
            "intel-rapl:0 package-0": "cpu-package",
            "intel-rapl:0:0 core": "cpu-core",
            "intel-rapl:0:1 dram": "dram",
            "intel-rapl:10 psys": "platform",
        }


def test_the_root_may_hold_a_sys_directory(sysfs, clock):
    with trees.Rising(clock) as tree:
        trees.rapl_zone(tree, sysfs / "sys", "intel-rapl:0", "package-0", 100.0)
        assert scopes(rapl.discover()) == {"intel-rapl:0 package-0": "cpu-package"}


def test_a_known_power_over_many_wraps(sysfs, clock):
    """100 W on a counter of 200 J for ten minutes: it begins anew every two seconds."""
    with trees.Rising(clock) as tree:
        trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 100.0, wrap_j=200.0, start_j=150.0)
        trees.rapl_zone(tree, sysfs, "intel-rapl:0:0", "dram", 10.0)
        energy = measure(clock, 600.0)
    assert energy.energy_j == pytest.approx(66_000.0, abs=1e-3)
    assert energy.scope == "CPU packages + DRAM"
    assert energy.method == "counter"
    assert energy.resolution_warning is False


def test_closed_counters_are_a_reason_with_the_mode_and_the_remedy(clock, monkeypatch):
    """Not as root, whom no file mode stops: a child gives its rights away first."""
    with tempfile.TemporaryDirectory() as directory, trees.Rising(clock) as tree:
        sysfs = Path(directory)
        sysfs.chmod(0o755)
        monkeypatch.setenv("HPC_ACCEL_SYSFS", directory)
        trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 100.0).chmod(0o000)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                os.write(writer, json.dumps(measure(clock, 0.2).as_dict()).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            energy = EnergyFigure.from_dict(json.loads(pipe.read()))
        os.waitpid(child, 0)
    assert energy.energy_j is None
    assert energy.method == "none"
    assert "energy_uj: permission denied (mode 0000)" in energy.reason
    assert "chmod a+r" in energy.remedy


def test_garbage_in_a_counter_is_a_reason(sysfs, clock):
    with trees.Rising(clock) as tree:
        trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 100.0)
        (sysfs / "class/powercap/intel-rapl:0/energy_uj").write_text("n/a".ljust(trees.WIDTH))
        tree._files.clear()
        (sensor,) = rapl.discover()
    assert not sensor.info.is_available
    assert "'n/a' is not a number" in sensor.info.reason
