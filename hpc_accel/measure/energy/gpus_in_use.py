"""Which GPUs of a node the run's ranks compute on: only those belong to its total.

A node may show more GPUs than a run uses: it is shared, or one allocation serves runs of different sizes, and a run on
one GPU must not pay for the three that idle beside it. Ranks name their GPU by UUID, as torch gives it; sources that
name GPUs otherwise leave it open whose they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hpc_accel.measure.energy.nodes import Nodes
from hpc_accel.measure.energy.scopes import GPU_SCOPES
from hpc_accel.measure.energy.sensors.sensor import SensorInfo


def uuid_of(device: Any) -> str:
    """The GPU behind a torch.device as NVML names it; empty for the CPU."""
    if device.type != "cuda":
        return ""
    return f"GPU-{sys.modules['torch'].cuda.get_device_properties(device).uuid}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Users:
    """UUIDs of the GPUs that ranks compute on: those of this node and those of all; None where one did not say."""

    node: frozenset[str] | None
    world: frozenset[str] | None


def gather(nodes: Nodes, uuid: str | None) -> Users:
    """What all ranks say; `uuid` is empty for one without a GPU, None for one that does not know. Collective."""
    mine = nodes.to_node(nodes.within_node(uuid))
    every = nodes.to_all([one for node in nodes.across_nodes(mine) for one in node])
    return Users(node=_named(mine), world=_named(every))


def _named(uuids: Iterable[str | None]) -> frozenset[str] | None:
    found = list(uuids)
    return None if None in found else frozenset(uuid for uuid in found if uuid)


def by_key(infos: Iterable[SensorInfo], users: Users) -> dict[str, bool | None]:
    """For each sensor of this node by its key: whether a rank computes on it; None where it is no GPU or not known.

    A GPU is idle only if all GPUs the node's ranks name were found: else one of the others may be theirs under another
    name. A GPU of another node's rank is seen here where two containers share a machine.
    """
    found = list(infos)
    keys = {info.key for info in found}
    if users.node is None or users.world is None:
        return {info.key: None if info.is_ours else False for info in found}
    all_found = users.node <= keys
    used: dict[str, bool | None] = {}
    for info in found:
        is_idle = not info.is_ours or (info.scope in GPU_SCOPES and all_found)
        used[info.key] = True if info.key in users.world else False if is_idle else None
    return used
