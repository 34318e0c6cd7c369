"""Measure MPI: one-way times of messages and times of all-reduces, inside a node and between nodes.

Ranks that take no part sleep, because a rank spinning in MPI would take a core from those that are measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MESSAGE_BYTES = (8, 1024, 16 * 1024, 128 * 1024, 2**20, 8 * 2**20)
ALLREDUCE_BYTES = (1024, 16 * 1024, 256 * 1024, 4 * 2**20)
LARGE_BYTES = 32 * 2**20
"""Added when there is time: beyond caches, the rate can fall once more."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to measure each point, and whether to add large messages."""

    window_s: float
    large: bool


def rest(comm: Any) -> None:
    """A barrier that sleeps instead of spinning. Collective over `comm`."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(5e-4)


def measure_link(comm: Any, members: Sequence[int], effort: Effort) -> dict[str, Any] | None:
    """One link's latency, bandwidth, messages and all-reduces, on rank 0; None elsewhere. Collective over `comm`.

    Messages go between the first two of `members`; all-reduces over the first 2, 4, 8, ... and all of them.
    """
    from mpi4py import MPI

    extra = (LARGE_BYTES,) if effort.large else ()
    points: list[dict[str, Any]] = []
    reduced: list[dict[str, Any]] = []
    for count in _counts(len(members)):
        chosen = members[:count]
        group = comm.Split(0 if comm.rank in chosen else MPI.UNDEFINED)
        if group != MPI.COMM_NULL:
            if count == 2:
                points = [
                    {"bytes": size, "time_s": _ping_pong_s(group, size, effort)} for size in MESSAGE_BYTES + extra
                ]
            reduced += [
                {"ranks": count, "bytes": size, "time_s": _allreduce_s(group, size, effort)}
                for size in ALLREDUCE_BYTES + extra
            ]
            group.Free()
        rest(comm)
    # The first member knows all points; rank 0 writes them.
    known = comm.gather((points, reduced) if comm.rank == members[0] else None, root=0)
    found = [item for item in known or [] if item is not None]
    return _link(*found[0]) if found else None


def _link(points: list[dict[str, Any]], reduced: list[dict[str, Any]]) -> dict[str, Any]:
    times = {point["bytes"]: point["time_s"] for point in points}
    small, large = min(times), max(times)
    return {
        "latency_s": times[small],
        "bandwidth_bytes_per_s": large / times[large],
        "points": points,
        "allreduce": reduced,
    }


def _counts(total: int) -> list[int]:
    """2, 4, 8, ... and the total."""
    counts = [2**i for i in range(1, total.bit_length()) if 2**i <= total]
    return counts if not counts or counts[-1] == total else [*counts, total]


def _ping_pong_s(pair: Any, num_bytes: int, effort: Effort) -> float:
    """Half a round trip, the median over batches, the same on both ranks."""
    buffer = np.zeros(num_bytes, dtype=np.uint8)
    other = 1 - pair.rank

    def once() -> None:
        if pair.rank == 0:
            pair.Send(buffer, dest=other)
            pair.Recv(buffer, source=other)
        else:
            pair.Recv(buffer, source=other)
            pair.Send(buffer, dest=other)

    return _median_s(pair, once, effort.window_s) / 2


def _allreduce_s(group: Any, num_bytes: int, effort: Effort) -> float:
    """One all-reduce of 32-bit floats, the median over batches of the slowest rank."""
    send = np.ones(num_bytes // 4, dtype=np.float32)
    receive = np.empty_like(send)
    return _median_s(group, lambda: group.Allreduce(send, receive), effort.window_s)


def _median_s(group: Any, once: Any, window_s: float) -> float:
    """Seconds of `once`. The number of repetitions is rank 0's, since all must do the same."""
    from mpi4py import MPI

    once()
    repeats = group.bcast(max(1, int(window_s / 8 / max(_batch_s(group, once, 2), 1e-7))))
    batches = [_batch_s(group, once, repeats) for _ in range(5)]
    return float(group.allreduce(statistics.median(batches), op=MPI.MAX))


def _batch_s(group: Any, once: Any, repeats: int) -> float:
    group.Barrier()
    start = time.perf_counter()
    for _ in range(repeats):
        once()
    return (time.perf_counter() - start) / repeats
