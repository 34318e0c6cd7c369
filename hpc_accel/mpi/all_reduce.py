"""A group's all-reduce of dense tensors: through the node's memory or between nodes in pieces, else the library's."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hpc_accel.mpi import between_nodes, collectives, threads
from hpc_accel.mpi.buffers import nbytes
from hpc_accel.mpi.elementwise import LOW, can
from hpc_accel.mpi.node_exchange import NodeExchange, open_exchange
from hpc_accel.mpi.node_memory import find_node
from hpc_accel.mpi.reductions import Reduction
from hpc_accel.mpi.shared_all_reduce import LOW_MIN_BYTES, SharedAllReduce, open_shared

SHARE_FROM_BYTES = LOW_MIN_BYTES
"""The first all-reduce of this size takes the memory to share; a group without any takes none."""


class AllReducer:
    """The all-reduce of one group. Only the thread that has the group's queue may call it."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        between_nodes.fixed()  # a wrong value raises here, not in the middle
        self._node = None if threads.REDUCED else find_node(comm)
        self._is_open = False
        self.shared: SharedAllReduce | None = None
        """None until it is first needed, where it cannot be had, and between nodes."""
        self.exchange: NodeExchange | None = None
        """The same between nodes."""
        self.table: between_nodes.Table = ()
        """Which way an all-reduce takes between nodes, by its size."""

    def all_reduce(self, tensor: Tensor, reduction: Reduction) -> None:
        """Reduce a contiguous tensor in place: one in host memory, or in device memory of a GPU-aware MPI."""
        if self._node is not None and nbytes(tensor) >= SHARE_FROM_BYTES and tensor.is_cpu:
            if not self._is_open:
                self._open()
            if self.shared is not None and self.shared.takes(tensor, reduction):
                self.shared.reduce_in_place(tensor, reduction)
                return
            if self.exchange is not None and can(tensor.dtype, reduction):
                piece_bytes = between_nodes.way(self.table, nbytes(tensor), low=tensor.dtype in LOW)
                if piece_bytes != between_nodes.LIBRARY:
                    self.exchange.reduce_in_place(tensor, reduction, piece_bytes)
                    return
        collectives.all_reduce(self._comm, tensor, reduction)

    def _open(self) -> None:
        """Share memory, and measure between nodes. Collective over the group."""
        assert self._node is not None
        self._is_open = True
        if self._node.num_nodes == 1:
            self.shared = open_shared(self._node)
            return
        self.exchange = open_exchange(self._node)
        if self.exchange is not None:
            self.table = between_nodes.table_of(self._comm, self.exchange)

    def free(self) -> None:
        """Give memory and communicators back. All ranks of the group call this."""
        self.shared = self.exchange = None
        if self._node is not None:
            self._node.free()
