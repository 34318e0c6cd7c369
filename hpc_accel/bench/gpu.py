"""The mpi4py backend on device tensors: what staging through the host costs, and what of it a training step hides.

    hpc-accel bench gpu [--json FILE] [--trace FILE]         # starts two ranks here; they may share one GPU
    srun -n 4 python -m mpi4py -m hpc_accel.bench.gpu        # or under any launcher

A staged all-reduce copies in, reduces and copies out, chunk by chunk, so it should take little longer than the slowest
of the three alone: `of the slowest` is that ratio, wanted from 25 MiB up. A step is compared with `silent`, the same
without messages: what the all-reduce of its gradients takes alone, less what messages add to the step, was hidden
behind backward. nccl is beside it where every rank has a GPU of its own. All take turns (interleaved.py).
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import hpc_accel.mpi
from hpc_accel.bench.interleaved import Step, interleaved
from hpc_accel.bench.result_file import versions, write
from hpc_accel.bench.start_ranks import launched, start_ranks
from hpc_accel.bench.steps import KIB, MIB, MODELS, no_message, train_step
from hpc_accel.errors import ConfigError
from hpc_accel.mpi import gpu_aware
from hpc_accel.mpi.launch import World, mpi
from hpc_accel.mpi.staging import pinned

SIZES = (16 * KIB, MIB, 25 * MIB, 128 * MIB)
REQUIRED_OF_SLOWEST = 0.8
REQUIRED_FROM_BYTES = 25 * MIB
REPETITIONS = 20
TRACED_STEPS = 3


def staged(device: torch.device, quick: bool, settle: Step) -> list[dict[str, Any]]:
    """An fp32 all-reduce of device memory, and each of its three parts alone, all ranks at once."""
    rows = []
    for num_bytes in SIZES[:2] if quick else SIZES:
        tensor = torch.zeros(num_bytes // 4, device=device)
        host = pinned(tensor)
        ways: dict[str, Step] = {
            "staged": partial(dist.all_reduce, tensor),
            "copy_in": partial(host.copy_, tensor, non_blocking=True),
            "host": partial(dist.all_reduce, host),
            "copy_out": partial(tensor.copy_, host, non_blocking=True),
        }
        times = interleaved(ways, 2 if quick else REPETITIONS, settle=settle)
        slowest = max(times[name] for name in ("copy_in", "host", "copy_out"))
        rows.append(
            {
                "name": "all_reduce",
                "num_bytes": num_bytes,
                "times_s": times,
                "of_slowest": slowest / times["staged"],
                "required": REQUIRED_OF_SLOWEST if num_bytes >= REQUIRED_FROM_BYTES else None,
            }
        )
    return rows


def step_row(name: str, groups: dict[str, Any], device: torch.device, quick: bool, settle: Step) -> dict[str, Any]:
    """DDP's step of one model; `alone` is the all-reduce of as many bytes as it has gradients."""
    ways = ddp_steps(name, groups, device)
    model, x = made(name, device)
    ways["none"] = train_step(model, x)
    flat = torch.zeros(sum(each.numel() for each in model.parameters()), device=device)
    ways["alone"] = partial(dist.all_reduce, flat)
    times = interleaved(ways, 1 if quick else REPETITIONS, settle=settle)
    exposed_s = max(0.0, times["mpi4py"] - times["silent"])
    return {
        "name": name,
        "num_bytes": flat.numel() * 4,
        "times_s": times,
        "over_no_communication": times["mpi4py"] / times["none"],
        "hidden": max(0.0, 1 - exposed_s / times["alone"]),
        "required": None,
    }


def made(name: str, device: torch.device) -> tuple[nn.Module, torch.Tensor]:
    """A model of the benchmark and its batch, on the device; the same on every rank."""
    torch.manual_seed(0)
    model, x = MODELS[name]()
    return model.to(device), x.to(device)


def ddp_steps(name: str, groups: dict[str, Any], device: torch.device) -> dict[str, Step]:
    """One way per backend, and `silent`, whose buckets nobody sends."""
    ways: dict[str, Step] = {}
    for key, group in [*groups.items(), ("silent", groups["mpi4py"])]:
        model, x = made(name, device)
        devices = [device] if device.index is not None else None
        wrapped = nn.parallel.DistributedDataParallel(model, devices, process_group=group)
        if key == "silent":
            wrapped.register_comm_hook(None, lambda state, bucket: no_message(bucket))
        ways[key] = train_step(wrapped, x)
    return ways


