"""What the links between nodes allow: their rate by TCP, and the bytes that a node really sent.

An all-reduce of N bytes over n nodes must send 2 N (n - 1) / n bytes out of every node and take as many in (Patarasu
and Yuan, J. Parallel Distrib. Comput. 69, 2009); links carry both directions at once. That over the rate is the least
time, whatever the library.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_accel.mpi.launch import World

SECONDS = 1.5
"""Of sending; a token bucket in the way has long been emptied by then."""
TIMEOUT_S = 30.0
CHUNK = bytes(1 << 20)


@dataclass(frozen=True, kw_only=True)
class Wire:
    """The slowest node's link."""

    num_nodes: int
    bytes_per_s: float

    def all_reduce_bytes(self, num_bytes: int) -> float:
        """What each node must send for an all-reduce of `num_bytes`."""
        return 2 * num_bytes * (self.num_nodes - 1) / self.num_nodes

    def all_reduce_s(self, num_bytes: int) -> float:
        """The least time of an all-reduce of `num_bytes`."""
        return self.all_reduce_bytes(num_bytes) / self.bytes_per_s


def measure(world: World, comm: Any) -> Wire | None:
    """Each node's first rank sends to the next node's by TCP, all at once. Collective; None on a single node."""
    if world.num_nodes == 1:
        return None
    leads = world.local_rank == 0
    with socket.create_server(("", 0)) as server:
        server.settimeout(TIMEOUT_S)  # a node that its neighbour does not reach must not wait for ever
        ports = comm.allgather(server.getsockname()[1] if leads else 0)
        told = zip(ports, world.host_of_rank, strict=True)
        leaders = [(host, port) for port, host in told if port]
        rate = _ring(server, leaders[(world.node_rank + 1) % len(leaders)]) if leads else float("inf")
    return Wire(num_nodes=world.num_nodes, bytes_per_s=min(comm.allgather(rate)))


def _ring(server: socket.socket, to: tuple[str, int]) -> float:
    """Bytes per second that this node received while it sent to the next."""
    sender = threading.Thread(target=_send, args=(to,), daemon=True)
    sender.start()
    connection, _ = server.accept()
    with connection:
        received, began = 0, time.perf_counter()
        while piece := connection.recv(len(CHUNK)):
            received += len(piece)
        took = time.perf_counter() - began
    sender.join()
    return received / took


def _send(to: tuple[str, int]) -> None:
    end = time.perf_counter() + SECONDS
    with socket.create_connection(to, timeout=TIMEOUT_S) as out:
        while time.perf_counter() < end:
            out.sendall(CHUNK)


def sent_bytes(text: str | None = None) -> int:
    """What this node's interfaces have sent so far, loopback left out, as the kernel counts it.

    Fabrics that bypass the kernel (InfiniBand) are not in it.
    """
    lines = (text if text is not None else Path("/proc/net/dev").read_text()).splitlines()[2:]
    fields = [line.partition(":")[::2] for line in lines]
    return sum(int(counts.split()[8]) for name, counts in fields if name.strip() != "lo")
