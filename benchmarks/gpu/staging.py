"""`hpc-accel bench gpu` on this card: what a staged all-reduce takes beside its parts; and how long backends take to
start, on one rank."""

from __future__ import annotations

import json
import subprocess
import sys

import torch

from benchmarks.gpu.runs import OUT
from benchmarks.gpu.say import DEVICE, PRETENDED, figure, verdict
from hpc_accel.bench.start_ranks import start_ranks

START = """
import time, torch
import torch.distributed as dist
import hpc_accel.mpi
device = torch.device("{device}")
torch.zeros(1, device=device)
began = time.perf_counter()
hpc_accel.mpi.init("{backend}")
dist.all_reduce(torch.zeros(1, device=device))
if device.type == "cuda":
    torch.cuda.synchronize()
print(time.perf_counter() - began)
hpc_accel.mpi.shutdown()
"""


def started_s(backend: str) -> float | None:
    """From nothing to the first all-reduce of one rank."""
    code = START.format(device=DEVICE.type, backend=backend)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        verdict(f"{backend} starts on one rank", False, done.stderr[-300:])
        return None
    return float(done.stdout.split()[-1])


def pretended_rank() -> None:
    """One rank of the benchmark, its device tensors those of a pretended device."""
    import hpc_accel.mpi
    from hpc_accel.bench import gpu
    from tests.mpi import stand_in

    torch.accelerator.device_count = lambda: 1
    gpu.pinned = lambda like: torch.empty(like.shape, dtype=like.dtype)
    stand_in.pretend()
    place = hpc_accel.mpi.init()
    paths = OUT / "backend-gpu.json", OUT / "backend-gpu.trace.json.gz"
    gpu.measure(place, stand_in.DEVICE, lambda: None, *paths, quick=True)
    hpc_accel.mpi.shutdown()


def chunk_sizes() -> None:
    """One rank of a comparison: the same all-reduce in chunks of several sizes, in turns."""
    from functools import partial

    import torch.distributed as dist

    import hpc_accel.mpi
    from hpc_accel.bench.interleaved import interleaved
    from hpc_accel.mpi import staging

    torch.cuda.set_device(hpc_accel.mpi.world().device())
    place = hpc_accel.mpi.init()

    def reduced(tensor: torch.Tensor, chunk_mib: int) -> None:
        staging.CHUNK_BYTES = staging.LARGE_CHUNK_BYTES = chunk_mib * 2**20
        dist.all_reduce(tensor)

    for mib in (8, 25, 128):
        tensor = torch.zeros(mib * 2**18, device=DEVICE)
        ways = {f"{chunk} MiB": partial(reduced, tensor, chunk) for chunk in (1, 2, 4, 8, 16)}
        for name, seconds in interleaved(ways, 10, settle=torch.cuda.synchronize).items():
            if place.rank == 0:
                figure(f"all_reduce {mib} MiB in chunks of {name}", 1e6 * seconds, "us")
    hpc_accel.mpi.shutdown()


def main() -> None:
    """Figures of the result file that the benchmark writes."""
    result = OUT / "backend-gpu.json"
    if PRETENDED:
        code = start_ranks(2, "benchmarks.gpu.staging", ["--rank"])
    else:
        arguments = ["--json", str(result), "--trace", str(OUT / "backend-gpu.trace.json.gz")]
        code = start_ranks(2, "hpc_accel.bench.gpu", arguments)
    verdict("the benchmark ends well", code == 0, "" if code == 0 else f"exit code {code}")
    for entry in json.loads(result.read_text())["entries"]:
        mib = entry["num_bytes"] / 2**20
        name = f"{entry['name']} {mib:.3g} MiB"
        for way, seconds in entry["times_s"].items():
            figure(f"{name}: {way}", 1e6 * seconds, "us")
        if "of_slowest" in entry:
            figure(
                f"{name}: slowest part over staged", entry["of_slowest"], low=None if PRETENDED else entry["required"]
            )
        else:
            figure(f"{name}: share of the messages hidden", entry["hidden"])
    if not PRETENDED:
        start_ranks(2, "benchmarks.gpu.staging", ["--chunks"])
    for backend in ("mpi4py", "gloo") if PRETENDED else ("mpi4py", "nccl"):
        figure(f"{backend}: from start to the first all-reduce", started_s(backend), "s")


if __name__ == "__main__":
    if "--rank" in sys.argv:
        pretended_rank()
    elif "--chunks" in sys.argv:
        chunk_sizes()
    else:
        main()
