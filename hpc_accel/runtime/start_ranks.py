"""What every rank of a run knows once it is started, trained or served: who the others are, and what it computes on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import hpc_accel.mpi
from hpc_accel.mpi.launch import mpi, refuse_copies
from hpc_accel.runtime.device import choose_device, gpu_uuids
from hpc_accel.runtime.heap import give_back_freed_blocks
from hpc_accel.runtime.threads import threads_per_rank
from hpc_accel.study.run import Run
from hpc_accel.workloads.sudden_exit import refuse_finalize


@dataclass(frozen=True, kw_only=True)
class RankSetup:
    """A run, its directory, and this rank's place and device in it."""

    run: Run
    directory: Path
    comm: Any
    rank: int
    hosts: list[str]
    host_of_rank: tuple[str, ...]
    device: torch.device
    num_gpus: int | None
    """Different GPUs that the ranks compute on; None on CPUs."""
    num_threads: int
    mpi_init_ms: float


def start_ranks(run: Run, directory: Path) -> RankSetup:
    """Start MPI, take this rank's device and set its number of threads. Collective over all ranks.

    The device comes before the groups, which look at the one that is current: all ranks of a node would try the first.
    Raises ConfigError when the launch does not fit the run.
    """
    began = time.perf_counter()
    world = hpc_accel.mpi.world()
    refuse_copies(world.size, run.layout.num_ranks)
    comm = mpi().COMM_WORLD
    refuse_finalize(mpi())
    own = run.resources.node_kind_of(world.rank)
    num_threads = run.recipe.threads_per_rank or threads_per_rank(world.local_size, own.cpus_per_rank)
    torch.set_num_threads(num_threads)
    device = choose_device(run, own.gpus_per_node, world.local_rank, comm)
    give_back_freed_blocks(run, device)
    hpc_accel.mpi.init(run.backend, expected_size=run.layout.num_ranks)
    return RankSetup(
        run=run,
        directory=directory,
        comm=comm,
        rank=world.rank,
        hosts=list(world.hosts),
        host_of_rank=world.host_of_rank,
        device=device,
        num_gpus=len(set(gpu_uuids(device, comm))) or None,
        num_threads=num_threads,
        mpi_init_ms=(time.perf_counter() - began) * 1e3,
    )
