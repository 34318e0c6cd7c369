"""The run's total: each physical sensor once, nothing nested added, and what is missing is told."""

from __future__ import annotations

import itertools

import pytest

from hpc_accel.measure.energy import scopes
from hpc_accel.measure.energy.aggregate import NodeRecord, SensorEnergy, aggregate

POWER_W = {
    "node": 500.0, "platform": 150.0, "module": 300.0, "gpu-board": 200.0, "grace": 90.0, "grace-cpu": 60.0,
    "grace-sysio": 20.0, "cpu-package": 100.0, "cpu-core": 70.0, "dram": 10.0, "gpu-card": 120.0, "gpu-tile": 50.0,
}  # fmt: skip


def sensor(scope: str, *, node: str = "b/h", source: str = "rapl", key: str = "", **more) -> SensorEnergy:
    values = {"energy_j": POWER_W[scope] * 10, "window_s": 10.0} | more
    kind = values.pop("kind", "counter")
    return SensorEnergy(
        name=f"{source} {scope}", node=node, source=source, scope=scope, key=key or scope, kind=kind,
        update_period_s=0.001, **values,
    )  # fmt: skip


def record(*sensors: SensorEnergy, boot: str = "b", name: str = "h", ranks: int = 2) -> NodeRecord:
    return NodeRecord(
        node_id=f"{boot}/{name}", boot_id=boot, hostname=name, num_ranks=ranks, num_ranks_answered=ranks,
        sensors=list(sensors),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "energy_j", "scope"),
    [
        (["cpu-package", "cpu-core", "dram", "platform"], 1100, "CPU packages + DRAM"),
        (["gpu-board", "cpu-package", "dram"], 3100, "GPU boards + CPU packages + DRAM"),
        (["node", "gpu-board", "cpu-package", "dram", "platform"], 5000, "whole nodes"),
        (["module", "grace", "grace-cpu", "grace-sysio", "gpu-board"], 3000, "modules (CPU + GPU)"),
        (["grace", "grace-cpu", "grace-sysio"], 900, "Grace CPUs with SysIO"),
        (["grace-cpu", "grace-sysio"], 800, "Grace CPUs + Grace SysIO"),
        (["gpu-card", "gpu-tile"], 1200, "GPU cards"),
    ],
)
def test_nested_scopes_are_never_added(found, energy_j, scope):
    energy = aggregate([record(*map(sensor, found))], 10.0)
    assert energy.energy_j == pytest.approx(energy_j)
    assert energy.scope == scope
    assert energy.method == "counter"
    assert energy.reason == ""
    assert {s.scope for s in energy.sensors} == set(found)


def test_psys_alone_is_no_total():
    assert aggregate([record(sensor("platform"))], 10.0).energy_j is None


def test_no_pair_of_chosen_scopes_contains_one_another():
    for size in (2, 3, 4):
        for some in itertools.combinations(POWER_W, size):
            chosen = scopes.disjoint(some)
            assert not any(scopes.contains(a, b) for a in chosen for b in chosen)


def test_equal_host_names_with_different_boots_are_two_nodes():
    energy = aggregate([record(sensor("cpu-package"), boot="b1"), record(sensor("cpu-package"), boot="b2")], 10.0)
    assert energy.energy_j == pytest.approx(2000)
    assert energy.coverage.nodes == energy.coverage.nodes_expected == 2


def test_one_boot_under_two_names_is_flagged():
    energy = aggregate([record(sensor("dram"), name="c1"), record(sensor("dram"), name="c2")], 10.0)
    assert energy.coverage.notes == ("one kernel answers to 2 host names (c1, c2)",)


def test_a_gpu_is_one_gpu_whatever_node_reports_it():
    gpu = {"source": "nvml", "key": "GPU-1", "is_global": True}
    energy = aggregate(
        [record(sensor("gpu-board", **gpu), name="c1"), record(sensor("gpu-board", **gpu), name="c2")], 10.0
    )
    assert energy.energy_j == pytest.approx(2000)


