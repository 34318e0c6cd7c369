"""MPI as a torch.distributed backend: importing this registers `mpi4py`; MPI starts when it is first used.

    import hpc_accel.mpi
    torch.distributed.init_process_group("mpi4py")     # under mpirun or srun; no MASTER_ADDR, no torchrun

`init()` does the same and also carries `gloo` and `nccl`, so that one program can compare them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.distributed import Backend, ProcessGroup

from hpc_accel.mpi.launch import World, world
from hpc_accel.mpi.rendezvous import abort, init, register_rendezvous, shutdown

if TYPE_CHECKING:
    from torch._C._distributed_c10d import _DistributedBackendOptions

__all__ = ["World", "abort", "init", "shutdown", "world"]

BACKEND = "mpi4py"


def _create(options: _DistributedBackendOptions, backend_options: Any) -> ProcessGroup:
    """What torch calls for every group: only its members get here."""
    from hpc_accel.mpi.group import create_group

    return create_group(options, backend_options)


def _register() -> None:
    if BACKEND not in Backend.backend_list:
        Backend.register_backend(BACKEND, _create, extended_api=True, devices=["cpu", "cuda", "xpu"])
        register_rendezvous()


_register()
