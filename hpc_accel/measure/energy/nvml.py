"""NVIDIA GPUs through nvidia-ml-py: the board's energy counter (Volta and newer), else its power, integrated.

The counter counts millijoules of the whole board since the driver was loaded and changes every 10 to 100 ms.
On GH200 it covers the module, processor included. The library is loaded in discover() and never at import.
Which GPUs are ours, see visible.py.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_accel.measure import host
from hpc_accel.measure.energy import sysfs, visible
from hpc_accel.measure.energy.sensor import Reading, Sensor, SensorError, SensorInfo, absent

SOURCE = "nvml"
DRIVER = (Path("/proc/driver/nvidia"), Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""Where a loaded driver shows, also in containers and WSL; without one the library need not be loaded at all."""
UPDATE_PERIOD_S = 0.1
MAX_POWER_W = 3000.0


@dataclass(frozen=True, slots=True)
class NvmlGpu:
    """One board."""

    info: SensorInfo
    nvml: Any
    handle: Any

    def read(self) -> Reading:
        """Counter or power now; whatever the library raises becomes the reason."""
        try:
            if self.info.kind == "counter":
                energy_mj = self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)
                return Reading(time_ns=time.perf_counter_ns(), energy_j=float(energy_mj) * 1e-3)
            power_mw = self.nvml.nvmlDeviceGetPowerUsage(self.handle)
            return Reading(time_ns=time.perf_counter_ns(), power_w=float(power_mw) * 1e-3)
        except Exception as error:
            raise SensorError(f"{self.info.name}: {_said(error)}") from error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _is_sliced(nvml: Any, handle: Any) -> bool:
    """Whether MIG is on; GPUs without MIG answer with an error."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except Exception:
        return False


def _gpu(nvml: Any, handle: Any, uuid: str) -> Sensor:
    """The board's counter where it has one, else its power; else the library's reason."""
    name = f"{_text(nvml.nvmlDeviceGetName(handle))} {uuid}"
    scope = "module" if "GH200" in name else "gpu-board"
    if _is_sliced(nvml, handle):
        return absent(
            SOURCE, scope, f"{name}: MIG is on, the counter covers all slices", name=f"nvml {name}", present=True
        )
    reasons: list[str] = []
    for kind in ("counter", "power"):
        sensor = NvmlGpu(
            SensorInfo(
                name=f"nvml {name}",
                source=SOURCE,
                scope=scope,
                key=uuid,
                kind=kind,
                update_period_s=UPDATE_PERIOD_S,
                is_global=True,
                max_power_w=MAX_POWER_W,
            ),
            nvml,
            handle,
        )
        try:
            sensor.read()
        except SensorError as error:
            reasons.append(error.reason)
        else:
            return sensor
    return absent(
        SOURCE, scope, "; ".join(reasons), "bare metal or a passed-through GPU has it", name=name, present=True
    )


def discover() -> list[Sensor]:
    """The GPUs of this process; one bad GPU does not hide the others."""
    stand_in = host.pretended("HPC_ACCEL_NVML_MODULE")
    if stand_in is None and not any(sysfs.exists(path) for path in DRIVER):
        return [absent(SOURCE, "gpu-board", "no NVIDIA driver here")]
    try:
        nvml = importlib.import_module(stand_in or "pynvml")
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        uuids = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    except Exception as error:
        return [absent(SOURCE, "gpu-board", f"NVML gives no GPU: {_said(error)}")]
    chosen, reason = visible.select(visible.setting(), uuids)
    found: list[Sensor] = []
    for index in chosen:
        try:
            found.append(_gpu(nvml, handles[index], uuids[index]))
        except Exception as error:
            found.append(absent(SOURCE, "gpu-board", _said(error), name=f"nvml {uuids[index]}", present=True))
    if reason:
        found.append(absent(SOURCE, "gpu-board", reason, name=f"nvml {visible.VARIABLE}", present="MIG" in reason))
    return found or [absent(SOURCE, "gpu-board", "the NVIDIA driver shows no GPU to this process")]
