"""How ranks find each other: MPI carries the address of torch's store, so no MASTER_ADDR is needed.

Torch's groups want a key-value store even where MPI needs none. Rank 0 opens one on a free port and MPI broadcasts
the address. `env://` (torch's default) falls back to this when the variables it needs are not set.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn

import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout
from torch.distributed.rendezvous import _rendezvous_handlers as handlers

from hpc_accel.mpi.launch import World, job, mpi, refuse_copies, world

ENV_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
Rendezvous = Iterator[tuple[dist.Store, int, int]]


def init(backend: str = "mpi4py", *, timeout_s: float = 1800, expected_size: int | None = None) -> World:
    """Meet over MPI and make the default process group of `backend` (mpi4py, gloo or nccl). All ranks call this."""
    place = world()
    refuse_copies(place.size, expected_size)
    os.environ.setdefault("LOCAL_RANK", str(place.local_rank))
    os.environ.setdefault("LOCAL_WORLD_SIZE", str(place.local_size))
    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group(
        backend, store=make_store(place, timeout), rank=place.rank, world_size=place.size, timeout=timeout
    )
    return place


def shutdown() -> None:
    """Destroy all groups, if there are any. MPI itself ends with the interpreter. All ranks call this."""
    if dist.is_initialized():
        dist.destroy_process_group()


def abort(exit_code: int) -> NoReturn:
    """End the job on all ranks at once. For an error that was caught, reported, and that the others cannot know of."""
    sys.stdout.flush()
    sys.stderr.flush()
    mpi().COMM_WORLD.Abort(exit_code)
    raise SystemExit(exit_code)


def make_store(place: World, timeout: timedelta) -> dist.Store:
    """A store on rank 0 whose address all ranks learn over MPI. Collective over `job()`."""
    store: dist.Store | None = None
    if place.rank == 0:
        store = dist.TCPStore(_own_address(place), 0, None, True, timeout, wait_for_workers=False)
    address = (store.host, store.port) if isinstance(store, dist.TCPStore) else None
    host, port = job().bcast(address, root=0)
    if store is None:
        store = dist.TCPStore(host, port, None, False, timeout, wait_for_workers=False)
    return store


def _own_address(place: World) -> str:
    """An address of this node that the other nodes reach."""
    if place.num_nodes == 1:
        return "127.0.0.1"
    if os.environ.get("MASTER_ADDR"):
        return os.environ["MASTER_ADDR"]
    # The route to another node tells the interface; no packet is sent for a datagram socket's connect.
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((next(host for host in place.hosts if host != socket.gethostname()), 9))
            return str(probe.getsockname()[0])
    except (OSError, StopIteration):
        return socket.gethostname()


def over_mpi(url: str, timeout: timedelta = default_pg_timeout, **_: Any) -> Rendezvous:
    """Torch's rendezvous handler for `mpi4py://` and, without its variables, for `env://`."""
    place = world()
    yield make_store(place, timeout), place.rank, place.size
    raise RuntimeError("a job under MPI keeps its ranks: it cannot meet again under other ones")


def register_rendezvous() -> None:
    """Add `mpi4py://`, and make `env://` meet over MPI when none of its variables is set."""
    handlers["mpi4py"] = over_mpi
    handlers["env"] = _with_fallback(handlers["env"])


def _with_fallback(env_handler: Callable[..., Rendezvous]) -> Callable[..., Rendezvous]:
    def env(url: str, timeout: timedelta = default_pg_timeout, **kwargs: Any) -> Rendezvous:
        explicit = "rank=" in url or "world_size=" in url
        if explicit or any(name in os.environ for name in ENV_VARIABLES):
            return env_handler(url, timeout=timeout, **kwargs)
        return over_mpi(url, timeout=timeout)

    return env
