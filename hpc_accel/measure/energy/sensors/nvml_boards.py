"""The NVIDIA boards of a node as NVML lists them, each opened by itself: one that cannot be hides no other.

NVML counts all boards of the machine, also those that the job's cgroup forbids to open, and in the order of their PCI
addresses. The library is loaded in load() and never at import.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_accel.measure import host
from hpc_accel.measure.energy.sensors import sysfs

DRIVER = (Path("/proc/driver/nvidia"), Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""Where a loaded driver shows, also in containers and WSL; without one the library need not be loaded at all."""
NO_PERMISSION = 4
"""NVML_ERROR_NO_PERMISSION, by which NVML says that a board was given to somebody else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """One board. `reason` says why it could not be opened; then it has no handle, no UUID and no name.

    `is_forbidden` is True where the system gave it to others: CUDA does not count it either.
    """

    index: int
    handle: Any = None
    uuid: str = ""
    name: str = ""
    reason: str = ""
    is_forbidden: bool = False


def has_driver() -> bool:
    """Whether it is worth loading the library: a driver is loaded, or a test brings its own."""
    return host.pretended("HPC_ACCEL_NVML_MODULE") is not None or any(sysfs.exists(path) for path in DRIVER)


def load() -> Any:
    """NVML, started. Raises whatever the library or its absence raises."""
    nvml = importlib.import_module(host.pretended("HPC_ACCEL_NVML_MODULE") or "pynvml")
    nvml.nvmlInit()
    return nvml


def listed(nvml: Any) -> list[Board]:
    """All boards that NVML counts, in its order. Raises what NVML raises where it cannot even count them."""
    return [_opened(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]


def _opened(nvml: Any, index: int) -> Board:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid, name = text(nvml.nvmlDeviceGetUUID(handle)), text(nvml.nvmlDeviceGetName(handle))
    except Exception as error:
        forbidden = getattr(error, "value", None) == NO_PERMISSION
        return Board(index=index, reason=f"NVML board {index}: {said(error)}", is_forbidden=forbidden)
    return Board(index=index, handle=handle, uuid=uuid, name=name)


def said(error: BaseException) -> str:
    """An error as a reason."""
    return f"{type(error).__name__}: {error}"


def text(value: str | bytes) -> str:
    """NVML's strings are bytes in some versions of its binding."""
    return value.decode() if isinstance(value, bytes) else str(value)
