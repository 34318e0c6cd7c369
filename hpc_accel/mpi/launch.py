"""Who am I: rank, node and launcher, found from MPI itself, whatever started the processes.

The shared-memory split of COMM_WORLD gives local ranks under Open MPI, MPICH, Intel MPI, Cray and srun alike.
The launcher's variables are read only to notice that MPI and launcher do not belong together: N processes which
each believe to be rank 0 of 1.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hpc_accel.errors import ConfigError

if TYPE_CHECKING:
    import torch

# (variable with the number of processes, who sets it), most specific first. SLURM_NTASKS is not here: a batch
# script has it too, where plain `python` rightly is one process.
SIZE_VARIABLES = (
    ("OMPI_COMM_WORLD_SIZE", "Open MPI's mpirun"),
    ("PMI_SIZE", "MPICH's, Intel MPI's or Cray's launcher"),
    ("MPI_LOCALNRANKS", "MPICH's mpiexec"),
    ("MV2_COMM_WORLD_SIZE", "MVAPICH's launcher"),
    ("SLURM_STEP_NUM_TASKS", "srun"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Where this process stands among all processes of the job."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    node_rank: int
    num_nodes: int
    hosts: tuple[str, ...]
    """One name per node, in the order of node_rank."""
    host_of_rank: tuple[str, ...]

    def device(self) -> torch.device:
        """The accelerator of this rank (local ranks share round-robin when there are fewer), else the CPU."""
        import torch

        if not torch.accelerator.is_available():
            return torch.device("cpu")
        accelerator = torch.accelerator.current_accelerator()
        assert accelerator is not None
        return torch.device(accelerator.type, self.local_rank % torch.accelerator.device_count())


@lru_cache(maxsize=1)
def mpi() -> ModuleType:
    """mpi4py's MPI, initialised on first use.

    A rank needs a core for its compute and one for its communication thread. Where there are fewer, a library
    that waits by spinning takes the core away from who has work, so Open MPI is asked to yield while it waits: that
    costs nothing measurable where cores are free, and how many there are cannot be known before MPI is up. What the
    environment says already wins; a site's openmpi-mca-params.conf does not.
    """
    os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    from mpi4py import MPI

    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    return MPI


_parts: list[Any] = []
"""Communicators that stand for COMM_WORLD at present, the innermost last."""


def job() -> Any:
    """The communicator of all ranks that torch's world is made of: COMM_WORLD, or the part that `apart` names."""
    return _parts[-1] if _parts else mpi().COMM_WORLD


@contextmanager
def apart(comm: Any) -> Iterator[World]:
    """The ranks of `comm` as a world of their own: groups made inside are made of them alone.

    No process group may be left when it begins or ends. Collective over `comm`.
    """
    _parts.append(comm)
    world.cache_clear()
    try:
        yield world()
    finally:
        _parts.pop()
        world.cache_clear()


@lru_cache(maxsize=1)
def world() -> World:
    """Find this process's place. Collective over `job()` at its first call."""
    comm = job()
    refuse_copies(comm.Get_size())
    node = comm.Split_type(mpi().COMM_TYPE_SHARED, key=comm.Get_rank())
    try:
        leader = comm.Get_rank() if node.Get_rank() == 0 else -1
        leader_of_mine = node.bcast(leader, root=0)
        local_rank, local_size = node.Get_rank(), node.Get_size()
    finally:
        node.Free()
    host_of_rank = tuple(comm.allgather(socket.gethostname()))
    leaders = [rank for rank in comm.allgather(leader) if rank >= 0]
    return World(
        rank=comm.Get_rank(),
        size=comm.Get_size(),
        local_rank=local_rank,
        local_size=local_size,
        node_rank=leaders.index(leader_of_mine),
        num_nodes=len(leaders),
        hosts=tuple(host_of_rank[rank] for rank in leaders),
        host_of_rank=host_of_rank,
    )


def refuse_copies(size: int, expected_size: int | None = None) -> None:
    """Raise when the launcher started more processes than MPI sees."""
    if expected_size is not None and expected_size != size:
        raise ConfigError(
            f"MPI has {size} rank(s), {expected_size} were asked for",
            "the number of MPI ranks must be the number the run was resolved for",
            f"start with `mpirun -n {expected_size}` or `srun --ntasks={expected_size}`, "
            "using the launcher of the MPI library that mpi4py was built for",
        )
    if _parts:  # smaller than what the launcher started, as it should be
        return
    for name, setter in SIZE_VARIABLES:
        value = os.environ.get(name, "")
        if not value.isdigit():
            continue
        if int(value) > 1 and size == 1:
            library = mpi().Get_library_version().splitlines()[0].split(",")[0].strip()
            raise ConfigError(
                f"{value} copies of rank 0 of 1 (by {name}, set by {setter})",
                f"the launcher must belong to the MPI library that mpi4py uses: {library}",
                "use that library's own mpirun, or `srun --mpi=pmix` (Open MPI), `srun --mpi=pmi2` (MPICH), "
                "or install mpi4py for the launcher's MPI",
            )
        return
