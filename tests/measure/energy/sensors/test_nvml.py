"""NVIDIA boards: counter, else power, else a reason; a broken or blocking driver costs a bounded time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_accel.measure.energy.figure import EnergyFigure
from hpc_accel.measure.energy.meter import EnergyMeter
from hpc_accel.measure.energy.sensors import nvml, nvml_boards
from tests.measure import fake_nvml
from tests.measure.energy.measuring import measure

FAKES = Path(__file__).parents[2]


def gpu_run(seconds: float, start_limit_s: float = 10.0, **environment: str) -> tuple[EnergyFigure, float]:
    """A process of its own, since a stub chooses its fault at import; and seconds that the meter cost."""
    code = (
        "import json, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from hpc_accel.measure.energy import meter, reader; limit = float(sys.argv[3])\n"
        "meter.DISCOVER_TIMEOUT_S = reader.DISCOVER_TIMEOUT_S = limit\n"
        "t = time.perf_counter(); m = meter.EnergyMeter(None)\n"
        "with m.window('timed') as w: time.sleep(float(sys.argv[2]))\n"
        "took = time.perf_counter() - t - float(sys.argv[2])\n"
        "print(json.dumps([w.result.as_dict(), took]))\n"
    )
    environment = os.environ | {
        "HPC_ACCEL_TESTING": "1", "HPC_ACCEL_NVML_MODULE": "fake_nvml", "HPC_ACCEL_SYSFS": "/nonexistent",
    } | environment  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, str(FAKES), str(seconds), str(start_limit_s)],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    figure, took_s = json.loads(done.stdout)
    return EnergyFigure.from_dict(figure), took_s


@pytest.fixture
def library(monkeypatch, tmp_path):
    """Two boards of 300 W each that follow the virtual clock."""
    for name, value in {"TESTING": "1", "NVML_MODULE": "tests.measure.fake_nvml", "SYSFS": str(tmp_path)}.items():
        monkeypatch.setenv(f"HPC_ACCEL_{name}", value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(fake_nvml._reads, "count", 0)
    return fake_nvml


def test_two_gpus_by_their_counters(library, clock):
    energy = measure(clock, 9.0)
    assert energy.energy_j == pytest.approx(5400.0, rel=1e-5)
    assert energy.scope == "GPU boards"
    assert energy.resolution_warning is True
    assert measure(clock, 10.0).resolution_warning is False


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("init", "NVML gives no GPU: NVMLError: Driver Not Loaded"),
        ("read", "GPU is lost"),
        ("zero", "did not change"),
        ("mig", "MIG is on"),
    ],
)
def test_a_broken_driver_is_a_reason_not_a_failure(library, clock, monkeypatch, fault, words):
    monkeypatch.setattr(library, "FAULT", fault)
    with EnergyMeter(None, clock=clock) as meter, meter.window("timed") as window:
        clock.sleep(1.0)
    assert window.result.energy_j is None
    assert window.result.reason
    assert any(words in reason for reason in (window.result.reason, *(row["reason"] for row in meter.describe())))


@pytest.mark.parametrize("fault", ["import", "import-exit"])
def test_a_library_that_breaks_at_import_is_a_reason_not_a_failure(fault):
    energy, _ = gpu_run(0.1, FAKE_NVML_FAULT=fault)
    assert energy.energy_j is None
    assert energy.reason


def test_blocking_reads_cost_a_bounded_time():
    energy, took_s = gpu_run(0.1, FAKE_NVML_FAULT="block-read")
    assert energy.energy_j is None
    assert "did not return within 2 s" in energy.reason
    assert took_s < 5


def test_a_blocking_driver_costs_a_bounded_time_at_start():
    energy, took_s = gpu_run(0.1, start_limit_s=1.5, FAKE_NVML_FAULT="block-init")
    assert energy.energy_j is None
    assert "did not answer within 1.5 s" in energy.reason
    assert took_s < 5


def test_one_lost_gpu_leaves_a_partial_total(library, clock, monkeypatch):
    monkeypatch.setattr(library, "FAULT", "read-one")
    energy = measure(clock, 10.0)
    assert energy.is_partial is True
    assert energy.power_w == pytest.approx(300.0, rel=1e-5)


def test_a_gpu_without_counter_is_integrated(library, clock, monkeypatch):
    monkeypatch.setattr(library, "FAULT", "no-counter")
    energy = measure(clock, 10.0)
    assert energy.method == "integrated-power"
    assert energy.power_w == pytest.approx(600.0, rel=1e-9)


def test_gh200_counts_the_module(library, clock, monkeypatch):
    monkeypatch.setattr(library, "FAULT", "gh200")
    assert measure(clock, 10.0).scope == "modules (CPU + GPU)"


def test_an_empty_list_of_gpus_says_so(library, clock, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    energy = measure(clock, 1.0)
    assert energy.energy_j is None
    assert energy.sensors == ()


def test_the_stub_is_ignored_outside_of_tests(library, clock, monkeypatch):
    monkeypatch.setenv("HPC_ACCEL_TESTING", "0")
    assert measure(clock, 1.0).energy_j is None


def test_without_a_driver_the_library_is_not_even_loaded(sysfs, monkeypatch):
    monkeypatch.setattr(nvml_boards, "DRIVER", (sysfs / "none",))
    monkeypatch.setattr(nvml_boards.importlib, "import_module", lambda name: pytest.fail(f"{name} was loaded"))
    (sensor,) = nvml.discover()
    assert sensor.info.reason == "no NVIDIA driver here"


def test_a_driver_without_a_library_is_a_reason(sysfs, monkeypatch):
    monkeypatch.setattr(nvml_boards, "DRIVER", (sysfs,))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (sensor,) = nvml.discover()
    assert "NVML gives no GPU" in sensor.info.reason
    assert not sensor.info.is_available
