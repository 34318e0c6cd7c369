"""All-reduce through memory that the ranks of one node share: every byte is copied less often than in messages.

The tensor goes through the memory in chunks, which stay in the processors' cache. Of every chunk each rank owns an
equal slice, which it alone adds up, so all ranks get identical bits. Per rank and step, one barrier between steps:

    step 0      step 1      step 2      step 3
    in 0        in 1        in 2        ...          copy the slices of others into my inbox
                sum 0       sum 1       ...          add the peers' inboxes to my slice, publish it
                            out 0       ...          copy the slices that the others published

Inboxes and results have two halves used in turn: what step k writes was last read in step k - 1, before a barrier.

Two ranks alone do less: each copies its whole chunk into its inbox and after one barrier adds the other's to its own.
That moves a tenth more bytes than slices do with a third of the copies, which is quicker at every size. Both compute
the same operation on the same operands in the same order, so here, too, they get identical bits.

Groups on several nodes go another way (node_exchange.py).

The barriers are MPI's: they release the GIL, keep the ranks' memory in order, and are watched like all of MPI.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from torch import Tensor

from hpc_accel.mpi.buffers import nbytes
from hpc_accel.mpi.elementwise import LOW, Array, Elementwise, array_of, call_number, can, differ
from hpc_accel.mpi.launch import mpi
from hpc_accel.mpi.node_memory import MAX_RANKS, Node, map_memory
from hpc_accel.mpi.reductions import Reduction

MPI = mpi()

CHUNK_BYTES = 2**20
"""Of the tensor per step: half a second-level cache and more makes barriers cheap, much more leaves the cache."""
HEADER_BYTES = 16 * MAX_RANKS
MIN_BYTES = 512 * 2**10
"""From where this beats the library's own, measured on two ranks; below, a call's Python costs as much as it saves."""
LOW_MIN_BYTES = 64 * 2**10
"""The same for fp16 and bf16, which the library cannot add: there it competes with messages and adding in torch."""


class SharedAllReduce:
    """A group's all-reduce through the memory of this node. Made by `open_shared`."""

    def __init__(self, node: Node, memory: mmap.mmap) -> None:
        self.node = node
        self.rank, self.size = node.comm.Get_rank(), node.comm.Get_size()
        whole = np.frombuffer(memory, np.uint8)[HEADER_BYTES:].reshape(self.size + 1, 2, CHUNK_BYTES)
        self._inbox, self._published = whole[:-1], whole[-1]
        """uint8 [rank, half, byte] and [half, byte]."""
        self._headers = memoryview(memory)[:HEADER_BYTES].cast("q")
        self._views: dict[np.dtype[Any], tuple[Array, Array]] = {}
        self._half = 0

    def takes(self, tensor: Tensor, reduction: Reduction) -> bool:
        """Whether this way can do it and is the faster one; the same answer on all ranks."""
        least = LOW_MIN_BYTES if tensor.dtype in LOW else MIN_BYTES
        return nbytes(tensor) >= least and can(tensor.dtype, reduction)

    def reduce_in_place(self, tensor: Tensor, reduction: Reduction) -> None:
        """Reduce a contiguous host tensor in place. All ranks of the group call this, in the same order."""
        tensor = tensor.detach()
        if reduction.factor is not None:
            tensor.mul_(reduction.factor)
        operation = Elementwise(reduction, tensor.dtype, self.size)
        way = self._by_pair if self.size == 2 else self._by_slices
        way(array_of(tensor), operation, call_number(tensor, reduction))

    def _by_pair(self, flat: Array, operation: Elementwise, mine: int) -> None:
        inbox, _ = self._typed(flat.dtype)
        steps = max(1, -(-flat.nbytes // CHUNK_BYTES))
        chunk = -(-flat.size // steps)
        for step in range(steps):
            # What this writes was last read two steps ago, before a barrier: by then the other had left that step.
            half, part = self._turn(), flat[step * chunk : (step + 1) * chunk]
            inbox[self.rank, half, : part.size] = part
            if step == 0:
                self._meet(half, mine)
            else:
                self.node.comm.Barrier()
            theirs = inbox[1 - self.rank, half, : part.size]
            operation.reduce_into(part, [part, theirs] if self.rank == 0 else [theirs, part])

    def _by_slices(self, flat: Array, operation: Elementwise, mine: int) -> None:
        inbox, published = self._typed(flat.dtype)
        rank, count = self.rank, flat.size
        steps = max(1, -(-flat.nbytes // CHUNK_BYTES))
        chunk = -(-count // steps)
        share = -(-chunk // self.size)
        begin, end = min(rank * share, chunk), min((rank + 1) * share, chunk)
        halves: list[int] = []
        for step in range(steps + 2):
            if step < steps:
                halves.append(self._turn())
                part, box = flat[step * chunk : (step + 1) * chunk], inbox[rank, halves[step]]
                box[: min(begin, part.size)] = part[:begin]
                box[end : max(end, part.size)] = part[end:]
            if 0 < step <= steps:
                half = halves[step - 1]
                part = flat[(step - 1) * chunk : step * chunk]
                own, last = part[begin:end], min(end, part.size)
                if own.size:
                    # In the order of the ranks: the same bits whoever owns an element, so in every bucket.
                    parts = [inbox[peer, half, begin:last] for peer in range(self.size)]
                    parts[rank] = own
                    operation.reduce_into(published[half, begin:last], parts)
                    own[:] = published[half, begin:last]
            if step > 1:
                part, done = flat[(step - 2) * chunk : (step - 1) * chunk], published[halves[step - 2]]
                part[:begin] = done[: min(begin, part.size)]
                part[end:] = done[end : max(end, part.size)]
            if step == 0:
                self._meet(halves[0], mine)
            elif step <= steps:
                self.node.comm.Barrier()

    def _meet(self, half: int, mine: int) -> None:
        """The first barrier of a call. Raises on all ranks of the group when they are in different calls."""
        self._headers[2 * self.rank + half] = mine
        self.node.comm.Barrier()
        if any(self._headers[2 * peer + half] != mine for peer in range(self.size)):
            raise differ()

    def _turn(self) -> int:
        self._half ^= 1
        return self._half

    def _typed(self, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Inboxes and results as arrays of `dtype`: [rank, half, element] and [half, element]."""
        views = self._views.get(dtype)
        if views is None:
            views = self._views[dtype] = (self._inbox.view(dtype), self._published.view(dtype))
        return views


def open_shared(node: Node) -> SharedAllReduce | None:
    """The all-reduce through a new memory, or None on all ranks where any cannot have it. Collective over the group."""
    memory = map_memory(node.comm, HEADER_BYTES, 2 * CHUNK_BYTES, extra_bytes=2 * CHUNK_BYTES)
    # In a queue: mpi4py's allreduce() of objects would make a communicator (see Node).
    have = np.array([memory is not None], np.int32)
    node.whole.Allreduce(MPI.IN_PLACE, have, MPI.MIN)
    return SharedAllReduce(node, memory) if have[0] and memory is not None else None
