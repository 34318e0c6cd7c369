"""A group's all-reduce of dense tensors: through the node's shared memory where that is faster, else the library's."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hpc_accel.mpi import collectives, threads
from hpc_accel.mpi.buffers import nbytes
from hpc_accel.mpi.node_memory import find_node
from hpc_accel.mpi.reductions import Reduction
from hpc_accel.mpi.shared_all_reduce import LOW_MIN_BYTES, SharedAllReduce, open_shared

SHARE_FROM_BYTES = LOW_MIN_BYTES
"""The first all-reduce of this size takes the memory to share; a group without any takes none."""


class AllReducer:
    """The all-reduce of one group. Only the thread that has the group's queue may call it."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._node = None if threads.REDUCED else find_node(comm)
        self._may_share = self._node is not None
        self.shared: SharedAllReduce | None = None
        """None until it is first needed, and where it cannot be had."""

    def all_reduce(self, tensor: Tensor, reduction: Reduction) -> None:
        """Reduce a contiguous tensor in place: one in host memory, or in device memory of a GPU-aware MPI."""
        if self._may_share and nbytes(tensor) >= SHARE_FROM_BYTES and tensor.is_cpu:
            if self.shared is None and self._node is not None:
                self.shared = open_shared(self._node)
                self._may_share = self.shared is not None
            if self.shared is not None and self.shared.takes(tensor, reduction):
                self.shared.reduce_in_place(tensor, reduction)
                return
        collectives.all_reduce(self._comm, tensor, reduction)

    def free(self) -> None:
        """Give memory and communicators back. All ranks of the group call this."""
        self.shared = None
        if self._node is not None:
            self._node.free()
