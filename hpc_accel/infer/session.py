"""Everything an inference run needs before its first request: ranks, device, threads, weights, replicas, samples."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate

import hpc_accel.mpi
from hpc_accel.infer.model import ServedModel, Tensors, as_tensors, build_served
from hpc_accel.infer.replica import Replica
from hpc_accel.infer.weights import build_workload
from hpc_accel.parallel.mesh import make_place
from hpc_accel.study.infer import Infer
from hpc_accel.study.schema import Run
from hpc_accel.train.device import choose_device
from hpc_accel.train.session import stage_sizes
from hpc_accel.train.threads import threads_per_rank
from hpc_accel.workloads.workload import Workload

POOL = 1024
"""Different samples that requests take turns with; they lie in memory before the first one arrives."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """An inference run, set up on this rank."""

    run: Run
    infer: Infer
    directory: Path
    comm: Any
    rank: int
    hosts: list[str]
    device: torch.device
    num_threads: int
    workload: Workload
    split: tuple[int, ...] | None
    model: ServedModel
    replica: Replica
    pool: Tensors
    startup_ms: dict[str, float]

    def samples(self, indices: torch.Tensor) -> Tensors:
        """The inputs of requests by their number."""
        chosen = indices % len(self.pool[0])
        return tuple(each[chosen] for each in self.pool)


def open_session(run: Run, infer: Infer, directory: Path, import_ms: float) -> Session:
    """Set up `run` on this rank. Collective over all ranks. Raises ConfigError when launch or recipe do not fit."""
    began = time.perf_counter()
    world = hpc_accel.mpi.init(run.backend, expected_size=run.layout.num_ranks)
    from mpi4py import MPI

    own = run.resources.component_of(world.rank)
    num_threads = run.recipe.threads_per_rank or threads_per_rank(world.local_size, own.cpus_per_rank)
    torch.set_num_threads(num_threads)
    device = choose_device(run, own.gpus_per_node, world.local_rank, MPI.COMM_WORLD)
    mpi_done = time.perf_counter()
    workload = build_workload(run, directory, MPI.COMM_WORLD)
    split = stage_sizes(run, workload, device, MPI.COMM_WORLD)
    place = make_place(run.layout, world.rank, device.type)
    # Before the model is cut and cast: the data set is the same on every rank.
    pool = _pool(workload)
    model = build_served(run, workload, split, place, device)
    replica = Replica(MPI.COMM_WORLD, model, tuple(each[0] for each in pool))
    built = time.perf_counter()
    return Session(
        run=run,
        infer=infer,
        directory=directory,
        comm=MPI.COMM_WORLD,
        rank=world.rank,
        hosts=list(world.hosts),
        device=device,
        num_threads=num_threads,
        workload=workload,
        split=split,
        model=model,
        replica=replica,
        pool=pool,
        startup_ms={
            "import": import_ms,
            "mpi_init": (mpi_done - began) * 1e3,
            "model_build": (built - mpi_done) * 1e3,
        },
    )


def _pool(workload: Workload) -> Tensors:
    dataset: Any = workload.dataset
    inputs, _ = default_collate([dataset[index] for index in range(min(POOL, len(dataset)))])
    return as_tensors(inputs)
