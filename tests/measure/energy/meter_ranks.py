"""Ranks for test_meter_ranks.py: four situations at once, each with its own meter, measured in nested windows.

argv: directory with the trees `shared`, `first`, `second`, `empty`. Rank 0 prints one JSON object; all ranks must
hold the same results.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from mpi4py import MPI

from hpc_accel.measure.energy.meter import EnergyMeter

sys.path.insert(0, str(Path(__file__).parents[1]))  # the fake drivers
comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
root = Path(sys.argv[1])
half = 0 if rank < size / 2 else 1
os.environ["HPC_ACCEL_TESTING"] = "1"


def meter(tree: str, sample_hz: float = 0.0, gpu: str | None = None, **environment: str) -> EnergyMeter:
    os.environ.update({"HPC_ACCEL_SYSFS": str(root / tree), "HPC_ACCEL_NVML_MODULE": "no_driver_here"} | environment)
    found = EnergyMeter(comm, sample_hz, gpu)
    for key in environment:
        del os.environ[key]
    return found


meters = {
    "shared": meter("shared", sample_hz=10),
    "two nodes, one name": meter(("first", "second")[half], HPC_ACCEL_NODE_ID=f"boot-{half}"),
    "one node without": meter(("shared", "empty")[half], HPC_ACCEL_NODE_ID=f"boot-{half}"),
    "own gpu each": meter(
        "empty",
        HPC_ACCEL_NVML_MODULE="fake_nvml",
        CUDA_VISIBLE_DEVICES=f"{'GPU-aaaa' if rank % 2 == 0 else 'GPU-bbbb'}",
    ),
    "one gpu of two": meter("empty", gpu="GPU-aaaa-1" if rank == 0 else "", HPC_ACCEL_NVML_MODULE="fake_nvml"),
    "broken on one rank": meter("shared", HPC_ACCEL_NVML_MODULE="no_such_module" if rank == 0 else "fake_nvml"),
}
with ExitStack() as stack:
    windows = {name: stack.enter_context(found.window("timed")) for name, found in meters.items()}
    time.sleep(3.0)
results = {name: window.result for name, window in windows.items()}
equal = all(other == results for other in comm.allgather(results))

escaped = meters["shared"].window("failing")
try:
    with escaped:
        raise RuntimeError("training failed")
except RuntimeError:
    results["failing"] = escaped.result
samples = {
    "reason": meters["shared"].write_samples(root / "energy.parquet"),
    "nowhere": meters["shared"].write_samples(root / "no" / "energy.parquet"),
    "none": meters["own gpu each"].write_samples(root / "none.parquet"),
}
for found in meters.values():
    found.close()
if rank == 0:
    figures = {name: energy.as_dict() for name, energy in results.items()}
    print(json.dumps({"equal": equal, "samples": samples, "figures": figures}))
