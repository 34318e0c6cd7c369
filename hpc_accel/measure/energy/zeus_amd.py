"""AMD GPUs through zeus.device, when zeus is installed (`pip install hpc-accel[energy]`).

zeus knows the counters' quirks: the two dies of an MI250 share one, which the odd die must not repeat; some
ROCm versions' counters stand still. It is asked only where the AMD compute driver is loaded, because its
import costs 0.4 s. NVIDIA GPUs do not come this way (nvml.py).
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from typing import Any

from hpc_accel.measure import host
from hpc_accel.measure.energy import sysfs
from hpc_accel.measure.energy.sensor import Reading, Sensor, SensorError, SensorInfo, absent

SOURCE = "zeus"
MAX_POWER_W = 3000.0
REMEDY = "pip install 'hpc-accel[energy]', and amdsmi of the node's ROCm version"


@dataclass(frozen=True, slots=True)
class ZeusGpu:
    """One AMD GPU."""

    info: SensorInfo
    gpu: Any

    def read(self) -> Reading:
        """The counter now; whatever the library raises becomes the reason."""
        try:
            energy_mj = self.gpu.get_total_energy_consumption()
        except Exception as error:
            raise SensorError(f"{self.info.name}: {type(error).__name__}: {error}") from error
        return Reading(time_ns=time.perf_counter_ns(), energy_j=float(energy_mj) * 1e-3)


def _address(gpu: Any) -> str:
    """PCI address, the same for every process that sees this GPU."""
    amdsmi = importlib.import_module(host.pretended("HPC_ACCEL_AMDSMI_MODULE") or "amdsmi")
    return str(amdsmi.amdsmi_get_gpu_device_bdf(gpu.handle))


def _gpu(gpu: Any, index: int) -> Sensor:
    label = f"zeus GPU {index}"
    try:
        info = SensorInfo(
            name=f"{label} {gpu.get_name()}",
            source=SOURCE,
            scope="gpu-board",
            key=f"amd/{_address(gpu)}",
            max_power_w=MAX_POWER_W,
        )
        sensor = ZeusGpu(info, gpu)
        sensor.read()
    except SensorError as error:
        return absent(SOURCE, "gpu-board", error.reason, name=label, present=True)
    except Exception as error:
        return absent(SOURCE, "gpu-board", f"{type(error).__name__}: {error}", name=label, present=True)
    return sensor


def discover() -> list[Sensor]:
    """The AMD GPUs of this process."""
    if not sysfs.exists(sysfs.root() / "class" / "kfd"):
        return [absent(SOURCE, "gpu-board", "no AMD compute driver (no class/kfd)")]
    try:
        library = importlib.import_module(host.pretended("HPC_ACCEL_ZEUS_MODULE") or "zeus.device.gpu")
        gpus = library.get_gpus().gpus
    except ImportError as error:
        return [absent(SOURCE, "gpu-board", f"AMD GPUs need zeus: {error}", REMEDY, present=True)]
    except Exception as error:
        return [absent(SOURCE, "gpu-board", f"zeus: {type(error).__name__}: {error}", REMEDY, present=True)]
    if any(type(gpu).__name__.startswith("NVIDIA") for gpu in gpus):
        return [absent(SOURCE, "gpu-board", "zeus chose the NVIDIA GPUs of this node", present=True)]
    return [_gpu(gpu, index) for index, gpu in enumerate(gpus)]
