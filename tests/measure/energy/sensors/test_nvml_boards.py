"""Which NVIDIA boards are this process's: each opened by itself, and numbers trusted only where they mean the same."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from hpc_accel.measure.energy.meter import EnergyMeter
from hpc_accel.measure.energy.sensors import nvml, nvml_boards, visible_gpus
from hpc_accel.measure.energy.sensors.nvml_boards import Board
from tests.measure import fake_nvml

A, B = "GPU-aaaa-1", "GPU-bbbb-2"


@pytest.fixture
def library(monkeypatch, tmp_path):
    for name, value in {"TESTING": "1", "NVML_MODULE": "tests.measure.fake_nvml", "SYSFS": str(tmp_path)}.items():
        monkeypatch.setenv(f"HPC_ACCEL_{name}", value)
    for name in (visible_gpus.VARIABLE, visible_gpus.ORDER):
        monkeypatch.delenv(name, raising=False)
    return fake_nvml


def torch_with(*uuids: str, initialised: bool = True) -> SimpleNamespace:
    """A torch that holds these GPUs; asking for them before CUDA runs would start it."""

    def properties(index: int) -> SimpleNamespace:
        assert initialised, "torch was made to start CUDA"
        return SimpleNamespace(uuid=uuids[index].removeprefix("GPU-"))

    return SimpleNamespace(
        cuda=SimpleNamespace(
            is_available=lambda: pytest.fail("the driver was started to ask"),
            is_initialized=lambda: initialised,
            device_count=lambda: len(uuids),
            get_device_properties=properties,
        )
    )


def available() -> list[str]:
    return [sensor.info.key for sensor in nvml.discover() if sensor.info.is_available]


def test_a_board_given_to_another_job_hides_none_and_is_not_missed(library, clock, monkeypatch):
    monkeypatch.setattr(library, "FAULT", "handle-one")
    closed, own = sorted((sensor.info for sensor in nvml.discover()), key=lambda info: info.is_available)
    assert own.key == B
    assert "Insufficient Permissions" in closed.reason
    assert closed.is_ours is False
    with EnergyMeter(None, clock=clock) as meter, meter.window("timed") as window:
        clock.sleep(20.0)
    assert window.result.power_w == pytest.approx(300.0, rel=1e-5)
    assert window.result.is_partial is False
    [row] = [row for row in window.result.sensors if not row.is_counted]
    assert (row.key, row.is_used, row.energy_j) == ("nvml board 0", False, None)


def test_cuda_does_not_count_a_forbidden_board(library, monkeypatch):
    monkeypatch.setattr(library, "FAULT", "handle-one")
    monkeypatch.setenv(visible_gpus.VARIABLE, "0")
    assert available() == [B]


def test_a_broken_board_makes_the_total_partial_and_hides_none(library, clock, monkeypatch):
    monkeypatch.setattr(library, "FAULT", "lost-one")
    assert available() == [B]
    with EnergyMeter(None, clock=clock) as meter, meter.window("timed") as window:
        clock.sleep(20.0)
    assert window.result.power_w == pytest.approx(300.0, rel=1e-5)
    assert window.result.is_partial is True
    assert "GPU is lost" in window.result.reason


@pytest.mark.parametrize(
    ("value", "found"),
    [(B, [B]), ("GPU-b", [B]), ("0", []), ("1", []), ("0,1", [B]), ("", [])],
)
def test_beside_a_broken_board_names_are_believed_and_numbers_are_not(library, monkeypatch, value, found):
    monkeypatch.setattr(library, "FAULT", "lost-one")
    monkeypatch.setenv(visible_gpus.VARIABLE, value)
    assert available() == found


@pytest.mark.parametrize(
    ("value", "order", "found"),
    [
        ("0", "", []),
        ("0", "FASTEST_FIRST", []),
        ("0", "PCI_BUS_ID", [A]),
        ("1", "PCI_BUS_ID", [B]),
        ("0,1", "", [A, B]),
        ("1,0", "", [A, B]),
        (B, "", [B]),
    ],
)
def test_numbers_on_a_node_of_two_kinds_want_the_order(library, monkeypatch, value, order, found):
    monkeypatch.setattr(library, "NAMES", ["NVIDIA T1000", "NVIDIA H100"])
    monkeypatch.setenv(visible_gpus.VARIABLE, value)
    monkeypatch.setenv(visible_gpus.ORDER, order)
    assert sorted(available()) == found
    if not found:
        [sensor] = nvml.discover()
        assert sensor.info.is_present
        assert f"{visible_gpus.VARIABLE}={value} on a node with NVIDIA H100 and NVIDIA T1000" in sensor.info.reason
        assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in sensor.info.remedy


def test_torch_says_which_boards_it_holds(library, monkeypatch):
    monkeypatch.setattr(library, "NAMES", ["NVIDIA T1000", "NVIDIA H100"])
    monkeypatch.setenv(visible_gpus.VARIABLE, "0")
    monkeypatch.setitem(sys.modules, "torch", torch_with(B))
    assert available() == [B]


def test_torch_is_never_made_to_start_cuda(library, monkeypatch):
    monkeypatch.setenv(visible_gpus.VARIABLE, "1")
    monkeypatch.setitem(sys.modules, "torch", torch_with(A, initialised=False))
    assert available() == [B]


def test_with_torchs_names_a_broken_board_is_somebody_elses(library, monkeypatch):
    monkeypatch.setattr(library, "FAULT", "lost-one")
    monkeypatch.setitem(sys.modules, "torch", torch_with(B))
    [broken] = [sensor.info for sensor in nvml.discover() if not sensor.info.is_available]
    assert broken.is_ours is False


def test_a_mig_slice_torch_holds_is_told_as_one(library, monkeypatch):
    monkeypatch.setattr(library, "FAULT", "mig")
    monkeypatch.setitem(sys.modules, "torch", torch_with("GPU-of-a-slice"))
    assert available() == []
    assert "MIG is on" in json.dumps([sensor.info.reason for sensor in nvml.discover()])


def test_boards_of_one_kind_are_numbered_alike():
    same = [Board(index=index, uuid=uuid, name="H100") for index, uuid in enumerate((A, B))]
    assert visible_gpus.doubt(same) == ""
    assert nvml_boards.text(b"GPU") == nvml_boards.text("GPU") == "GPU"
