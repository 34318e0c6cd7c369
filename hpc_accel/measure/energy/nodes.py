"""Who sits where, and who reads what: every physical sensor of a node gets one owner among its ranks.

Ranks of one node see the same counters, or each only its own GPU. What they found is gathered within the
node, the union taken by key, and the lowest rank that can read a sensor owns it. Only node leaders talk
across nodes: rank 0 hears from each node, not from each rank. All methods are collective.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hpc_accel.measure import host
from hpc_accel.measure.energy.sensors.sensor import SensorInfo


class Nodes:
    """The ranks of `comm` by node; `comm` None is one process by itself."""

    def __init__(self, comm: Any) -> None:
        self.node_id, self.boot_id = host.node_id(), host.boot_id()
        self._world = self._node = self._leaders = None
        if comm is None:
            return
        from mpi4py import MPI

        self._world = comm.Dup()
        rank = comm.Get_rank()
        shared = comm.Split_type(MPI.COMM_TYPE_SHARED, rank)
        identities = shared.allgather(self.node_id)
        self._node = shared.Split(identities.index(self.node_id), rank)
        shared.Free()
        leaders = comm.Split(0 if self._node.Get_rank() == 0 else MPI.UNDEFINED, rank)
        self._leaders = None if leaders == MPI.COMM_NULL else leaders

    @property
    def num_ranks(self) -> int:
        """Ranks of all nodes."""
        return 1 if self._world is None else int(self._world.Get_size())

    @property
    def node_rank(self) -> int:
        """This rank's number within its node."""
        return 0 if self._node is None else int(self._node.Get_rank())

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0 of all."""
        return self._world is None or self._world.Get_rank() == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self._world is not None:
            self._world.Barrier()

    def within_node(self, value: Any) -> list[Any]:
        """The values of all ranks of this node, at its leader; elsewhere an empty list."""
        if self._node is None:
            return [value]
        return self._node.gather(value, root=0) or []

    def to_node(self, value: Any) -> Any:
        """The leader's value, on all ranks of its node."""
        return value if self._node is None else self._node.bcast(value, root=0)

    def across_nodes(self, value: Any) -> list[Any]:
        """The leaders' values, at rank 0; elsewhere an empty list."""
        if self._world is None:
            return [value]
        return (self._leaders.gather(value, root=0) or []) if self._leaders is not None else []

    def to_all(self, value: Any) -> Any:
        """Rank 0's value, everywhere."""
        return value if self._world is None else self._world.bcast(value, root=0)

    def free(self) -> None:
        """Give the communicators back; collective."""
        for comm in (self._leaders, self._node, self._world):
            if comm is not None:
                comm.Free()
        self._world = self._node = self._leaders = None


def assign(found: Iterable[Iterable[SensorInfo]]) -> tuple[dict[str, int], list[SensorInfo]]:
    """Owners by key and the union of what the ranks of one node found, one entry per physical sensor.

    A sensor some rank can read wins over the same one closed to another rank. Ranks that disagree about
    what a key measures make it unreadable: better no figure than one of two meanings.
    """
    owners: dict[str, int] = {}
    union: dict[str, SensorInfo] = {}
    disagreed: dict[str, str] = {}
    for rank, sensors in enumerate(found):
        for info in sensors:
            known = union.get(info.key)
            if known is None or (info.is_available and not known.is_available):
                union[info.key] = info
                if info.is_available:
                    owners[info.key] = rank
            elif info.is_available and (info.scope, info.kind) != (known.scope, known.kind):
                disagreed[info.key] = f"{info.key}: ranks read it as {known.scope} ({known.kind}) and {info.scope}"
    for key, reason in disagreed.items():
        del owners[key]
        union[key] = replace(union[key], reason=reason)
    return owners, _without_empty_sources(union)


def _without_empty_sources(union: dict[str, SensorInfo]) -> list[SensorInfo]:
    """Drop "there is none" of a source of which another rank has some."""
    present = {info.source for info in union.values() if info.is_present}
    return [info for info in union.values() if info.is_present or info.source not in present]
