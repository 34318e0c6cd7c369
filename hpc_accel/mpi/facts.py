"""What MPI is this: for reports and for the probe."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_accel.mpi import between_nodes, gpu_aware, threads
from hpc_accel.mpi.launch import mpi


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The library in use, as it describes itself."""

    library: str
    mpi4py: str
    thread_level: str
    gpu_aware: bool
    """Whether device memory goes straight in from this rank: claimed by the library and tried out."""
    all_reduce_between_nodes: dict[int, int] | None
    """For the group of all ranks: from so many bytes up, messages of so many bytes; 0 for the library's own way.

    None on a single node, and before the group's first large all-reduce, which measures it.
    """


def facts() -> Facts:
    """Starts MPI; not collective."""
    import mpi4py

    table = between_nodes.known(mpi().COMM_WORLD)
    return Facts(
        library=mpi().Get_library_version().splitlines()[0].split(", package")[0].strip(),
        mpi4py=mpi4py.__version__,
        thread_level=threads.NAMES[threads.LEVEL],
        gpu_aware=gpu_aware.here(),
        all_reduce_between_nodes=None if table is None else {row.num_bytes: row.piece_bytes for row in table},
    )
