"""The ranks of a group on one node, and the memory that they share.

The memory is a file in /dev/shm, which has lost its name by the time it is used: nothing is left behind whatever way a
rank ends. An MPI window would do, but opening one starts the library's one-sided machinery, fabric included.
"""

from __future__ import annotations

import mmap
import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_accel.mpi.launch import mpi

MPI = mpi()
DIRECTORY = Path("/dev/shm")
MAX_RANKS = 256
"""On a node: a rank has 16 bytes in the header of the memory."""
SWITCH = "HPC_ACCEL_MPI_SHARED_MEMORY"
"""Set to 0 on any rank to share no memory."""
PRETENDED = "HPC_ACCEL_MPI_TEST_RANKS_PER_NODE"
"""For tests only: ranks of one host count as several nodes of so many ranks each."""


_missed: list[str] = []
"""What this rank could not have, and why."""


def missed(comm: Any) -> tuple[str, ...]:
    """A sentence for each node on which shared memory could not be had. Collective over `comm`."""
    told = sorted({each for ranks in comm.allgather(_missed) for each in ranks})
    return tuple(
        f"shared memory: {each}: ranks of a node exchange by messages instead, which is slower: make room there and "
        "measure again"
        for each in told
    )


@dataclass(frozen=True, slots=True)
class Node:
    """Where the ranks of a group are. Made with the group, because MPI cannot make communicators in two queues at once
    (Open MPI 5.0 can deadlock there)."""

    whole: Any
    """The group's own communicator."""
    comm: Any
    """Its ranks on this node."""
    num_nodes: int
    num_owners: int
    """Ranks per node that send to other nodes: as many as the smallest node has. They are the first of their node."""
    across: Any
    """The owners in my place on all nodes; None if there is one node, or if this rank is no owner."""

    @property
    def alone(self) -> bool:
        """Whether every node has one rank: nobody shares memory."""
        return self.num_nodes == int(self.whole.Get_size())

    def free(self) -> None:
        """Give the communicators back, but for the group's own. All ranks call this."""
        self.comm.Free()
        if self.across is not None and self.across is not self.whole:
            self.across.Free()


def find_node(comm: Any) -> Node | None:
    """The neighbours in `comm`, or None where neither memory nor other nodes are of use. Collective over `comm`."""
    if comm.Get_size() == 1:
        return None
    local = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.Get_rank())
    pretended = int(os.environ.get(PRETENDED, "0"))
    if pretended:
        host, local = local, local.Split(local.Get_rank() // pretended, key=local.Get_rank())
        host.Free()
    rank, size = local.Get_rank(), local.Get_size()
    told = comm.allgather((rank, size, os.environ.get(SWITCH) == "0"))
    sizes = [size for rank, size, _ in told if rank == 0]
    if max(sizes) > 1 and (max(sizes) > MAX_RANKS or any(unwanted for _, _, unwanted in told)):
        local.Free()
        return None
    across = None
    if max(sizes) == 1:
        across = comm
    elif len(sizes) > 1:
        place = rank if rank < min(sizes) else MPI.UNDEFINED
        across = comm.Split(place, key=comm.Get_rank())
    owns = across is not None and across != MPI.COMM_NULL
    return Node(comm, local, len(sizes), min(sizes), across if owns else None)


def map_memory(comm: Any, header_bytes: int, bytes_per_rank: int, extra_bytes: int) -> mmap.mmap | None:
    """A header, a part per rank and `extra_bytes`; None on a rank that fails. Collective over `comm`, a node's ranks.

    Every rank reserves its own part, so that it lies in the memory bank of that rank's processor.
    """
    rank, size = comm.Get_rank(), comm.Get_size()
    whole = header_bytes + size * bytes_per_rank + extra_bytes
    file, path = -1, ""
    if rank == 0:
        try:
            file, path = tempfile.mkstemp(prefix="hpc-accel-", dir=DIRECTORY)
            os.ftruncate(file, whole)
        except OSError as error:
            _miss(error)
    path = comm.bcast(path, root=0)
    memory = None
    try:
        if rank != 0:
            file = os.open(path, os.O_RDWR)
        # Reserved now: writing to a page that cannot be had later would kill the process.
        begin = 0 if rank == 0 else header_bytes + rank * bytes_per_rank
        end = whole if rank == size - 1 else header_bytes + (rank + 1) * bytes_per_rank
        os.posix_fallocate(file, begin, end - begin)
        memory = mmap.mmap(file, whole)
    except (OSError, ValueError) as error:
        if path:  # else the first rank has told
            _miss(error)
    comm.Barrier()
    if rank == 0 and path:
        Path(path).unlink(missing_ok=True)
    if file >= 0:
        os.close(file)
    return memory


def _miss(error: OSError | ValueError) -> None:
    reason = error.strerror if isinstance(error, OSError) else error
    text = f"no {DIRECTORY} on {socket.gethostname()} ({reason})"
    if text not in _missed:
        _missed.append(text)
