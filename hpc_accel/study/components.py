"""Runs on nodes that differ: which components a layout takes, which ranks are whose, how fast each part of it is.

Ranks are numbered component after component. A layout takes the first component that holds it; else the first two,
three, ... components, if it fills them.

    components   0: 1 node x 2 ranks   1: 2 nodes x 4 ranks
    2 ranks      all of component 0
    4 or 8       one or both nodes of component 1
    10           both components
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from hpc_accel.study.layout import Layout, Order
from hpc_accel.study.recipe import Precision
from hpc_accel.study.schema import Component, Resources
from hpc_accel.study.study import ResourcesChoice


class Speed(Protocol):
    """How fast one rank of a component computes, as the probe measured it, in any unit that is the same for all."""

    def __call__(self, component: Component, precision: Precision) -> float: ...


def components_of(limits: ResourcesChoice) -> tuple[Component, ...]:
    """The components that a study may use; where it names none, one that is the whole."""
    chosen = limits.components
    if chosen is None:
        keys = ("num_nodes", "ranks_per_node", "gpus_per_node", "cpus_per_rank", "memory_mb", "partition")
        return (Component(**{key: getattr(limits, key) for key in keys}),)
    general = {key: getattr(limits, key) for key in ("cpus_per_rank", "memory_mb", "partition")}
    return tuple(
        Component(number=number, **general | each.model_dump(exclude_none=True)) for number, each in enumerate(chosen)
    )


def taken(num_ranks: int, components: Sequence[Component]) -> tuple[Component, ...]:
    """The components that `num_ranks` take, each as small as holds them. All of them where nothing fits."""
    for component in components:
        per_node = min(num_ranks, component.ranks_per_node)
        if num_ranks <= component.num_ranks and num_ranks % per_node == 0:
            return (_of_size(component, num_ranks // per_node, per_node),)
    count = len(components)
    for count in range(2, len(components) + 1):
        if num_ranks == sum(component.num_ranks for component in components[:count]):
            break
    return tuple(_of_size(component, component.num_nodes, component.ranks_per_node) for component in components[:count])


def place_on_components(num_ranks: int, limits: ResourcesChoice, device: str) -> Resources:
    """What `num_ranks` ask of the site."""
    parts = taken(num_ranks, components_of(limits))
    if device == "cpu":
        parts = tuple(part.model_copy(update={"gpus_per_node": 0}) for part in parts)
    return Resources(
        num_nodes=sum(part.num_nodes for part in parts),
        ranks_per_node=max(part.ranks_per_node for part in parts),
        gpus_per_node=max(part.gpus_per_node for part in parts),
        cpus_per_rank=min(part.cpus_per_rank for part in parts),
        memory_mb=min(part.memory_mb for part in parts),
        time_limit_min=limits.time_limit_min,
        partition=parts[0].partition,
        components=parts,
    )


def _of_size(component: Component, num_nodes: int, ranks_per_node: int) -> Component:
    """With a GPU for each rank, if its nodes have GPUs."""
    gpus = ranks_per_node if component.gpus_per_node else 0
    size = {"num_nodes": num_nodes, "ranks_per_node": ranks_per_node, "gpus_per_node": gpus}
    return component.model_copy(update=size)


def rank_counts(components: Sequence[Component]) -> tuple[int, ...]:
    """Numbers of ranks that `taken` places without a rest, ascending."""
    counts = set(itertools.accumulate(each.num_ranks for each in components))
    for each in components:
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


def replica_speeds(fields: dict[str, Any], limits: ResourcesChoice, speed: Callable[[Component], float]) -> list[float]:
    """How fast each data-parallel replica of a layout (by its `fields`) is: what its ranks compute together."""
    dp, pp, tp, order = (fields[key] for key in ("dp", "pp", "tp", "order"))
    parts = taken(dp * pp * tp, components_of(limits))
    if len(parts) == 1:
        return [1.0] * int(dp)
    known = {part.number: speed(part) for part in parts}
    speeds = [0.0] * int(dp)
    for component, (replica, _) in zip(owners(parts), coordinates(dp, pp, tp, order), strict=False):
        speeds[replica] += known[component.number]
    return speeds


def stage_speeds(layout: Layout, parts: Sequence[Component], speed: Callable[[Component], float]) -> list[float]:
    """How fast each stage is: what the ranks that hold it compute together."""
    known = {part.number: speed(part) for part in parts}
    ranks = [0.0] * layout.pp
    places = coordinates(layout.dp, layout.pp, layout.tp, layout.order)
    for component, (_, pp_rank) in zip(owners(parts), places, strict=False):
        ranks[pp_rank] += known[component.number]
    speeds = [0.0] * layout.num_stages
    for pp_rank, stages in enumerate(layout.stages):
        for stage in stages:
            speeds[stage] = ranks[pp_rank]
    return speeds


def owners(parts: Sequence[Component]) -> Iterator[Component]:
    """The component of each rank, in the order of ranks."""
    for component in parts:
        yield from itertools.repeat(component, component.num_ranks)
