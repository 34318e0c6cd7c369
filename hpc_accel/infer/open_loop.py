"""Open-loop windows over all replicas: one schedule, whose requests go to the replicas in turn.

Replica k of d serves requests k, k + d, k + 2d, ... as a load balancer that deals them out would; percentiles are those
of all requests together. Each replica counts from its own start after a common barrier, so hosts need no common clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpc_accel.infer.arrivals import schedule_ns
from hpc_accel.infer.queue import Clock, Log, WallClock, serve
from hpc_accel.infer.setup import Session

LEAD_NS = 5_000_000
"""From the barrier to the first possible arrival, so that no replica begins late."""


@dataclass(frozen=True, kw_only=True)
class LoadWindow:
    """All requests of one window in the order of their arrival. `replica` and `warmup` are [num_requests] too."""

    rate_per_s: float
    log: Log
    replica: np.ndarray
    warmup: np.ndarray

    @property
    def counted_ms(self) -> np.ndarray:
        """Latencies without those of the warm-up."""
        return self.log.latency_ms[~self.warmup]


def open_loop(session: Session, rate_per_s: float, num_requests: int, clock: Clock | None = None) -> LoadWindow | None:
    """Serve `num_requests` at `rate_per_s` after the warm-up ones. Collective; the window on rank 0, None elsewhere."""
    infer, layout = session.infer, session.run.layout
    total = infer.warmup_requests + num_requests
    schedule = LEAD_NS + schedule_ns(rate_per_s, total, infer.arrivals, session.run.seed)
    mine = np.arange(session.model.place.dp_rank, total, layout.dp)
    session.comm.Barrier()
    log = session.replica.drive(lambda: _served(session, schedule[mine], mine, clock or WallClock()))
    logs = session.comm.gather((mine, log) if log is not None else None, root=0)
    if session.rank != 0:
        return None
    return _merged(rate_per_s, [each for each in logs if each is not None], total, infer.warmup_requests)


def _served(session: Session, schedule: np.ndarray, numbers: np.ndarray, clock: Clock) -> Log:
    requests = torch.from_numpy(numbers)
    replica = session.replica

    def forward(first: int, count: int) -> None:
        replica.run(session.samples(requests[first : first + count]))

    return serve(schedule, session.infer.batch_size, forward, clock)


def _merged(rate_per_s: float, parts: list[tuple[np.ndarray, Log]], total: int, num_warmup: int) -> LoadWindow:
    columns: dict[str, Any] = {
        name: np.zeros(total, dtype=np.int64) for name in ("scheduled_ns", "started_ns", "ended_ns", "batch")
    }
    replica = np.zeros(total, dtype=np.int64)
    for number, (mine, log) in enumerate(parts):
        replica[mine] = number
        for name, column in columns.items():
            column[mine] = getattr(log, name)
    return LoadWindow(rate_per_s=rate_per_s, log=Log(**columns), replica=replica, warmup=np.arange(total) < num_warmup)
