"""Measure messages between GPUs through the backend of torch.distributed that a study's runs will use.

MPI itself carries host memory here. A run on GPUs sends device memory: mpi4py through copies to the host and back, nccl
past the host altogether, so neither takes as long as MPI alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from hpc_accel.probe.machine import Place
from hpc_accel.probe.network import Effort, measure_links
from hpc_accel.study.run import Backend


def backend_links(
    world: Any, nodes: Sequence[Sequence[int]], place: Place, backend: Backend, effort: Effort
) -> dict[str, Any]:
    """`on_device` of the network, or `on_device_reason`. Collective over `world`.

    torch.distributed is started for it, and stopped again unless it ran before.
    """
    why = untimed(world.size, place, backend)
    if why is not None:
        return {"on_device_reason": {backend: why}}
    import hpc_accel.mpi

    started = not dist.is_initialized()
    if started:
        hpc_accel.mpi.init(backend)
    # Gradients travel in buckets of 25 MiB, where a GPU's links are still gaining speed.
    links = measure_links(world, nodes, replace(effort, large=True), DeviceMessages(place.device))
    if started:
        hpc_accel.mpi.shutdown()
    return {"on_device": {backend: links}}


def untimed(num_ranks: int, place: Place, backend: Backend) -> str | None:
    """Why messages of `backend` are not timed; None if they can be. The same on all ranks."""
    if num_ranks == 1:
        return "one rank probed"
    if len(place.uuids) < num_ranks:
        return "ranks compute on CPUs beside GPUs"
    if backend == "gloo":
        return "gloo sends no messages between GPUs"
    if backend == "nccl" and len(set(place.uuids)) < num_ranks:
        return "nccl wants a GPU for each rank"
    return None


class DeviceMessages:
    """torch.distributed's default backend, between tensors on `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._ranks: Sequence[int] = ()
        self._group: Any = None

    def join(self, ranks: Sequence[int]) -> None:
        """A group of torch's; the one before is not needed any more."""
        self._ranks, self._group = sorted(ranks), dist.new_group(sorted(ranks))

    def exchange(self, group: Any, num_bytes: int) -> Callable[[], None]:
        """Two messages, the second of which is sent when the first has come."""
        buffer = torch.zeros(num_bytes, dtype=torch.uint8, device=self.device)
        own, peers = self._group, self._ranks
        is_first, other = group.rank == 0, peers[1 - group.rank]

        def once() -> None:
            if is_first:
                dist.send(buffer, other, group=own)
                dist.recv(buffer, other, group=own)
            else:
                dist.recv(buffer, other, group=own)
                dist.send(buffer, other, group=own)

        return once

    def reduce(self, group: Any, num_bytes: int) -> Callable[[], None]:
        """In place, as gradients are; of zeros, which stay so however often they are added up."""
        values, own = torch.zeros(num_bytes // 4, device=self.device), self._group
        return lambda: dist.all_reduce(values, group=own)

    def settle(self) -> None:
        """Work queued on a GPU has not happened when the call returns."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
