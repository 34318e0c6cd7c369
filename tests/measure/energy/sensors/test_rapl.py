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


def dies(tree: trees.Rising, sysfs: Path, starts_j: list[float]) -> None:
    """One socket of four dies at 50 W, each with a part of its own."""
    for die, start_j in enumerate(starts_j):
        zone = f"intel-rapl:{die}"
        trees.rapl_zone(tree, sysfs, zone, f"package-0-die-{die}", 50.0, start_j=start_j)
        trees.rapl_zone(tree, sysfs, f"{zone}:0", "dram", 5.0, start_j=start_j)


def test_dies_that_show_the_counter_of_their_package_count_once(sysfs, clock):
    with trees.Rising(clock) as tree:
        dies(tree, sysfs, [5000.0] * 4)
        assert list(scopes(rapl.discover())) == ["intel-rapl:0 package-0-die-0", "intel-rapl:0:0 dram"]
        energy = measure(clock, 10.0)
    assert energy.energy_j == pytest.approx(550.0, abs=1e-4)


def test_dies_with_counters_of_their_own_are_added(sysfs, clock):
    with trees.Rising(clock) as tree:
        dies(tree, sysfs, [5000.0, 4711.0, 5003.5, 12.0])
        energy = measure(clock, 10.0)
    assert energy.energy_j == pytest.approx(2200.0, abs=1e-4)


def test_equal_counters_of_two_packages_are_two(sysfs, clock):
    with trees.Rising(clock) as tree:
        for socket in (0, 1):
            trees.rapl_zone(tree, sysfs, f"intel-rapl:{socket}", f"package-{socket}-die-0", 50.0)
        energy = measure(clock, 10.0)
    assert energy.energy_j == pytest.approx(1000.0, abs=1e-4)


def test_a_mirror_whose_counter_moves_between_two_reads_is_seen(sysfs, monkeypatch):
    """The counter moves at each read, and once it begins anew in between."""
    dies(trees.Rising(), sysfs, [5000.0] * 2)
    values_uj = iter([9e6, 10e6, 0.0, 1e6, 2e6, 3e6, 4e6])
    monkeypatch.setattr(rapl.sysfs, "read_number", lambda _path: next(values_uj))
    assert rapl._is_mirror(*(sysfs / "class/powercap" / f"intel-rapl:{die}" for die in (0, 1)))


def test_the_second_door_is_used_where_it_is_the_only_one(sysfs, clock):
    with trees.Rising(clock) as tree:
        trees.rapl_zone(tree, sysfs, "intel-rapl-mmio:0", "package-0", 50.0)
        assert scopes(rapl.discover()) == {"intel-rapl-mmio:0 package-0": "cpu-package"}
        energy = measure(clock, 10.0)
    assert energy.energy_j == pytest.approx(500.0, abs=1e-4)
