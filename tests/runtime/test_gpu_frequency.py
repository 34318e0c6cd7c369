"""The clock a run asked for against the one its GPU had: looked at while it works, and told where it is another."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from hpc_accel.runtime import gpu_frequency, set_frequencies, timing_warnings
from hpc_accel.runtime.gpu_frequency import GpuFrequency
from hpc_accel.study.recipe import Recipe
from tests.measure import fake_nvml

A = "GPU-aaaa-1"
ALONE = SimpleNamespace(allgather=lambda finding: [finding])


@pytest.fixture
def nvml(monkeypatch):
    monkeypatch.setenv("HPC_ACCEL_TESTING", "1")
    monkeypatch.setenv("HPC_ACCEL_NVML_MODULE", "tests.measure.fake_nvml")
    monkeypatch.setattr(gpu_frequency, "PERIOD_S", 0.02)
    monkeypatch.setattr(fake_nvml, "ANSWERS", dict(fake_nvml.ANSWERS))
    return fake_nvml


def told(wanted_mhz: int | None = 900, uuid: str = A, seconds: float = 0.1, windows: int = 1) -> str:
    clock = GpuFrequency(wanted_mhz, uuid)
    for _ in range(windows):
        with clock.watched():
            time.sleep(seconds)
    return clock.told(ALONE)


@pytest.mark.parametrize("mhz", [900, 885])
def test_the_clock_that_was_asked_for_is_nothing_to_tell(nvml, mhz):
    nvml.ANSWERS["sm_mhz"] = mhz
    assert told(windows=2) == ""


def test_another_clock_is_told_with_what_held_it_back(nvml):
    nvml.ANSWERS.update(sm_mhz=1410, reasons=0x4 | 0x40)
    found = told()
    assert found.startswith("gpu_freq_mhz 900 was not seen on 1 of 1 ranks (rank 0: 1410 MHz under load")
    assert "held back by the power limit and temperature (hardware)" in found
    assert "leave gpu_freq_mhz out" in found


def test_the_shortest_work_is_looked_at_once(nvml):
    nvml.ANSWERS["sm_mhz"] = 1410
    assert "median of 1 looks" in told(seconds=0.0)


def test_an_idle_gpus_clock_says_nothing(nvml):
    nvml.ANSWERS.update(sm_mhz=210, reasons=0x1)
    assert "the GPU was idle at every look" in told()


def test_a_board_that_does_not_say_why_still_has_a_clock(nvml):
    nvml.ANSWERS["reasons"] = nvml.NVMLError("Not Supported")
    assert told() == ""


@pytest.mark.parametrize(
    ("uuid", "answer", "words"),
    [
        ("GPU-zzzz", 900, "Not Found"),
        (A, fake_nvml.NVMLError("Not Supported"), "Not Supported"),
        ("", 900, "computes on no GPU"),
    ],
)
def test_a_clock_that_cannot_be_read_was_not_seen(nvml, uuid, answer, words):
    nvml.ANSWERS["sm_mhz"] = answer
    assert words in told(uuid=uuid)


def test_a_driver_that_hangs_costs_a_bounded_time(nvml, monkeypatch):
    monkeypatch.setattr(nvml, "FAULT", "block-clock")
    monkeypatch.setattr(gpu_frequency, "TIMEOUT_S", 0.1)
    began = time.monotonic()
    assert "did not answer within 0.1 s" in told(windows=3)
    assert time.monotonic() - began < 2


def test_without_a_wish_only_what_slows_a_gpu_down_is_told(nvml):
    nvml.ANSWERS.update(sm_mhz=1410, reasons=0x4)
    assert told(wanted_mhz=None) == "", "the power limit holds in every run"
    nvml.ANSWERS.update(reasons=0x4 | 0x80)
    found = told(wanted_mhz=None)
    assert found.startswith("disturbed: the GPUs of 1 of 1 ranks were slowed down")
    assert "rank 0: 1 of 1 looks, held back by the power brake" in found and "the power limit" not in found


def test_without_a_gpu_nobody_looks(nvml, monkeypatch):
    monkeypatch.setattr(gpu_frequency.nvml_boards, "load", lambda: pytest.fail("NVML was asked"))
    assert told(wanted_mhz=None, uuid="") == ""


def test_what_is_wrong_passes_through(nvml):
    with pytest.raises(RuntimeError, match="the work failed"), GpuFrequency(900, A).watched():
        raise RuntimeError("the work failed")


def test_in_slurm_too_the_clock_is_looked_at(nvml, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="aaaa-1"))
    nvml.ANSWERS["sm_mhz"] = 1410
    with set_frequencies.applied(Recipe(gpu_freq_mhz=900), torch.device("cuda", 0)) as clock, clock.watched():
        time.sleep(0.05)
    assert "1410 MHz" in clock.told(ALONE)
    assert nvml.CLOCKS_MHZ == {}


def test_a_blocking_gpu_is_a_warning_only_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    [warning] = timing_warnings.environment("cuda")
    assert "CUDA_LAUNCH_BLOCKING=1" in warning
    assert "unset it" in warning
    assert timing_warnings.environment("cpu") == []
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "0")
    assert timing_warnings.environment("cuda") == []
