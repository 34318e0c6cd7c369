"""What `hpc-accel bench backend` measures: one way per backend to do the same step, taking turns (see interleaved.py).

`silent` is DDP without a message: what a backend with free communication would reach. The bound of a row is gloo's
time over that; the pipeline's own is its micro-batches' compute and the bubble.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from hpc_accel.bench.interleaved import Step, interleaved
from hpc_accel.bench.wire import Wire, sent_bytes
from hpc_accel.mpi.launch import mpi

KIB, MIB = 2**10, 2**20
SIZES = (KIB, 16 * KIB, 256 * KIB, 4 * MIB, 25 * MIB, 128 * MIB)
REQUIRED_ALL_REDUCE = {KIB: 20, 16 * KIB: 20, 256 * KIB: 15, 4 * MIB: 7, 25 * MIB: 3.5, 128 * MIB: 1.5}
REQUIRED_STEP = {"ddp_mlp": 1.5, "pipeline_1f1b": 1.2, "fsdp2": 1.2}
CALLS_PER_TURN = {size: 20 if size <= 4 * MIB else 3 for size in SIZES}
"""The first calls of a turn find the caches full of the other's buffers; `ratio_gloo_cold` is of turns of one call."""
TURN_S = 0.3
"""Between nodes a turn has so many calls less that it takes about this, but three."""
REPETITIONS = {"ddp_mlp": 20, "ddp_transformer": 20, "ddp_cnn": 20, "pipeline_1f1b": 20, "fsdp2": 12}
MICRO_BATCHES = 8
SETTLES_S = 0.05
"""For the last packets' acknowledgements."""


def all_reduce(
    groups: dict[str, Any], quick: bool, wire: Wire | None, max_bytes: int, budget_s: float
) -> Iterator[dict[str, Any]]:
    """`dist.all_reduce` on fp32, both groups, and the bare MPI call; a row per size, as it is measured.

    No tensor is larger than `max_bytes`; a size takes about twice `budget_s` at most.
    """
    comm = mpi().COMM_WORLD
    for num_bytes in [size for size in (SIZES[:3] if quick else SIZES) if size <= max_bytes]:
        tensor, array = torch.zeros(num_bytes // 4), np.zeros(num_bytes // 4, dtype=np.float32)

        ways: dict[str, Step] = {name: partial(dist.all_reduce, tensor, group=group) for name, group in groups.items()}
        repetitions = 2 if quick else 25 if num_bytes <= 4 * MIB else 15 if num_bytes <= 25 * MIB else 7
        ways["bare"] = partial(comm.Allreduce, mpi().IN_PLACE, array)
        inner = CALLS_PER_TURN[num_bytes]
        if wire is not None:
            inner = max(3, min(inner, int(TURN_S / wire.all_reduce_s(num_bytes))))
        times = interleaved(ways, repetitions, inner, budget_s=budget_s)
        cold = interleaved(ways, repetitions, budget_s=budget_s)
        entry = {
            "name": "all_reduce",
            "num_bytes": num_bytes,
            "times_s": times,
            "ratio_gloo": times["gloo"] / times["mpi4py"],
            "ratio_bare": times["bare"] / times["mpi4py"],
            "ratio_gloo_cold": cold["gloo"] / cold["mpi4py"],
            "required": REQUIRED_ALL_REDUCE[num_bytes] if wire is None else None,
        }
        yield entry | ({} if wire is None else over_wire(wire, num_bytes, times["mpi4py"], ways["mpi4py"]))


def over_wire(wire: Wire, num_bytes: int, time_s: float, step: Step) -> dict[str, Any]:
    """The time beside what the links allow, and the bytes of one more call beside what theory wants."""
    comm = mpi().COMM_WORLD
    comm.Barrier()
    before = sent_bytes()
    step()
    comm.Barrier()
    time.sleep(SETTLES_S)
    sent = max(comm.allgather(sent_bytes() - before))
    return {
        "wire_s": wire.all_reduce_s(num_bytes),
        "ratio_wire": time_s / wire.all_reduce_s(num_bytes),
        "ratio_bytes": sent / wire.all_reduce_bytes(num_bytes),
    }


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
    model, x = MODELS[name]()
    silent = nn.parallel.DistributedDataParallel(model, process_group=groups["mpi4py"])
    silent.register_comm_hook(None, lambda state, bucket: no_message(bucket))  # DDP wants no quoted annotations
    ways["silent"] = train_step(silent, x)
    torch.manual_seed(0)
    ways["none"] = train_step(*MODELS[name]())
    times = interleaved(ways, repetitions)
    return row(name, times, least=times["silent"])


def no_message(bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """A bucket as if it had been reduced: DistributedDataParallel's own cost remains."""
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


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
        schedule = Schedule1F1B(stage, n_microbatches=MICRO_BATCHES, loss_fn=nn.functional.mse_loss)
        optimizer = torch.optim.SGD(part.parameters(), lr=1e-4)

        def step(schedule: Any = schedule, optimizer: Any = optimizer, x: torch.Tensor = x) -> None:
            optimizer.zero_grad()
            schedule.step(*((x,) if rank == 0 else ()), **({"target": x} if rank == size - 1 else {}))
            optimizer.step()

        ways[key] = step
    ways["silent"] = partial(_micro_batches, part, optimizer, x)
    times = interleaved(ways, repetitions)
    return row(name, times, least=times["silent"] * (MICRO_BATCHES + size - 1) / MICRO_BATCHES)


def _micro_batches(part: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    """A stage's compute without its neighbours."""
    optimizer.zero_grad()
    for rows in x.chunk(MICRO_BATCHES):
        nn.functional.mse_loss(part(rows.clone().requires_grad_()), rows).backward()
    optimizer.step()


def row(name: str, times: dict[str, float], least: float | None = None) -> dict[str, Any]:
    """`least`: seconds of the step if communication were free."""
    ratio_none = times["mpi4py"] / times["none"] if "none" in times else None
    return {
        "name": name,
        "times_s": times,
        "ratio_gloo": times["gloo"] / times["mpi4py"],
        "ratio_bound": times["gloo"] / least if least else None,
        "over_no_communication": ratio_none,
        "required": REQUIRED_STEP.get(name),
    }
