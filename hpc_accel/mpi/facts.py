"""What MPI is this: for reports and for the probe."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_accel.mpi import gpu_aware, threads
from hpc_accel.mpi.launch import mpi


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The library in use, as it describes itself."""

    library: str
    mpi4py: str
    thread_level: str
    gpu_aware: bool
    """Whether device memory goes straight in from this rank: claimed by the library and tried out."""


def facts() -> Facts:
    """Starts MPI; not collective."""
    import mpi4py

    return Facts(
        library=mpi().Get_library_version().splitlines()[0].split(", package")[0].strip(),
        mpi4py=mpi4py.__version__,
        thread_level=threads.NAMES[threads.LEVEL],
        gpu_aware=gpu_aware.here(),
    )
