"""The mpi4py backend beside gloo: the same calls and steps in the same processes, interleaved, as ratios.

    hpc-accel bench backend [--json FILE] [--only all_reduce,ddp_mlp]      # starts two ranks here
    mpirun -n 4 python -m mpi4py -m hpc_accel.mpi.bench                    # or under any launcher

Both groups live side by side and take turns, repetition by repetition, so that a noisy machine disturbs both alike.
A figure is the median over repetitions of the slowest rank's time; a ratio above 1 means mpi4py is faster.
`none` is the step with no communication at all; `bare` a mpi4py call on a NumPy buffer. The sizes and models are
fixed, so that results compare; --quick is for seeing that it works, its figures mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # fair to gloo: a wrong interface costs it a factor of 100

import mpi4py
import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import hpc_accel.mpi
from hpc_accel.errors import ConfigError
from hpc_accel.mpi.launch import SIZE_VARIABLES, mpi

KIB, MIB = 2**10, 2**20
SIZES = (KIB, 16 * KIB, 256 * KIB, 4 * MIB, 25 * MIB, 128 * MIB)
REQUIRED_ALL_REDUCE = {KIB: 20, 16 * KIB: 20, 256 * KIB: 15, 4 * MIB: 7, 25 * MIB: 3.5, 128 * MIB: 1.5}
REQUIRED_STEP = {"ddp_mlp": 1.5, "pipeline_1f1b": 1.2, "fsdp2": 1.2}
REPETITIONS = {"ddp_mlp": 20, "ddp_transformer": 20, "ddp_cnn": 20, "pipeline_1f1b": 20, "fsdp2": 12}
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


def all_reduce(groups: dict[str, Any], quick: bool) -> list[dict[str, Any]]:
    """`dist.all_reduce` on fp32, both groups, and the bare MPI call."""
    rows = []
    comm = mpi().COMM_WORLD
    for num_bytes in SIZES[:3] if quick else SIZES:
        tensor, array = torch.zeros(num_bytes // 4), np.zeros(num_bytes // 4, dtype=np.float32)

        ways: dict[str, Step] = {name: partial(dist.all_reduce, tensor, group=group) for name, group in groups.items()}
        inner = 20 if num_bytes <= 256 * KIB else 1
        repetitions = 2 if quick else 25 if num_bytes <= 4 * MIB else 15 if num_bytes <= 25 * MIB else 7
        times = interleaved({**ways, "bare": partial(comm.Allreduce, mpi().IN_PLACE, array)}, repetitions, inner)
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


def ddp(name: str, groups: dict[str, Any], repetitions: int) -> dict[str, Any]:
    """Forward, backward with bucketed all-reduce, SGD."""
    ways: dict[str, Step] = {}
    for key, group in groups.items():
        torch.manual_seed(0)
        model, x = MODELS[name]()
        ways[key] = train_step(nn.parallel.DistributedDataParallel(model, process_group=group), x)
    torch.manual_seed(0)
    ways["none"] = train_step(*MODELS[name]())
    return row(name, interleaved(ways, repetitions))


def fsdp2(name: str, groups: dict[str, Any], repetitions: int) -> dict[str, Any]:
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
    return row(name, interleaved(ways, repetitions))


def pipeline_1f1b(name: str, groups: dict[str, Any], repetitions: int) -> dict[str, Any]:
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
    return row(name, interleaved(ways, repetitions))


def row(name: str, times: dict[str, float]) -> dict[str, Any]:
    ratio_none = times["mpi4py"] / times["none"] if "none" in times else None
    return {
        "name": name,
        "times_s": times,
        "ratio_gloo": times["gloo"] / times["mpi4py"],
        "over_no_communication": ratio_none,
        "required": REQUIRED_STEP.get(name),
    }


def line(entry: dict[str, Any]) -> str:
    """One row of the table."""
    size = f" {entry['num_bytes'] // KIB} KiB" if "num_bytes" in entry else ""
    times = "  ".join(f"{name} {1e6 * value:9.0f} us" for name, value in entry["times_s"].items())
    wanted = f" (wanted {entry['required']}x)" if entry["required"] else ""
    extra = f"  of bare {entry['ratio_bare']:.2f}" if "ratio_bare" in entry else ""
    if entry.get("over_no_communication"):
        extra = f"  over none {entry['over_no_communication']:.2f}"
    return f"{entry['name'] + size:24} {times}  gloo/mpi4py {entry['ratio_gloo']:5.2f}x{wanted}{extra}"


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


def run(only: list[str], json_path: Path | None, quick: bool) -> None:
    """Measure, print the table on rank 0 and write the figures. All ranks call this."""
    torch.set_num_threads(1)
    place = hpc_accel.mpi.init()
    groups = {"mpi4py": dist.group.WORLD, "gloo": dist.new_group(list(range(place.size)), backend="gloo")}
    steps = {**dict.fromkeys(MODELS, ddp), "pipeline_1f1b": pipeline_1f1b, "fsdp2": fsdp2}
    entries: list[dict[str, Any]] = []
    for name in only or ["all_reduce", *steps]:
        if name == "all_reduce":
            rows = all_reduce(groups, quick)
        else:
            rows = [steps[name](name, groups, 1 if quick else REPETITIONS[name])]
        entries += rows
        if place.rank == 0:
            sys.stdout.writelines(line(entry) + "\n" for entry in rows)
            sys.stdout.flush()
    if place.rank == 0 and json_path:
        document = {
            "format": 1,
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "load_average_1min": os.getloadavg()[0],
            "quick": quick,
            "versions": versions(),
            "entries": entries,
        }
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(document, indent=1) + "\n")
    hpc_accel.mpi.shutdown()


def launched() -> bool:
    """Whether this process is one of several that a launcher started (or the only one that mpirun did)."""
    sizes = [(name, os.environ.get(name, "")) for name, _ in SIZE_VARIABLES]
    # A shell inside an allocation may be a Slurm step of one.
    return any(value.isdigit() and (int(value) > 1 or not name.startswith("SLURM")) for name, value in sizes)


def start_ranks(num_ranks: int, arguments: list[str]) -> int:
    """Run this module on so many ranks of this host; its exit code."""
    launcher = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
    if launcher is None:
        raise ConfigError(
            "no mpirun beside this Python or on PATH", "the ranks are started by MPI's launcher",
            "load the site's MPI, or start this command under its launcher, for example with `srun -n 2`",
        )  # fmt: skip
    environment = dict(os.environ)
    told = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False).stdout
    place: list[str] = []
    if "Open MPI" in told or "OpenRTE" in told:
        place = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]
        environment.setdefault("OMPI_MCA_btl", "self,sm")
        if os.geteuid() == 0:
            environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [launcher, "-n", str(num_ranks), *place, sys.executable, "-m", "mpi4py", "-m", __name__, *arguments]
    return subprocess.run(command, env=environment, check=False).returncode


def bench_backend(only: str, json_path: Path | None, num_ranks: int, quick: bool) -> int:
    """The comparison on the ranks that are here, or on `num_ranks` new ones; the exit code."""
    names = [name for name in only.split(",") if name]
    known = ["all_reduce", *REPETITIONS]
    for name in names:
        if name not in known:
            raise ConfigError(f"--only {name}", f"known are {', '.join(known)}", "correct the name")
    if launched():
        run(names, json_path, quick)
        return 0
    arguments = ["--only", only] if only else []
    arguments += ["--json", str(json_path.resolve())] if json_path else []
    return start_ranks(num_ranks, [*arguments, *(["--quick"] if quick else [])])


def main() -> None:
    """The command line of one rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", default="", help="comma-separated names")
    parser.add_argument("--quick", action="store_true", help="one or two repetitions of each, small messages")
    options = parser.parse_args()
    run([name for name in options.only.split(",") if name], options.json, options.quick)


if __name__ == "__main__":
    main()