def test_two_sources_of_one_scope_count_once():
    energy = aggregate([record(sensor("gpu-board", source="nvml"), sensor("gpu-board", source="pm_counters"))], 10.0)
    assert energy.energy_j == pytest.approx(2000)


def test_a_node_without_sensors_makes_the_total_partial():
    energy = aggregate([record(sensor("cpu-package"), boot="b1"), record(boot="b2")], 10.0)
    assert energy.energy_j == pytest.approx(1000)
    assert energy.is_partial is True
    assert "partial: 1 of 2 nodes" in energy.scope
    assert "partial: 1 of 2 nodes" in energy.reason
    assert (energy.coverage.nodes, energy.coverage.nodes_expected) == (1, 2)


def test_one_failing_gpu_of_two_makes_the_total_partial():
    broken = sensor("gpu-board", key="GPU-2", energy_j=None, reason="GPU-2: lost")
    energy = aggregate([record(sensor("gpu-board", key="GPU-1"), broken)], 10.0)
    assert energy.is_partial is True
    assert (energy.coverage.devices, energy.coverage.devices_expected) == (1, 2)
    assert "GPU-2: lost" in energy.reason


def test_the_total_uses_scopes_every_node_has():
    both = [sensor("gpu-board"), sensor("cpu-package")]
    energy = aggregate([record(*both, boot="b1"), record(both[0], boot="b2")], 10.0)
    assert energy.energy_j == pytest.approx(4000)
    assert energy.scope == "GPU boards"
    assert energy.is_partial is False


def test_what_the_total_leaves_out_unmeasured_is_told():
    mig = sensor("gpu-board", energy_j=None, window_s=None, reason="MIG is on")
    energy = aggregate([record(sensor("cpu-package"), mig)], 10.0)
    assert energy.scope == "CPU packages"
    assert energy.coverage.notes == ("not in the total: rapl gpu-board (MIG is on)",)
    inside = sensor("cpu-core", energy_j=None, window_s=None, reason="mode 0400")
    assert aggregate([record(sensor("cpu-package"), inside)], 10.0).coverage.notes == ()


def test_nothing_readable_is_null_with_reason_and_remedy():
    closed = sensor("cpu-package", energy_j=None, window_s=None, reason="mode 0400", remedy="chmod a+r")
    energy = aggregate([record(closed)], 10.0)
    assert energy.energy_j is None
    assert energy.method == "none"
    assert energy.scope is None
    assert "mode 0400" in energy.reason
    assert energy.remedy == "chmod a+r"


def test_no_sensor_at_all_says_so():
    energy = aggregate([record(), record(boot="b2")], 10.0)
    assert energy.energy_j is None
    assert energy.reason.startswith("no energy sensor on 2 nodes")
    assert energy.remedy


def test_a_figure_with_integrated_parts_says_so():
    energy = aggregate([record(sensor("grace", kind="power", source="hwmon"), sensor("dram"))], 10.0)
    assert energy.method == "integrated-power"


def test_a_sensor_with_its_own_clock_is_brought_to_the_runs_interval():
    energy = aggregate([record(sensor("node", energy_j=4900.0, window_s=9.8))], 10.0)
    assert energy.energy_j == pytest.approx(5000)


def test_a_late_read_scales_mean_power_but_not_a_counter():
    """1.5 s read as 1 s: power is known for any window near its own; a counter may have missed an update."""
    late = {"energy_j": 300.0, "window_s": 1.5}
    assert aggregate([record(sensor("node", kind="power", **late))], 1.0).energy_j == pytest.approx(200)
    assert aggregate([record(sensor("node", **late))], 1.0).energy_j == 300.0


def test_short_windows_are_flagged():
    assert aggregate([record(sensor("dram"))], 10.0).resolution_warning is False
    assert aggregate([record(sensor("dram"))], 0.05).resolution_warning is True
    assert aggregate([record()], 0.05).resolution_warning is False
