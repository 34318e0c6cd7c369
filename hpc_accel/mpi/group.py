"""The process group torch sees: names, messages, sub-groups, end of life; the collectives are in c10d_methods.py.

The attribute `new_group` must not exist here: torch would no longer make groups of other backends beside this one.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import _DistributedBackendOptions

from hpc_accel.mpi.arguments import check_single
from hpc_accel.mpi.c10d_methods import CollectiveMethods
from hpc_accel.mpi.communicators import make_comm
from hpc_accel.mpi.group_executor import GroupExecutor
from hpc_accel.mpi.launch import mpi
from hpc_accel.mpi.work import MPIWork

MPI = mpi()


class Options:
    """What `split_group` copies from parent to child."""

    backend = "mpi4py"

    def __init__(self, timeout: timedelta) -> None:
        self._timeout = timeout


class MPIProcessGroup(CollectiveMethods, dist.ProcessGroup):  # type: ignore[misc]  # torch's stub has overloads
    """torch.distributed over one MPI communicator."""

    supports_coalescing = False
    supports_time_estimate = False

    def __init__(self, store: dist.Store, comm: Any, timeout: timedelta, name: str) -> None:
        dist.ProcessGroup.__init__(self, comm.Get_rank(), comm.Get_size())  # type: ignore[call-arg]
        self.executor = GroupExecutor(name, comm, timeout.total_seconds())
        self._group_store = store
        self._name = name
        self._desc = "undefined"

    # --- messages

    def send(self, tensors: list[Tensor], peer: int, tag: int = 0) -> MPIWork:
        return self.executor.message("send", check_single(tensors), peer, tag)

    def recv(self, tensors: list[Tensor], peer: int, tag: int = 0) -> MPIWork:
        return self.executor.message("recv", check_single(tensors), peer, tag)

    def recv_anysource(self, tensors: list[Tensor], tag: int = 0) -> MPIWork:
        return self.executor.message("recv", check_single(tensors), MPI.ANY_SOURCE, tag)

    # --- coalescing

    def _start_coalescing(self, device: torch.device) -> None:
        self.executor.start_coalescing()

    def _end_coalescing(self, device: torch.device) -> MPIWork:
        return self.executor.end_coalescing()

    # --- names

    def getBackendName(self) -> str:
        return "mpi4py"

    def name(self) -> str:
        return "mpi4py"

    def _get_backend_name(self) -> str:
        return "mpi4py"

    def getGroupName(self) -> str:
        return self._name

    def setGroupName(self, name: str) -> None:
        self._name = name

    _set_group_name = setGroupName

    def getGroupDesc(self) -> str:
        return self._desc

    def setGroupDesc(self, desc: str) -> None:
        self._desc = desc

    _set_group_desc = setGroupDesc

    @property
    def group_name(self) -> str:  # type: ignore[override]
        return self._name

    @property
    def group_desc(self) -> str:
        return self._desc

    # --- what torch asks a group or its backend (which are one here)

    @property
    def _device_types(self) -> list[torch.device]:
        kinds = ["cpu"]
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if accelerator is not None and accelerator.type in {"cuda", "xpu"}:
            kinds.append(accelerator.type)
        return [torch.device(kind) for kind in kinds]

    @property
    def supports_splitting(self) -> bool:
        """Whether torch may split this group for others: not where a device is bound to it.

        There torch would hand this group to NCCL as the communicator to split. `split_group` below works all the same.
        """
        return self.bound_device_id is None

    def _get_backend(self, device: torch.device) -> MPIProcessGroup:  # type: ignore[override]
        return self

    @property
    def options(self) -> Options:
        return Options(timedelta(seconds=self.executor.timeout_s))

    def _set_default_timeout(self, timeout: timedelta) -> None:
        self.executor.timeout_s = timeout.total_seconds()

    set_timeout = _set_default_timeout

    def _set_sequence_number_for_group(self) -> None:
        """Collectives are counted from the group's creation, on all ranks alike."""

    def _get_sequence_number_for_group(self) -> int:
        return self.executor.num_collectives

    def eager_connect_single_device(self, device: torch.device | None) -> None:
        """MPI connects when it needs to."""

    def _wait_for_pending_works(self) -> None:
        self.executor.drain()

    # --- sub-groups and end of life

    def split_group(
        self,
        new_ranks: list[int],
        timeout: timedelta | None = None,
        opts: Any = None,
        group_name: str | None = None,
        group_desc: str | None = None,
        device_types: list[torch.device] | None = None,
    ) -> MPIProcessGroup | None:
        """The sub-group of `new_ranks` (ranks of this group). Only its members communicate."""
        if self.executor.rank not in new_ranks:
            return None
        name = group_name or f"{self._name}:split:{'_'.join(map(str, new_ranks))}"
        comm = make_comm(new_ranks, -1, len(new_ranks), parent=self.executor.comm)
        child_store = dist.PrefixStore(f"{name}/", self._group_store)
        child = MPIProcessGroup(child_store, comm, timeout or self.options._timeout, name)
        child.setGroupDesc(group_desc or f"{self._desc}:split")
        return child

    splitGroup = split_group

    def get_group_store(self) -> dist.Store:
        return self._group_store

    def shutdown(self) -> None:
        self.executor.close()

    def abort(self) -> None:
        """End the job: MPI has no way to call back the other ranks from a collective."""
        MPI.COMM_WORLD.Abort(75)


def create_group(options: _DistributedBackendOptions, backend_options: Any) -> MPIProcessGroup:
    """What torch calls on the members of a new group."""
    comm = make_comm(options.global_ranks_in_group, options.group_rank, options.group_size)
    return MPIProcessGroup(options.store, comm, options.timeout, options.group_id)
