"""AMD GPUs through zeus.device, when zeus is installed (`pip install hpc-accel[energy]`).

zeus knows the counters' quirks: the two dies of an MI250 share one, which the odd die must not repeat; some
ROCm versions' counters stand still. It is asked only where the AMD compute driver is loaded, because its
import costs 0.4 s. NVIDIA GPUs do not come this way (nvml.py).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from hpc_accel.measure import host
from hpc_accel.measure.energy.sensors import sysfs
from hpc_accel.measure.energy.sensors.sensor import Reading, Sensor, SensorError, SensorInfo, absent

SOURCE = "zeus"
MAX_POWER_W = 3000.0
REMEDY = "pip install 'hpc-accel[energy]', and amdsmi of the node's ROCm version"


@dataclass(frozen=True, slots=True)
class ZeusGpu:
    """One AMD GPU: its counter, or its power where the counter is not to be trusted."""

    info: SensorInfo
    gpu: Any

    def read(self) -> Reading:
        """Counter or power now; whatever the library raises becomes the reason."""
        try:
            if self.info.kind == "counter":
                energy_mj = self.gpu.get_total_energy_consumption()
                return Reading(energy_j=float(energy_mj) * 1e-3)
            return Reading(power_w=float(_power_mw(self.gpu)) * 1e-3)
        except Exception as error:
            raise SensorError(f"{self.info.name}: {type(error).__name__}: {error}") from error


def _power_mw(gpu: Any) -> int:
    """Power by whichever of its two readings this GPU has."""
    try:
        return int(gpu.get_average_power_usage())
    except Exception:
        return int(gpu.get_instant_power_usage())


def _address(gpu: Any) -> str:
    """PCI address, the same for every process that sees this GPU."""
    amdsmi = importlib.import_module(host.pretended("HPC_ACCEL_AMDSMI_MODULE") or "amdsmi")
    return str(amdsmi.amdsmi_get_gpu_device_bdf(gpu.handle))


def _gpu(gpu: Any, index: int) -> Sensor:
    """The first of counter and power that can be read, else the reasons."""
    label = f"zeus GPU {index}"
    if getattr(gpu, "_is_dual_die_odd_chiplet", False):
        return absent(SOURCE, "gpu-board", f"{label}: counted by the other die of its board", name=label)
    reasons: list[str] = []
    for kind in ("counter", "power"):
        try:
            info = SensorInfo(
                name=f"{label} {gpu.get_name()}",
                source=SOURCE,
                scope="gpu-board",
                key=f"amd/{_address(gpu)}",
                kind=kind,
                max_power_w=MAX_POWER_W,
            )
            sensor = ZeusGpu(info, gpu)
            sensor.read()
        except SensorError as error:
            reasons.append(error.reason)
        except Exception as error:
            reasons.append(f"{label}: {type(error).__name__}: {error}")
        else:
            return sensor
    return absent(SOURCE, "gpu-board", "; ".join(dict.fromkeys(reasons)), name=label, present=True)


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
