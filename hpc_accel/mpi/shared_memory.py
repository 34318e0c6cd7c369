"""All-reduce through memory that the ranks of one node share: every byte is copied less often than in messages.

The tensor goes through the segment in chunks, which stay in the processors' cache. Of every chunk each rank owns an
equal slice, which it alone adds up, so all ranks get identical bits. Per rank and step, one barrier between steps:

    step 0      step 1      step 2      step 3
    in 0        in 1        in 2        ...          copy the slices of others into my inbox
                sum 0       sum 1       ...          add the peers' inboxes to my slice, publish it
                            out 0       ...          copy the slices that the others published

Inboxes and results have two halves used in turn: what step k writes was last read in step k - 1, before a barrier.

Two ranks alone do less: each copies its whole chunk into its inbox and after one barrier adds the other's to its own.
That moves a tenth more bytes than slices do with a third of the copies, which is quicker at every size. Both compute
the same operation on the same operands in the same order, so here, too, they get identical bits.

Across nodes the owner of a slice sums it with the owners of the same slice on the other nodes before it publishes.
That wants the same number of ranks on all nodes; what this file cannot do is left to the library (`takes`).

The segment is a file in /dev/shm, which has lost its name by the time it is used: nothing is left behind whatever
way a rank ends. An MPI window would do, but opening one starts the library's one-sided machinery, fabric included.
The barriers are MPI's: they release the GIL, keep the ranks' memory in order, and are watched like all of MPI.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpc_accel.mpi.buffers import DATATYPES, nbytes
from hpc_accel.mpi.launch import mpi
from hpc_accel.mpi.reductions import Reduction

MPI = mpi()
Array = np.ndarray[Any, np.dtype[Any]]

DIRECTORY = Path("/dev/shm")
CHUNK_BYTES = 2**20
"""Of the tensor per step: half a second-level cache and more makes barriers cheap, much more leaves the cache."""
HEADER_BYTES = 4096
MIN_BYTES = 512 * 2**10
"""From where this beats the library's own, measured on two ranks; below, a call's Python costs as much as it saves."""
LOW_MIN_BYTES = 64 * 2**10
"""The same for fp16 and bf16, which the library cannot add: there it competes with messages and adding in torch."""
SWITCH = "HPC_ACCEL_MPI_SHARED_MEMORY"
"""Set to 0 to leave all to the library."""
PRETENDED = "HPC_ACCEL_MPI_TEST_RANKS_PER_NODE"
"""For tests only: ranks of one host count as several nodes of so many ranks each."""

FUNCTIONS: dict[str, Any] = {
    "SUM": np.add,
    "AVG": np.add,
    "PREMUL_SUM": np.add,
    "PRODUCT": np.multiply,
    "MIN": np.minimum,
    "MAX": np.maximum,
    "BAND": np.bitwise_and,
    "BOR": np.bitwise_or,
    "BXOR": np.bitwise_xor,
}
LOW_FUNCTIONS: dict[str, Any] = {
    "SUM": torch.add,
    "AVG": torch.add,
    "PRODUCT": torch.mul,
    "MIN": torch.minimum,
    "MAX": torch.maximum,
}
LOW = frozenset({torch.float16, torch.bfloat16})
NAMES = sorted(FUNCTIONS)
TYPES = [*DATATYPES, *sorted(LOW, key=str)]


@dataclass(frozen=True, slots=True)
class Node:
    """Where the ranks of a group are. Made with the group, because MPI cannot make communicators in two lanes at once
    (Open MPI 5.0 can deadlock there)."""

    whole: Any
    """The group's own communicator."""
    comm: Any
    """Its ranks on this node."""
    across: Any
    """Its ranks in my place on all nodes; None if there is one node."""

    def free(self) -> None:
        """Give the communicators back, but for the group's own. All ranks call this."""
        self.comm.Free()
        if self.across is not None:
            self.across.Free()