def write_trace(path: Path, step: Step, settle: Step, rank: int) -> None:
    """Some steps of rank 0 as torch's profiler sees them, for Perfetto: copies beside kernels are overlap."""
    from torch.profiler import ProfilerActivity, profile, supported_activities

    with profile(activities=list({ProfilerActivity.CPU, *supported_activities()})) as seen:
        for _ in range(TRACED_STEPS):
            step()
        settle()
    if rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        seen.export_chrome_trace(str(path))


def line(entry: dict[str, Any]) -> str:
    """One row of the table."""
    times = "  ".join(f"{name} {1e6 * value:9.0f} us" for name, value in entry["times_s"].items())
    if "of_slowest" in entry:
        wanted = f" (wanted {entry['required']})" if entry["required"] else ""
        extra = f"of the slowest {entry['of_slowest']:.2f}{wanted}"
    else:
        extra = f"over none {entry['over_no_communication']:.2f}  hidden {entry['hidden']:.0%}"
    return f"{entry['name']} {entry['num_bytes'] // KIB} KiB".ljust(24) + f" {times}  {extra}"


def run(json_path: Path | None, trace_path: Path | None, quick: bool) -> None:
    """Measure, print the table on rank 0 and write the figures. All ranks call this."""
    device = hpc_accel.mpi.world().device()
    if device.type == "cpu":
        raise _no_gpu()
    torch.accelerator.set_device_index(device.index)  # before there are groups, which look at the current one
    place = hpc_accel.mpi.init()
    measure(place, device, partial(torch.accelerator.synchronize, device), json_path, trace_path, quick=quick)
    hpc_accel.mpi.shutdown()


def measure(
    place: World, device: torch.device, settle: Step, json_path: Path | None, trace_path: Path | None, *, quick: bool
) -> None:
    """All rows on `device`; `settle` waits for it."""
    groups: dict[str, Any] = {"mpi4py": dist.group.WORLD}
    if torch.accelerator.device_count() >= place.local_size > 1 and dist.is_nccl_available():
        groups["nccl"] = dist.new_group(list(range(place.size)), backend="nccl")
    aware, _ = gpu_aware.agreed(mpi().COMM_WORLD)
    entries = staged(device, quick, settle)
    entries += [step_row(name, groups, device, quick, settle) for name in MODELS]
    if trace_path:
        steps = ddp_steps("ddp_transformer", {"mpi4py": groups["mpi4py"]}, device)
        write_trace(trace_path, steps["mpi4py"], settle, place.rank)
    if place.rank == 0:
        sys.stdout.writelines(line(entry) + "\n" for entry in entries)
        sys.stdout.flush()
        if json_path:
            name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
            facts = {**versions(), "device": name, "num_devices": torch.accelerator.device_count(), "gpu_aware": aware}
            write(json_path, {"quick": quick, "versions": facts, "entries": entries})


def bench_gpu(json_path: Path | None, trace_path: Path | None, num_ranks: int, quick: bool) -> int:
    """The comparison on the ranks that are here, or on `num_ranks` new ones; the exit code."""
    if launched():
        run(json_path, trace_path, quick)
        return 0
    if not torch.accelerator.is_available():  # said once, and not by every rank
        raise _no_gpu()
    arguments = [text for key, path in (("--json", json_path), ("--trace", trace_path)) if path
                 for text in (key, str(path.resolve()))]  # fmt: skip
    return start_ranks(num_ranks, "hpc_accel.bench.gpu", [*arguments, *(["--quick"] if quick else [])])


def _no_gpu() -> ConfigError:
    remedy = "run it on a node with one; on CPUs: hpc-accel bench backend"
    return ConfigError("torch sees no GPU", "this measures device tensors", remedy)


def main() -> None:
    """The command line of one rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--trace", type=Path, help="write a trace of some steps here, for Perfetto")
    parser.add_argument("--quick", action="store_true", help="one or two repetitions of each, small messages")
    options = parser.parse_args()
    run(options.json, options.trace, options.quick)


if __name__ == "__main__":
    main()
