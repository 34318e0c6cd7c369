"""What a GPU's figures depend on, through NVML and torch; each fact fails by itself and none is waited for long."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from hpc_accel.measure import gpu_facts
from tests.measure import fake_nvml


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setenv("HPC_ACCEL_TESTING", "1")
    monkeypatch.setenv("HPC_ACCEL_NVML_MODULE", "tests.measure.fake_nvml")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(fake_nvml, "LIMITS_MW", {})
    return fake_nvml


def test_a_boards_limits_and_modes(library):
    facts = json.loads(json.dumps(gpu_facts.collect()))
    assert facts["nvidia_driver"] == "580.82.07"
    assert [board["uuid"] for board in facts["gpus"]] == library.UUIDS
    board = facts["gpus"][0]
    assert (board["power_limit_w"], board["max_sm_clock_mhz"]) == (400.0, 1410)
    assert (board["ecc"], board["persistence"]) == (True, True)
    assert (board["mig"], board["reasons"]["mig"]) == (None, "NVMLError: Not Supported")


def test_one_question_without_answer_leaves_the_others(library, monkeypatch):
    monkeypatch.setitem(library.ANSWERS, "driver", library.NVMLError("Unknown Error"))
    monkeypatch.setitem(library.ANSWERS, "ecc", library.NVMLError("Not Supported"))
    facts = gpu_facts.collect()
    assert (facts["nvidia_driver"], facts["gpu_reasons"]["nvidia_driver"]) == (None, "NVMLError: Unknown Error")
    assert (facts["gpus"][0]["ecc"], facts["gpus"][0]["max_sm_clock_mhz"]) == (None, 1410)


@pytest.mark.parametrize(("fault", "listed"), [("handle-one", False), ("lost-one", True)])
def test_a_board_that_cannot_be_opened_is_told_unless_it_is_another_jobs(library, monkeypatch, fault, listed):
    monkeypatch.setattr(library, "FAULT", fault)
    facts = gpu_facts.collect()
    assert [board["uuid"] for board in facts["gpus"]] == ["GPU-bbbb-2"]
    assert ("GPU is lost" in facts["gpu_reasons"].get("gpus", "")) is listed


def test_a_driver_that_hangs_costs_a_bounded_time(library, monkeypatch):
    monkeypatch.setattr(library, "FAULT", "block-init")
    monkeypatch.setattr(gpu_facts, "TIMEOUT_S", 0.2)
    assert "did not answer within 0.2 s" in gpu_facts.collect()["gpu_reasons"]["gpus"]


def test_nothing_is_ever_set(library, monkeypatch):
    for name in vars(library):
        if name.startswith(("nvmlDeviceSet", "nvmlDeviceReset")):
            monkeypatch.setattr(library, name, lambda *_: pytest.fail("a setting was changed"))
    gpu_facts.collect()


def test_versions_of_the_libraries_torch_has(library, monkeypatch):
    def broken() -> None:
        raise RuntimeError("cuDNN version incompatibility")

    torch = SimpleNamespace(
        version=SimpleNamespace(cuda="13.0"),
        backends=SimpleNamespace(cudnn=SimpleNamespace(version=broken)),
        cuda=SimpleNamespace(is_available=lambda: False, nccl=SimpleNamespace(version=lambda: (2, 27, 5))),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    facts = gpu_facts.collect()
    assert (facts["cuda"], facts["nccl"], facts["cudnn"]) == ("13.0", "2.27.5", None)
    assert facts["gpu_reasons"]["cudnn"] == "RuntimeError: cuDNN version incompatibility"
