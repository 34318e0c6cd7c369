"""The slowest rank: which one, on which host, and by how much.

All ranks of a synchronous step end together, so step times hide a straggler. What a rank computed, without
its waiting, shows it. Two reductions and one message, whatever the number of ranks.
"""

from __future__ import annotations

import platform
from typing import Any


def slowest(comm: Any, busy_ms: float) -> dict[str, Any]:
    """Compare the ranks' time without waiting (a median per step); the same dict on all ranks."""
    from mpi4py import MPI

    rank, size = comm.Get_rank(), comm.Get_size()
    longest_ms, slow_rank = comm.allreduce((busy_ms, rank), op=MPI.MAXLOC)
    mean_ms = comm.allreduce(busy_ms, op=MPI.SUM) / size
    host = comm.bcast(platform.node(), root=slow_rank)
    others_ms = (mean_ms * size - longest_ms) / (size - 1) if size > 1 else None
    return {
        "rank": slow_rank,
        "host": host,
        "busy_ms": longest_ms,
        "mean_of_others_ms": others_ms,
        "excess": longest_ms / others_ms - 1 if others_ms else None,
    }
