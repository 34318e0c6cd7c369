"""Ranks for test_trace.py: wrong clocks on purpose, one message around the ring at a known moment, one trace.

The group numbers its ranks backwards. argv: directory. Odd ranks' clocks are ahead by an hour and a rank's seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from array import array
from dataclasses import dataclass
from pathlib import Path

from mpi4py import MPI

comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
SKEW_NS = 3_600_000_000_000 + rank * 1_000_000_000 if rank % 2 else 0
os.environ.update(HPC_ACCEL_TESTING="1", HPC_ACCEL_CLOCK_SKEW_NS=str(SKEW_NS))

from hpc_accel.measure import clock, provenance, trace  # noqa: E402
from hpc_accel.measure.energy.power_samples import PowerSeries  # noqa: E402


@dataclass(frozen=True)
class Span:
    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Event:
    op: str
    group: str
    num_bytes: int
    peer: int | None
    enqueued_ns: int
    started_ns: int
    ended_ns: int


first = clock.synchronise(comm)
begin_ns = clock.now_ns()
token = array("q", [rank])
received = array("q", [-1])
comm.Barrier()
barrier_ns = clock.now_ns()
comm.Sendrecv(token, dest=(rank + 1) % size, recvbuf=received, source=(rank - 1) % size)
end_ns = clock.now_ns() + 1_000_000
events = [
    Event("send", "ring", 8, size - 1 - (rank + 1) % size, barrier_ns, barrier_ns, end_ns),
    Event("recv", "ring", 8, size - 1 - (rank - 1) % size, barrier_ns, barrier_ns, end_ns),
    Event("allreduce", "world", 4096, None, barrier_ns, barrier_ns + 1000, end_ns + 5000),
]
spans = [Span("step", begin_ns, end_ns), Span("forward", begin_ns, barrier_ns), Span("backward", barrier_ns, end_ns)]
middle_ns = (begin_ns + end_ns) // 2
power = [
    PowerSeries(
        name="rapl package-0", node="n", scope="cpu-package",
        times_ns=array("q", [begin_ns - 10**9, middle_ns]), powers_w=array("d", [1.0, 100.0]),
    )
] if rank == 0 else []  # fmt: skip
time.sleep(0.2)
timebase = clock.Timebase(first=first, last=clock.synchronise(comm))
path = Path(sys.argv[1]) / "trace.json"
groups = {"ring": list(reversed(range(size)))}
reason = trace.write(path, comm, spans, events, power, timebase, group_ranks=groups)
thin = trace.write(path.with_name("thin.json"), comm, spans, events, offsets=first, max_ranks=1, max_events=2)
nowhere = trace.write(path / "no" / "where.json", comm, spans, events, offsets=first)
hosts = provenance.hosts(comm)
report = {
    "offset_ns": first.offset_ns + SKEW_NS,
    "error_ns": first.error_ns,
    "reasons": [reason, thin, nowhere],
    "hosts": hosts,
}
reports = comm.gather(report)
if rank == 0:
    print(json.dumps(reports))
