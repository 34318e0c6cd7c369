"""Measure messages: one-way times and times of all-reduces, inside a node and between nodes; of MPI itself by default.

Ranks that take no part sleep, because a rank spinning in MPI would take a core from those that are measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

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


class Messages(Protocol):
    """What carries messages: MPI itself, or a backend of torch.distributed."""

    def join(self, ranks: Sequence[int]) -> None:
        """Make what `ranks` need to talk to each other. Collective over all ranks."""

    def exchange(self, group: Any, num_bytes: int) -> Callable[[], None]:
        """A call that sends `num_bytes` to the other of the two ranks of `group` and gets them back."""

    def reduce(self, group: Any, num_bytes: int) -> Callable[[], None]:
        """A call that all-reduces 32-bit floats of `num_bytes` over `group`."""

    def settle(self) -> None:
        """Wait until all calls of this rank have really happened."""


class HostMessages:
    """MPI itself, between buffers in the hosts' memory."""

    def join(self, ranks: Sequence[int]) -> None:
        """A communicator is all that MPI needs."""

    def exchange(self, group: Any, num_bytes: int) -> Callable[[], None]:
        """Two blocking messages."""
        buffer, other = np.zeros(num_bytes, dtype=np.uint8), 1 - group.rank

        def once() -> None:
            if group.rank == 0:
                group.Send(buffer, dest=other)
                group.Recv(buffer, source=other)
            else:
                group.Recv(buffer, source=other)
                group.Send(buffer, dest=other)

        return once

    def reduce(self, group: Any, num_bytes: int) -> Callable[[], None]:
        """Into another buffer, so that the numbers stay what they are."""
        send = np.ones(num_bytes // 4, dtype=np.float32)
        receive = np.empty_like(send)
        return lambda: group.Allreduce(send, receive)

    def settle(self) -> None:
        """Blocking calls have happened when they return."""


def measure_links(
    comm: Any, nodes: Sequence[Sequence[int]], effort: Effort, messages: Messages | None = None
) -> dict[str, Any]:
    """The link within a node and the one between nodes, as `hardware.Links`, on rank 0. Collective over `comm`.

    `nodes` are the ranks on each. The first node of several ranks stands for all.
    """
    links: dict[str, Any] = {"intra_node": None, "inter_node": None}
    inside = next((ranks for ranks in nodes if len(ranks) > 1), None)
    if inside is not None:
        links["intra_node"] = measure_link(comm, inside, effort, messages)
    else:
        links["intra_node_reason"] = "one rank per node probed"
    if len(nodes) > 1:
        links["inter_node"] = measure_link(comm, [ranks[0] for ranks in nodes], effort, messages)
    else:
        links["inter_node_reason"] = "one node probed"
    return links


def measure_link(
    comm: Any, members: Sequence[int], effort: Effort, messages: Messages | None = None
) -> dict[str, Any] | None:
    """One link's latency, bandwidth, messages and all-reduces, on rank 0; None elsewhere. Collective over `comm`.

    Messages go between the first two of `members`; all-reduces over the first 2, 4, 8, ... and all of them.
    """
    from mpi4py import MPI

    messages = messages or HostMessages()
    extra = (LARGE_BYTES,) if effort.large else ()
    points: list[dict[str, Any]] = []
    reduced: list[dict[str, Any]] = []
    for count in _counts(len(members)):
        chosen = members[:count]
        messages.join(chosen)
        group = comm.Split(0 if comm.rank in chosen else MPI.UNDEFINED)
        if group != MPI.COMM_NULL:
            timed = partial(_median_s, group, settle=messages.settle, window_s=effort.window_s)
            if count == 2:
                points = [
                    {"bytes": size, "time_s": timed(messages.exchange(group, size)) / 2}
                    for size in MESSAGE_BYTES + extra
                ]
            reduced += [
                {"ranks": count, "bytes": size, "time_s": timed(messages.reduce(group, size))}
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


def _median_s(group: Any, once: Callable[[], None], *, settle: Callable[[], None], window_s: float) -> float:
    """Seconds of `once`: the median over batches, of the slowest rank.

    The first call, in which connections are made, is waited for and not counted. The number of repetitions is rank 0's,
    since all must do the same.
    """
    from mpi4py import MPI

    once()
    settle()
    repeats = group.bcast(max(1, int(window_s / 8 / max(_batch_s(group, once, settle, 2), 1e-7))))
    batches = [_batch_s(group, once, settle, repeats) for _ in range(5)]
    return float(group.allreduce(statistics.median(batches), op=MPI.MAX))


def _batch_s(group: Any, once: Callable[[], None], settle: Callable[[], None], repeats: int) -> float:
    group.Barrier()
    start = time.perf_counter()
    for _ in range(repeats):
        once()
    settle()
    return (time.perf_counter() - start) / repeats
