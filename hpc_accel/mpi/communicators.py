"""The communicator of a new group, made by its members alone."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from hpc_accel.errors import ConfigError
from hpc_accel.mpi.launch import job, mpi, refuse_copies

MPI = mpi()


def make_comm(ranks: Sequence[int], rank: int, size: int, parent: Any = None) -> Any:
    """The group's own communicator. Only members call this.

    `ranks` are those of `parent`, or torch's global ranks; empty for the default group.
    """
    if not ranks:
        refuse_copies(MPI.COMM_WORLD.Get_size())
        if job().Get_size() != size:
            raise ConfigError(
                f"world_size {size}, MPI has {job().Get_size()} rank(s)",
                "the default group spans all ranks MPI started",
                f"start {size} ranks with mpirun or srun, or leave RANK, WORLD_SIZE and MASTER_ADDR unset",
            )
        return job().Split(0, key=rank)
    # The tag must be the same on all members without asking: str's hash differs from process to process, and torch's
    # name of a group made with use_local_synchronization counts the groups of each rank. The members are the same.
    tag = zlib.crc32(",".join(map(str, ranks)).encode()) % 32767
    parent = parent if parent is not None else default_comm()
    subset = parent.Get_group().Incl(list(ranks))
    try:
        return parent.Create_group(subset, tag)
    finally:
        subset.Free()


def default_comm() -> Any:
    """The communicator whose ranks are torch's global ranks."""
    default = dist.distributed_c10d._get_default_group() if dist.is_initialized() else None
    executor = getattr(default, "executor", None)
    return executor.comm if executor is not None else job()
