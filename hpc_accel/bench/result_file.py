"""The file of a benchmark: its figures, the versions, when they were measured and how busy the machine was."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mpi4py
import torch

import hpc_accel.mpi
from hpc_accel.mpi.launch import mpi


def versions() -> dict[str, Any]:
    """What the figures were measured with."""
    place = hpc_accel.mpi.world()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "torch": torch.__version__,
        "mpi4py": mpi4py.__version__,
        "mpi_library": mpi().Get_library_version().splitlines()[0][:80],
        "python": platform.python_version(),
        "cpu": model,
        "num_cpus": os.cpu_count(),
        "num_ranks": place.size,
        "torch_threads": torch.get_num_threads(),
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """The figures, with when and under what load they were measured."""
    when = {"created_utc": datetime.now(UTC).isoformat(timespec="seconds"), "load_average_1min": os.getloadavg()[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": 1, **when, **content}, indent=1) + "\n")
