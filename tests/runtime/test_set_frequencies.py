"""Clocks and power limits: set where NVML lets the run, checked where Slurm does it, refused before the first step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.runtime import set_frequencies
from hpc_accel.study.recipe import Recipe
from tests.measure import fake_nvml
from tests.train.test_layouts import LM, write_runs


@pytest.fixture
def nvml(monkeypatch):
    monkeypatch.setenv("HPC_ACCEL_TESTING", "1")
    monkeypatch.setenv("HPC_ACCEL_NVML_MODULE", "tests.measure.fake_nvml")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    fake_nvml.LIMITS_MW.clear()
    fake_nvml.CLOCKS_MHZ.clear()
    return fake_nvml


def test_a_gpu_is_set_and_put_back(nvml):
    with ExitStack() as undo:
        set_frequencies.set_gpu(Recipe(power_limit_w=250, gpu_freq_mhz=900), "GPU-bbbb-2", undo.callback)
        assert nvml.LIMITS_MW == {1: 250_000}
        assert nvml.CLOCKS_MHZ == {1: (900, 900)}
    assert nvml.LIMITS_MW == {1: 400_000}
    assert nvml.CLOCKS_MHZ == {}


def test_a_board_this_job_may_not_open_does_not_stand_in_the_way(nvml, monkeypatch):
    monkeypatch.setattr(nvml, "FAULT", "handle-one")
    with ExitStack() as undo:
        set_frequencies.set_gpu(Recipe(power_limit_w=250), "GPU-bbbb-2", undo.callback)
        assert nvml.LIMITS_MW == {1: 250_000}


def test_in_slurm_the_gpus_clock_is_slurms(nvml, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with ExitStack() as undo:
        set_frequencies.set_gpu(Recipe(power_limit_w=250, gpu_freq_mhz=900), "GPU-bbbb-2", undo.callback)
        assert nvml.CLOCKS_MHZ == {}


@pytest.mark.parametrize(
    ("recipe", "uuid", "fault", "words"),
    [
        (Recipe(power_limit_w=250), "GPU-bbbb-2", "no-permission", "Insufficient Permissions"),
        (Recipe(power_limit_w=900), "GPU-bbbb-2", "", "takes 100 to 400 W"),
        (Recipe(power_limit_w=250), "GPU-zzzz", "", "shows no GPU-zzzz"),
        (Recipe(power_limit_w=250), "GPU-bbbb-2", "init", "Driver Not Loaded"),
    ],
)
def test_what_may_not_be_set_is_refused_with_value_rule_and_remedy(nvml, monkeypatch, recipe, uuid, fault, words):
    monkeypatch.setattr(nvml, "FAULT", fault)
    with pytest.raises(ConfigError, match=words) as refused, ExitStack() as undo:
        set_frequencies.set_gpu(recipe, uuid, undo.callback)
    assert str(recipe.power_limit_w) in refused.value.value
    assert refused.value.remedy
    assert nvml.LIMITS_MW == {}


def cpufreq(root: Path, governor: str, **khz: int) -> None:
    for cpu in os.sched_getaffinity(0):
        directory = root / f"devices/system/cpu/cpu{cpu}/cpufreq"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "scaling_governor").write_text(governor + "\n")
        for name, value in khz.items():
            (directory / name).write_text(f"{value}\n")


@pytest.mark.parametrize(
    ("governor", "files", "told"),
    [
        ("userspace", {"scaling_setspeed": 2_000_000, "scaling_max_freq": 3_000_000}, None),
        ("performance", {"scaling_max_freq": 2_010_000}, None),
        ("userspace", {"scaling_setspeed": 1_500_000, "scaling_max_freq": 2_000_000}, "1.5e\\+06 kHz"),
        ("performance", {"scaling_max_freq": 3_000_000}, "3e\\+06 kHz"),
        ("performance", {}, "has no cpufreq"),
    ],
)
def test_cpus_must_be_at_the_frequency_slurm_was_asked_for(tmp_path, monkeypatch, governor, files, told):
    monkeypatch.setenv("HPC_ACCEL_SYSFS", str(tmp_path))
    cpufreq(tmp_path, governor, **files)
    cpus = sorted(os.sched_getaffinity(0))
    if told is None:
        set_frequencies.check_cpus(2_000_000, cpus)
        return
    with pytest.raises(ConfigError, match=told):
        set_frequencies.check_cpus(2_000_000, cpus)


def test_a_run_whose_frequency_is_not_there_ends_before_its_first_step(tmp_path):
    (tmp_path / "sys").mkdir()
    [path] = write_runs(tmp_path / "runs", LM, [{}])
    content = json.loads(path.read_text())
    content["recipe"]["cpu_freq_khz"] = 2_000_000
    path.write_text(json.dumps(content | {"run_id": ""}))
    environment = os.environ | {"HPC_ACCEL_SYSFS": str(tmp_path / "sys")}
    command = Path(sys.executable).with_name("hpc-accel")
    done = subprocess.run(
        [command, "train", path], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 78, done.stderr
    assert "cpu_freq_khz 2000000" in done.stderr
    assert "step 1 of" not in done.stderr
    assert not (path.parent / "summary.json").exists()
