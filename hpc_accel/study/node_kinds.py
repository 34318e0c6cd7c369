"""Runs on nodes that differ: which node kinds a layout takes, which ranks are whose, how fast each part of it is.

Ranks are numbered node kind after node kind. A layout takes the first node kind that holds it; else the first two,
three, ... node kinds, if it fills them.

    node kinds   0: 1 node x 2 ranks   1: 2 nodes x 4 ranks
    2 ranks      all of node kind 0
    4 or 8       one or both nodes of node kind 1
    10           both node kinds
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from hpc_accel.study.layout import Layout, Order
from hpc_accel.study.recipe import Precision
from hpc_accel.study.run import NodeKind, Resources
from hpc_accel.study.study_file import NodeKindChoice, ResourcesChoice


class Speed(Protocol):
    """How fast one rank of a node kind computes, as the probe measured it, in any unit that is the same for all."""

    def __call__(self, node_kind: NodeKind, precision: Precision) -> float: ...


def node_kinds_of(limits: ResourcesChoice) -> tuple[NodeKind, ...]:
    """The node kinds that a study may use; where it names none, one that is the whole."""
    chosen = limits.node_kinds
    if chosen is None:
        return (NodeKind(**limits.shape),)
    general = {key: limits.shape[key] for key in ("cpus_per_rank", "memory_mb", "partition")}
    return tuple(
        NodeKind(number=number, **general | each.model_dump(exclude_none=True) | _said_memory(each))
        for number, each in enumerate(chosen)
    )


def _said_memory(each: NodeKindChoice) -> dict[str, Any]:
    """A node kind's own `memory_mb`, also where that is null: not asked for."""
    return each.model_dump(include={"memory_mb"} & each.model_fields_set)


def least_memory_mb(asked: Iterable[int | None]) -> int | None:
    """The least of several `memory_mb`, of which 0 and None are no limits."""
    values = list(asked)
    return min(filter(None, values), default=values[0])


def taken(num_ranks: int, node_kinds: Sequence[NodeKind]) -> tuple[NodeKind, ...]:
    """The node kinds that `num_ranks` take, each as small as holds them. All of them where nothing fits."""
    for node_kind in node_kinds:
        per_node = min(num_ranks, node_kind.ranks_per_node)
        if num_ranks <= node_kind.num_ranks and num_ranks % per_node == 0:
            return (_of_size(node_kind, num_ranks // per_node, per_node),)
    count = len(node_kinds)
    for count in range(2, len(node_kinds) + 1):
        if num_ranks == sum(node_kind.num_ranks for node_kind in node_kinds[:count]):
            break
    return tuple(_of_size(node_kind, node_kind.num_nodes, node_kind.ranks_per_node) for node_kind in node_kinds[:count])


def place_on_node_kinds(num_ranks: int, limits: ResourcesChoice, device: str) -> Resources:
    """What `num_ranks` ask of the site."""
    parts = taken(num_ranks, node_kinds_of(limits))
    if device == "cpu":
        parts = tuple(part.model_copy(update={"gpus_per_node": 0}) for part in parts)
    return Resources(
        num_nodes=sum(part.num_nodes for part in parts),
        ranks_per_node=max(part.ranks_per_node for part in parts),
        gpus_per_node=max(part.gpus_per_node for part in parts),
        cpus_per_rank=min(part.cpus_per_rank for part in parts),
        memory_mb=least_memory_mb(part.memory_mb for part in parts),
        **limits.of_each_run,
        partition=parts[0].partition,
        node_kinds=parts,
    )


def _of_size(node_kind: NodeKind, num_nodes: int, ranks_per_node: int) -> NodeKind:
    """With a GPU for each rank, if its nodes have GPUs."""
    gpus = ranks_per_node if node_kind.gpus_per_node else 0
    size = {"num_nodes": num_nodes, "ranks_per_node": ranks_per_node, "gpus_per_node": gpus}
    return node_kind.model_copy(update=size)


def rank_counts(node_kinds: Sequence[NodeKind]) -> tuple[int, ...]:
    """Numbers of ranks that `taken` places without a rest, ascending."""
    counts = set(itertools.accumulate(each.num_ranks for each in node_kinds))
    for each in node_kinds:
        counts |= set(range(1, each.ranks_per_node))
        counts |= {nodes * each.ranks_per_node for nodes in range(1, each.num_nodes + 1)}
    return tuple(sorted(counts))


def coordinates(dp: int, pp: int, tp: int, order: Order = "pp.dp.tp") -> Iterator[tuple[int, int]]:
    """(replica, pipeline rank) of each rank."""
    sizes = {"dp": dp, "pp": pp, "tp": tp}
    names = order.split(".")
    for place in itertools.product(*(range(sizes[name]) for name in names)):
        at = dict(zip(names, place, strict=True))
        yield at["dp"], at["pp"]


def replica_speeds(fields: dict[str, Any], limits: ResourcesChoice, speed: Callable[[NodeKind], float]) -> list[float]:
    """How fast each data-parallel replica of a layout (by its `fields`) is: what its ranks compute together."""
    dp, pp, tp, order = (fields[key] for key in ("dp", "pp", "tp", "order"))
    parts = taken(dp * pp * tp, node_kinds_of(limits))
    if len(parts) == 1:
        return [1.0] * int(dp)
    known = {part.number: speed(part) for part in parts}
    speeds = [0.0] * int(dp)
    for node_kind, (replica, _) in zip(owners(parts), coordinates(dp, pp, tp, order), strict=False):
        speeds[replica] += known[node_kind.number]
    return speeds


def stage_speeds(layout: Layout, parts: Sequence[NodeKind], speed: Callable[[NodeKind], float]) -> list[float]:
    """How fast each stage is: what the ranks that hold it compute together."""
    known = {part.number: speed(part) for part in parts}
    ranks = [0.0] * layout.pp
    places = coordinates(layout.dp, layout.pp, layout.tp, layout.order)
    for node_kind, (_, pp_rank) in zip(owners(parts), places, strict=False):
        ranks[pp_rank] += known[node_kind.number]
    speeds = [0.0] * layout.num_stages
    for pp_rank, stages in enumerate(layout.stages):
        for stage in stages:
            speeds[stage] = ranks[pp_rank]
    return speeds


def owners(parts: Sequence[NodeKind]) -> Iterator[NodeKind]:
    """The node kind of each rank, in the order of ranks."""
    for node_kind in parts:
        yield from itertools.repeat(node_kind, node_kind.num_ranks)
