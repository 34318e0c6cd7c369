"""Frequencies and power limits a recipe asks for: set through NVML where that is this run's task, else checked.

What cannot be set, or is not as asked, ends the run before its first step: a figure under a wrong name is worse than
none. A GPU shows its frequency only under load, so gpu_frequency.py looks at it then. What was set is put back at
the end, also after a failure; a process that is killed cannot, and leaves it to the site's epilog.
`jobs/frequency_options.py` tells who sets what.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from hpc_accel.errors import ConfigError
from hpc_accel.measure.energy import gpus_in_use
from hpc_accel.measure.energy.sensors import nvml_boards, sysfs
from hpc_accel.measure.energy.sensors.sensor import SensorError
from hpc_accel.runtime.gpu_frequency import TOLERANCE, GpuFrequency
from hpc_accel.study.recipe import Recipe

NOT_FOUND = 6
"""NVML_ERROR_NOT_FOUND."""


@contextmanager
def applied(recipe: Recipe, device: torch.device) -> Iterator[GpuFrequency]:
    """The recipe's frequencies on this rank's devices while the block runs. Raises ConfigError where that cannot be.

    What it gives looks at the GPU's clock while the block works: `watched()` around the work, `told(comm)` after it.
    """
    with ExitStack() as undo:
        if recipe.cpu_freq_khz is not None:
            check_cpus(recipe.cpu_freq_khz, sorted(os.sched_getaffinity(0)))
        by_run = recipe.power_limit_w is not None or (recipe.gpu_freq_mhz is not None and not _in_slurm())
        if by_run:
            if device.type != "cuda":
                raise _refused(recipe, "the run computes on no GPU")
            set_gpu(recipe, gpus_in_use.uuid_of(device), undo.callback)
        yield GpuFrequency(recipe.gpu_freq_mhz, gpus_in_use.uuid_of(device))


def _in_slurm() -> bool:
    return "SLURM_JOB_ID" in os.environ


def check_cpus(wanted_khz: int, cpus: list[int]) -> None:
    """Raises ConfigError unless the kernel holds every one of `cpus` at the frequency Slurm was asked for."""
    for cpu in cpus:
        directory = sysfs.root() / "devices/system/cpu" / f"cpu{cpu}" / "cpufreq"
        found_khz = _set_khz(directory)
        if found_khz is None or abs(found_khz / wanted_khz - 1) > TOLERANCE:
            told = "has no cpufreq" if found_khz is None else f"is set to {found_khz:g} kHz"
            raise ConfigError(
                f"recipe cpu_freq_khz {wanted_khz}, cpu {cpu} {told}",
                "a run is measured at the frequency it is named after",
                "leave it out, or ask an administrator: CpuFreqGovernors in slurm.conf must allow UserSpace, and "
                "the node's driver must be acpi-cpufreq",
            )


def _set_khz(directory: Path) -> float | None:
    governor = sysfs.optional_text(directory / "scaling_governor")
    name = "scaling_setspeed" if governor == "userspace" else "scaling_max_freq"
    try:
        return sysfs.read_number(directory / name)
    except SensorError:
        return None


def set_gpu(recipe: Recipe, uuid: str, undo: Callable[..., Any]) -> None:
    """Set power limit and clock of one GPU; `undo(function, *args)` is told how to take each back."""
    try:
        nvml = nvml_boards.load()
        handle = _handle(nvml, uuid)
        if recipe.power_limit_w is not None:
            _limit_power(nvml, handle, recipe, undo)
        if recipe.gpu_freq_mhz is not None and not _in_slurm():
            nvml.nvmlDeviceSetGpuLockedClocks(handle, recipe.gpu_freq_mhz, recipe.gpu_freq_mhz)
            undo(nvml.nvmlDeviceResetGpuLockedClocks, handle)
    except ConfigError:
        raise
    except Exception as error:  # whatever the library raises is the reason
        raise _refused(recipe, f"NVML: {type(error).__name__}: {error}") from error


def _handle(nvml: Any, uuid: str) -> Any:
    """By its UUID: going through all boards would end at the first that this job may not open."""
    try:
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    except Exception as error:
        if getattr(error, "value", None) == NOT_FOUND:
            raise LookupError(f"NVML shows no {uuid}; a MIG slice has no clock of its own") from error
        raise


def _limit_power(nvml: Any, handle: Any, recipe: Recipe, undo: Callable[..., Any]) -> None:
    wanted_mw = (recipe.power_limit_w or 0) * 1000
    low_mw, high_mw = nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
    if not low_mw <= wanted_mw <= high_mw:
        raise ConfigError(
            f"recipe power_limit_w {recipe.power_limit_w}",
            f"this GPU takes {low_mw / 1000:g} to {high_mw / 1000:g} W",
            "choose a limit in that range",
        )
    before_mw = nvml.nvmlDeviceGetPowerManagementLimit(handle)
    if before_mw == wanted_mw:
        return
    nvml.nvmlDeviceSetPowerManagementLimit(handle, wanted_mw)
    undo(nvml.nvmlDeviceSetPowerManagementLimit, handle, before_mw)


def _refused(recipe: Recipe, why: str) -> ConfigError:
    told = ", ".join(f"{key} {value}" for key, value in recipe.frequencies.items())
    return ConfigError(
        f"recipe {told}: {why}",
        "a run is measured under the frequencies and limits it is named after",
        "leave it out, or ask an administrator to let jobs set it (NVML allows it to root, and where a site's "
        "prolog or permissions do)",
    )