class SharedMemory:
    """The memory a group's ranks share on this node, and the all-reduce through it. Made by `open_shared`."""

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
        if tensor.dtype in LOW:
            can = reduction.name in LOW_FUNCTIONS
        else:
            can = tensor.dtype in DATATYPES and (reduction.name != "AVG" or tensor.dtype.is_floating_point)
        return can and nbytes(tensor) >= (LOW_MIN_BYTES if tensor.dtype in LOW else MIN_BYTES)

    def all_reduce(self, tensor: Tensor, reduction: Reduction) -> None:
        """Reduce a contiguous host tensor in place. All ranks of the group call this, in the same order."""
        tensor = tensor.detach()
        if reduction.factor is not None:
            tensor.mul_(reduction.factor)
        flat = (tensor.view(torch.int16) if tensor.dtype in LOW else tensor).view(-1).numpy()
        summing = _Summing(reduction, tensor.dtype, self.node)
        mine = (flat.size * len(TYPES) + TYPES.index(tensor.dtype)) * len(NAMES) + NAMES.index(reduction.name)
        way = self._by_pair if self.size == 2 and self.node.across is None else self._by_slices
        way(flat, summing, mine)

    def _by_pair(self, flat: Array, summing: _Summing, mine: int) -> None:
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
            summing.into(part, [part, theirs] if self.rank == 0 else [theirs, part])

    def _by_slices(self, flat: Array, summing: _Summing, mine: int) -> None:
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
                    others = [inbox[peer, half, begin:last] for peer in range(self.size) if peer != rank]
                    summing.into(own, [own, *others])
                    published[half, begin:last] = own
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
        alike = all(self._headers[2 * peer + half] == mine for peer in range(self.size))
        if self.node.across is not None:
            # The largest call and, negated, the smallest; where a node disagrees within itself, nothing agrees.
            extremes = np.array([mine, -mine, int(not alike)])
            self.node.across.Allreduce(MPI.IN_PLACE, extremes, MPI.MAX)
            alike = extremes[0] == -extremes[1] and not extremes[2]
        if not alike:
            raise RuntimeError(
                "all_reduce: the ranks differ in size, dtype or operation; rule: they agree; remedy: "
                "HPC_ACCEL_MPI_DEBUG=1 names the calls and the ranks"
            )

    def _turn(self) -> int:
        self._half ^= 1
        return self._half

    def _typed(self, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Inboxes and results as arrays of `dtype`: [rank, half, element] and [half, element]."""
        views = self._views.get(dtype)
        if views is None:
            views = self._views[dtype] = (self._inbox.view(dtype), self._published.view(dtype))
        return views


class _Summing:
    """Adding up (or multiplying, ...) slices of all ranks: exact in the tensor's dtype, fp16 and bf16 in fp32."""

    def __init__(self, reduction: Reduction, dtype: torch.dtype, node: Node) -> None:
        self.low = dtype if dtype in LOW else None
        self.function = (LOW_FUNCTIONS if self.low else FUNCTIONS)[reduction.name]
        self.operation, self.across = reduction.operation, node.across
        self.divisor = node.whole.Get_size() if reduction.name == "AVG" else None

    def into(self, target: Array, parts: list[Array]) -> None:
        """Reduce `parts` of all ranks into `target`, which may be one of the first two."""
        if self.low is not None:
            self._low_into(target, parts)
            return
        self.function(parts[0], parts[1], out=target)
        for part in parts[2:]:
            self.function(target, part, out=target)
        if self.across is not None:
            self.across.Allreduce(MPI.IN_PLACE, target, self.operation)
        if self.divisor is not None:
            np.divide(target, self.divisor, out=target)

    def _low_into(self, into: Array, arrays: list[Array]) -> None:
        assert self.low is not None
        target, *parts = (torch.from_numpy(array).view(self.low) for array in (into, *arrays))
        if len(parts) == 2 and self.divisor is None and self.across is None:
            # One operation is computed in fp32 and rounded once as it is.
            self.function(parts[0], parts[1], out=target)
            return
        total = parts[0].float()
        for part in parts[1:]:
            self.function(total, part, out=total)
        if self.across is not None:
            self.across.Allreduce(MPI.IN_PLACE, total.numpy(), self.operation)
        if self.divisor is not None:
            total.div_(self.divisor)
        target.copy_(total)


def find_node(comm: Any) -> Node | None:
    """The neighbours in `comm`, or None where sharing memory with them is no use. Collective over `comm`."""
    if os.environ.get(SWITCH) == "0" or comm.Get_size() == 1:
        return None
    local = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.Get_rank())
    pretended = int(os.environ.get(PRETENDED, "0"))
    if pretended:
        host, local = local, local.Split(local.Get_rank() // pretended, key=local.Get_rank())
        host.Free()
    size = local.Get_size()
    sizes = comm.allgather(size)
    if min(sizes) != max(sizes) or size == 1 or 16 * size > HEADER_BYTES:
        local.Free()
        return None
    across = comm.Split(local.Get_rank(), key=comm.Get_rank()) if size < comm.Get_size() else None
    return Node(comm, local, across)


def open_shared(node: Node) -> SharedMemory | None:
    """The memory, or None on all ranks where any cannot have it. Collective over the group."""
    memory = _map_segment(node.comm)
    # In a lane: mpi4py's allreduce() of objects would make a communicator (see Node).
    have = np.array([memory is not None], np.int32)
    node.whole.Allreduce(MPI.IN_PLACE, have, MPI.MIN)
    return SharedMemory(node, memory) if have[0] and memory is not None else None


def _map_segment(node: Any) -> mmap.mmap | None:
    """The segment, mapped; None on a rank that fails. Every rank reserves its own part, in its own memory bank."""
    rank, size = node.Get_rank(), node.Get_size()
    room = HEADER_BYTES + (size + 1) * 2 * CHUNK_BYTES
    file, path = -1, ""
    if rank == 0:
        try:
            file, path = tempfile.mkstemp(prefix="hpc-accel-", dir=DIRECTORY)
            os.ftruncate(file, room)
        except OSError:
            pass
    path = node.bcast(path, root=0)
    memory = None
    try:
        if rank != 0:
            file = os.open(path, os.O_RDWR)
        # Reserved now: writing to a page that cannot be had later would kill the process.
        begin = 0 if rank == 0 else HEADER_BYTES + (rank + 1) * 2 * CHUNK_BYTES - 2 * CHUNK_BYTES
        end = room if rank == size - 1 else HEADER_BYTES + (rank + 1) * 2 * CHUNK_BYTES
        os.posix_fallocate(file, begin, end - begin)
        memory = mmap.mmap(file, room)
    except (OSError, ValueError):
        pass
    node.Barrier()
    if rank == 0 and path:
        Path(path).unlink(missing_ok=True)
    if file >= 0:
        os.close(file)
    return memory
