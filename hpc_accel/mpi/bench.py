"""The mpi4py backend beside gloo: the same calls and steps in the same processes, interleaved, as ratios.

    mpirun -n 2 .venv/bin/python -m mpi4py benchmarks/backend.py [--json FILE] [--only all_reduce,ddp_mlp]

Both groups live side by side and take turns, repetition by repetition, so that a noisy machine disturbs both alike.
A figure is the median over repetitions of the slowest rank's time; a ratio above 1 means mpi4py is faster.
`none` is the step with no communication at all; `bare` a mpi4py call on a NumPy buffer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # fair to gloo: a wrong interface costs it a factor of 100

import mpi4py
import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import hpc_accel.mpi
from hpc_accel.mpi.launch import mpi

KIB, MIB = 2**10, 2**20
SIZES = (KIB, 16 * KIB, 256 * KIB, 4 * MIB, 25 * MIB, 128 * MIB)
REQUIRED_ALL_REDUCE = {KIB: 20, 16 * KIB: 20, 256 * KIB: 15, 4 * MIB: 7, 25 * MIB: 3.5, 128 * MIB: 1.5}
REQUIRED_STEP = {"ddp_mlp": 1.5, "pipeline_1f1b": 1.2, "fsdp2": 1.2}
Step = Callable[[], None]


def interleaved(ways: dict[str, Step], repetitions: int, inner: int = 1, warmup: int = 2) -> dict[str, float]:
    """Median seconds of the slowest rank for each way, taking turns. All ranks call this."""
    comm = mpi().COMM_WORLD
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions + warmup):
        for name, step in ways.items():
            comm.Barrier()
            began = time.perf_counter()
            for _ in range(inner):
                step()
            took = (time.perf_counter() - began) / inner
            if repetition >= warmup:
                times[name].append(took)
    everybody: list[dict[str, list[float]]] = comm.allgather(times)
    slowest = {name: [max(row) for row in zip(*(one[name] for one in everybody), strict=True)] for name in ways}
    return {name: statistics.median(values) for name, values in slowest.items()}


def all_reduce(groups: dict[str, Any]) -> list[dict[str, Any]]:
    """`dist.all_reduce` on fp32, both groups, and the bare MPI call."""
    rows = []
    comm = mpi().COMM_WORLD
    for num_bytes in SIZES:
        tensor, array = torch.zeros(num_bytes // 4), np.zeros(num_bytes // 4, dtype=np.float32)

        def bare(buffer: Any = array) -> None:
            comm.Allreduce(mpi().IN_PLACE, buffer)

        ways: dict[str, Step] = {
            name: lambda group=group, tensor=tensor: dist.all_reduce(tensor, group=group)
            for name, group in groups.items()
        }
        inner = 20 if num_bytes <= 256 * KIB else 1
        repetitions = 25 if num_bytes <= 4 * MIB else 15 if num_bytes <= 25 * MIB else 7
        times = interleaved({**ways, "bare": bare}, repetitions, inner)
        rows.append(
            {
                "name": "all_reduce",
                "num_bytes": num_bytes,
                "times_s": times,
                "ratio_gloo": times["gloo"] / times["mpi4py"],
                "ratio_bare": times["bare"] / times["mpi4py"],
                "required": REQUIRED_ALL_REDUCE[num_bytes],
            }
        )
    return rows


def mlp() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8))), torch.randn(64, 1024)


def transformer() -> tuple[nn.Module, torch.Tensor]:
    layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True, dropout=0.0)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), torch.randn(8, 64, 256)


def cnn() -> tuple[nn.Module, torch.Tensor]:
    widths = (3, 32, 64, 128)
    blocks: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        blocks += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(128 * 16, 10)), torch.randn(16, 3, 32, 32)


MODELS = {"ddp_mlp": mlp, "ddp_transformer": transformer, "ddp_cnn": cnn}


def train_step(model: nn.Module, x: torch.Tensor) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step


def ddp(name: str, groups: dict[str, Any]) -> dict[str, Any]:
    """Forward, backward with bucketed all-reduce, SGD."""
    ways: dict[str, Step] = {}
    for key, group in groups.items():
        torch.manual_seed(0)
        model, x = MODELS[name]()
        ways[key] = train_step(nn.parallel.DistributedDataParallel(model, process_group=group), x)
    torch.manual_seed(0)
    ways["none"] = train_step(*MODELS[name]())
    return row(name, interleaved(ways, 20))


def fsdp2(name: str, groups: dict[str, Any]) -> dict[str, Any]:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    ways: dict[str, Step] = {}
    for key, group in groups.items():
        torch.manual_seed(0)
        model, x = mlp()
        mesh = DeviceMesh.from_group(group, "cpu")
        for layer in model.children():
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        ways[key] = train_step(model, x)
    return row(name, interleaved(ways, 12))


def pipeline_1f1b(name: str, groups: dict[str, Any]) -> dict[str, Any]:
    """Two stages of the MLP, 8 micro-batches."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    rank, size = dist.get_rank(), dist.get_world_size()
    ways: dict[str, Step] = {}
    for key, group in groups.items():
        torch.manual_seed(0)
        whole, x = mlp()
        layers = list(whole.children())
        part = nn.Sequential(*layers[rank * len(layers) // size : (rank + 1) * len(layers) // size])
        stage = PipelineStage(part, rank, size, torch.device("cpu"), group=group)
        schedule = Schedule1F1B(stage, n_microbatches=8, loss_fn=nn.functional.mse_loss)
        optimizer = torch.optim.SGD(part.parameters(), lr=1e-4)

        def step(schedule: Any = schedule, optimizer: Any = optimizer, x: torch.Tensor = x) -> None:
            optimizer.zero_grad()
            schedule.step(*((x,) if rank == 0 else ()), **({"target": x} if rank == size - 1 else {}))
            optimizer.step()

        ways[key] = step
    return row(name, interleaved(ways, 20))


def row(name: str, times: dict[str, float]) -> dict[str, Any]:
    ratio_none = times["mpi4py"] / times["none"] if "none" in times else None
    return {
        "name": name,
        "times_s": times,
        "ratio_gloo": times["gloo"] / times["mpi4py"],
        "over_no_communication": ratio_none,
        "required": REQUIRED_STEP.get(name),
    }


def show(entry: dict[str, Any]) -> None:
    size = f" {entry['num_bytes'] // KIB} KiB" if "num_bytes" in entry else ""
    times = "  ".join(f"{name} {1e6 * value:9.0f} us" for name, value in entry["times_s"].items())
    wanted = f" (wanted {entry['required']}x)" if entry["required"] else ""
    extra = f"  of bare {entry['ratio_bare']:.2f}" if "ratio_bare" in entry else ""
    if entry.get("over_no_communication"):
        extra = f"  over none {entry['over_no_communication']:.2f}"
    print(f"{entry['name'] + size:24} {times}  gloo/mpi4py {entry['ratio_gloo']:5.2f}x{wanted}{extra}", flush=True)


def versions() -> dict[str, Any]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", default="", help="comma-separated names")
    options = parser.parse_args()
    torch.set_num_threads(1)
    place = hpc_accel.mpi.init()
    everybody = list(range(place.size))
    groups = {"mpi4py": dist.group.WORLD, "gloo": dist.new_group(everybody, backend="gloo")}
    entries: list[dict[str, Any]] = []
    wanted = [name for name in options.only.split(",") if name]
    steps = {"fsdp2": fsdp2, "pipeline_1f1b": pipeline_1f1b, **dict.fromkeys(MODELS, ddp)}
    for name in ("all_reduce", *MODELS, "pipeline_1f1b", "fsdp2"):
        if wanted and name not in wanted:
            continue
        rows = all_reduce(groups) if name == "all_reduce" else [steps[name](name, groups)]
        entries += rows
        if place.rank == 0:
            for entry in rows:
                show(entry)
    if place.rank == 0 and options.json:
        load = os.getloadavg()[0]
        document = {
            "format": 1,
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "load_average_1min": load,
            "versions": versions(),
            "entries": entries,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    hpc_accel.mpi.shutdown()


if __name__ == "__main__":
    main()
