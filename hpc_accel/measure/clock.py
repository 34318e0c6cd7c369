"""One clock for all ranks: how far this rank's clock is from rank 0's, and how sure that is.

Every rank keeps time with `time.perf_counter_ns`, which starts anew with each host. Ranks of one host share
it exactly. Between hosts, one rank each exchanges messages: the child sends, the parent answers with its
time, and of several rounds the quickest is kept: the answer was written somewhere within it, so half its
duration is the error.

    round 1:  0 <- 1          round 2:  0 <- 2, 1 <- 3          round 3:  0 <- 4, 1 <- 5, 2 <- 6, 3 <- 7

Parents already know their own offset, so log2(n) rounds do, and errors add along at most log2(n) edges.
All ranks take part. Clocks drift (up to 500 ppm while they are slewed): measure at both ends of a long run
and let `Timebase` interpolate.
"""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_accel.measure import host

NUM_PINGS = 20
_TAG = 7411


@dataclass(frozen=True, kw_only=True, slots=True)
class ClockOffset:
    """Add `offset_ns` to this rank's clock to get rank 0's, right to within `error_ns`; true at `at_ns` (own clock)."""

    offset_ns: int
    error_ns: int
    at_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Timebase:
    """This rank's clock against rank 0's over a run, from one measurement or from one at each end."""

    first: ClockOffset
    last: ClockOffset | None = None

    def common_ns(self, own_ns: int) -> int:
        """A time of this rank's clock, on rank 0's clock."""
        if self.last is None or self.last.at_ns <= self.first.at_ns:
            return own_ns + self.first.offset_ns
        share = (own_ns - self.first.at_ns) / (self.last.at_ns - self.first.at_ns)
        return own_ns + self.first.offset_ns + round(share * (self.last.offset_ns - self.first.offset_ns))

    @property
    def error_ns(self) -> int:
        """The larger of the errors at both ends."""
        return max(self.first.error_ns, self.last.error_ns if self.last else 0)


def _skew_ns() -> int:
    """A wrong clock, for tests."""
    return int(host.pretended("HPC_ACCEL_CLOCK_SKEW_NS") or 0)


def now_ns() -> int:
    """This rank's clock."""
    return time.perf_counter_ns() + _skew_ns()


def _identity() -> str:
    """Equal for processes whose clock is the same: the node, and the time namespace within it."""
    try:
        namespace = str(Path("/proc/self/ns/time").readlink())
    except OSError:
        namespace = ""
    return f"{host.node_id()}/{namespace}/{_skew_ns()}"


def synchronise(comm: Any) -> ClockOffset:
    """Measure the offset to rank 0 of `comm`; all ranks take part, in log2(number of hosts) rounds."""
    from mpi4py import MPI

    shared = comm.Split_type(MPI.COMM_TYPE_SHARED, comm.Get_rank())
    identities = shared.allgather(_identity())
    node = shared.Split(identities.index(_identity()), shared.Get_rank())
    leaders = comm.Split(0 if node.Get_rank() == 0 else MPI.UNDEFINED, comm.Get_rank())
    found: tuple[int, int] | None = None
    if leaders != MPI.COMM_NULL:
        found = _along_tree(leaders)
        leaders.Free()
    offset_ns, error_ns = node.bcast(found, root=0)
    node.Free()
    shared.Free()
    return ClockOffset(offset_ns=offset_ns, error_ns=error_ns, at_ns=now_ns())


def _along_tree(comm: Any) -> tuple[int, int]:
    """Offset and error of this rank by the binomial tree of the drawing above."""
    rank, size = comm.Get_rank(), comm.Get_size()
    offset_ns, error_ns = 0, 0
    reach = 1
    while reach < size:
        if rank < reach:
            if rank + reach < size:
                _answer(comm, rank + reach, offset_ns, error_ns)
        elif rank < 2 * reach:
            offset_ns, error_ns = _ask(comm, rank - reach)
        reach *= 2
    return offset_ns, error_ns


def _answer(comm: Any, child: int, offset_ns: int, error_ns: int) -> None:
    """Parent: answer each ping with the time on rank 0's clock, and say how sure that is."""
    ping, reply = array("q", [0]), array("q", [0, 0])
    for _ in range(NUM_PINGS):
        comm.Recv(ping, source=child, tag=_TAG)
        reply[0], reply[1] = now_ns() + offset_ns, error_ns
        comm.Send(reply, dest=child, tag=_TAG)


def _ask(comm: Any, parent: int) -> tuple[int, int]:
    """Child: the quickest of several exchanges bounds the offset best."""
    ping, reply = array("q", [0]), array("q", [0, 0])
    best: tuple[int, int] | None = None
    for _ in range(NUM_PINGS):
        sent_ns = now_ns()
        comm.Send(ping, dest=parent, tag=_TAG)
        comm.Recv(reply, source=parent, tag=_TAG)
        received_ns = now_ns()
        half_ns = (received_ns - sent_ns + 1) // 2
        if best is None or half_ns + reply[1] < best[1]:
            best = (reply[0] - (sent_ns + received_ns) // 2, half_ns + reply[1])
    assert best is not None
    return best
