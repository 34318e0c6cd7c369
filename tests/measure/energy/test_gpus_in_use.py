"""GPUs no rank computes on: shown beside the total, and no part of it; where it cannot be known, that is said."""

from __future__ import annotations

import pytest

from hpc_accel.measure.energy import attribution, gpus_in_use
from hpc_accel.measure.energy.aggregate import aggregate
from hpc_accel.measure.energy.combine_windows import combine
from hpc_accel.measure.energy.gpus_in_use import Users
from hpc_accel.measure.energy.meter import EnergyMeter
from hpc_accel.measure.energy.sensors.sensor import SensorInfo, absent
from tests.measure.energy.test_aggregate import record, sensor

A, B = "GPU-aaaa-1", "GPU-bbbb-2"


def info(key: str, scope: str = "gpu-board") -> SensorInfo:
    return SensorInfo(name=key, source="nvml", scope=scope, key=key, is_global=True)


def users(*node: str, world: tuple[str, ...] = ()) -> Users:
    return Users(node=frozenset(node), world=frozenset((*node, *world)))


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        (users(A), {A: True, B: False, "cpu": None}),
        (users(A, B), {A: True, B: True, "cpu": None}),
        (users(), {A: False, B: False, "cpu": None}),
        (users(A, world=(B,)), {A: True, B: True, "cpu": None}),
        (users("GPU-of-a-slice"), {A: None, B: None, "cpu": None}),
        (Users(node=None, world=None), {A: None, B: None, "cpu": None}),
    ],
)
def test_whose_a_gpu_is(who, expected):
    assert gpus_in_use.by_key([info(A), info(B), info("cpu", "cpu-package")], who) == expected


def test_a_module_has_a_processor_that_may_be_at_work():
    assert gpus_in_use.by_key([info(A, "module"), info(B, "module")], users(B)) == {A: None, B: True}


def test_another_jobs_board_is_never_missed():
    closed = absent("nvml", "gpu-board", "Insufficient Permissions", name="nvml board 0", present=True, ours=False).info
    assert gpus_in_use.by_key([closed], Users(node=None, world=None)) == {"nvml board 0": False}


def test_idle_gpus_stand_beside_the_total():
    energy = aggregate(
        [record(sensor("gpu-board", key=A, is_used=True), sensor("gpu-board", key=B, energy_j=500.0, is_used=False))],
        10.0,
    )
    assert energy.energy_j == pytest.approx(2000)
    assert energy.unused_gpus_j == pytest.approx(500)
    assert energy.is_partial is False
    assert energy.coverage.devices_expected == energy.coverage.unused_gpus == 1
    assert energy.coverage.notes == ("not in the total: 1 GPU(s) seen that no rank computes on",)
    assert [row.is_counted for row in energy.sensors] == [True, False]
    attributed = attribution.attribute(energy, [])
    assert [(row.energy_j, row.is_counted) for row in attributed.phases.by_device] == [(2000, True), (500, False)]
    both = combine([attributed] * 2)
    assert both.unused_gpus_j == pytest.approx(1000)
    assert [row.energy_j for row in both.phases.by_device] == [4000, 1000]


def test_an_idle_gpu_that_cannot_be_read_is_not_missed():
    lost = sensor("gpu-board", key=B, energy_j=None, reason="GPU is lost", is_used=False)
    energy = aggregate([record(sensor("gpu-board", key=A, is_used=True), lost)], 10.0)
    assert (energy.is_partial, energy.reason, energy.unused_gpus_j) == (False, "", None)


def test_a_node_of_processors_with_idle_gpus_keeps_no_gpus_out_of_the_total():
    computing = record(sensor("gpu-board", key=A, is_used=True), sensor("cpu-package"), boot="b1")
    feeding = record(sensor("gpu-board", key=B, is_used=False), sensor("cpu-package"), boot="b2")
    energy = aggregate([computing, feeding], 10.0)
    assert energy.scope == "GPU boards + CPU packages"
    assert energy.energy_j == pytest.approx(2000 + 2 * 1000)
    assert energy.is_partial is False


def test_a_run_without_gpus_is_not_charged_for_them():
    energy = aggregate([record(sensor("gpu-board", is_used=False), sensor("cpu-package"))], 10.0)
    assert (energy.energy_j, energy.scope) == (pytest.approx(1000), "CPU packages")


def test_idle_gpus_alone_are_no_figure_and_say_why():
    energy = aggregate([record(sensor("gpu-board", is_used=False))], 10.0)
    assert energy.energy_j is None
    assert "1 GPU(s) can be read, and no rank computes on them" in energy.reason
    assert energy.remedy


def test_a_whole_nodes_total_contains_them_and_says_so():
    energy = aggregate([record(sensor("node"), sensor("gpu-board", is_used=False))], 10.0)
    assert energy.energy_j == pytest.approx(5000)
    assert energy.coverage.notes == (
        "the total contains 1 GPU(s) that no rank computes on: its sensors cover whole nodes",
    )


def test_where_nobody_knows_all_count_and_that_is_said():
    energy = aggregate([record(sensor("gpu-board", key=A), sensor("gpu-board", key=B))], 10.0)
    assert energy.energy_j == pytest.approx(4000)
    assert "not known which of 2 GPU(s) seen the ranks compute on" in energy.coverage.notes[0]


@pytest.mark.parametrize(("gpu", "power_w", "unused"), [(B, 300.0, 1), (None, 600.0, 0), ("", None, 2)])
def test_the_meter_counts_its_ranks_gpus(monkeypatch, tmp_path, clock, gpu, power_w, unused):
    for name, value in {"TESTING": "1", "NVML_MODULE": "tests.measure.fake_nvml", "SYSFS": str(tmp_path)}.items():
        monkeypatch.setenv(f"HPC_ACCEL_{name}", value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with EnergyMeter(None, gpu=gpu, clock=clock) as meter:
        with meter.window("timed") as window:
            clock.sleep(20.0)
        assert meter.min_window_s == (0 if power_w is None else pytest.approx(10))
    energy = window.result
    assert energy.coverage.unused_gpus == unused
    if power_w is None:
        assert energy.energy_j is None
    else:
        assert energy.power_w == pytest.approx(power_w, rel=1e-5)
