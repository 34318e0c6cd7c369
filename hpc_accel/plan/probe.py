"""Measure the machine a study will run on, and write hardware.json.

Run on all ranks under mpirun, or on one rank without it. First 1, 2, 4, ... ranks of every node compute at once (with
more ranks than cores that is what decides), then messages are timed within a node and between nodes.
"""

from __future__ import annotations

import datetime
import json
import socket
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.files import write_atomically
from hpc_accel.measure import provenance
from hpc_accel.plan import probe_network
from hpc_accel.plan.hardware import checked_hardware
from hpc_accel.plan.probe_machine import (
    Power,
    memory_bytes,
    mpi_facts,
    node_facts,
    pick_device,
    power_facts,
    resident_bytes,
)
from hpc_accel.study.schema import Component
from hpc_accel.train.threads import threads_per_rank


def run(
    out: Path,
    *,
    site: str,
    quick: bool = True,
    cpus_per_rank: int = 1,
    components: Sequence[Component] | None = None,
) -> dict[str, Any]:
    """Measure and write `out`; the content on rank 0, empty elsewhere. Collective over COMM_WORLD.

    `quick` takes about ten seconds on two cores; otherwise more shapes and sizes are measured for longer.
    `cpus_per_rank` is the study's, which a Slurm job's ranks compute with; elsewhere they share the cores evenly.
    Of a study whose nodes differ, `components` say which ranks are whose, and how many CPUs theirs have.
    Raises ConfigError when there are not as many ranks as the components have, and what `write_atomically` raises when
    the file cannot be written.
    """
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    component = _component(world, components)
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    # Components may share a machine, as a CPU beside a GPU does; they are measured each by itself.
    alike = node.Split(component.number if component else 0)
    power = Power(world)
    cpus = component.cpus_per_rank if component else cpus_per_rank
    gathered = world.gather(
        {"component": component.number if component else None, **_speeds(world, node, alike, power, cpus, quick=quick)},
        root=0,
    )
    alike.Free()
    network = _network(world, node, quick=quick)
    ranks_per_node = node.size
    node.Free()
    if gathered is None or network is None:
        return {}
    kinds = _merge(gathered)
    facts = power_facts(power.energy, _num_nodes(gathered))
    if len(kinds) > 1 and facts["power_w"] is not None:
        facts = {"power_w": None, "power_w_reason": "the sensors' window is of several kinds of nodes together"}
    kinds = [kind | facts for kind in kinds]
    content = {
        "format": 1,
        "site": site,
        "created_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "num_nodes": _num_nodes(gathered),
        "ranks_per_node": ranks_per_node,
        "node_kinds": kinds,
        "network": network,
        "mpi": mpi_facts(kinds[0]["device"]),
        "sensors": power.sensors,
        "provenance": provenance.collect(),
    }
    checked_hardware(content, where="the probe's result")
    write_atomically(out, json.dumps(content, indent=1) + "\n")
    return content


def _component(world: Any, components: Sequence[Component] | None) -> Component | None:
    """This rank's component. Ranks are numbered component after component."""
    if components is None:
        return None
    ranks = [part for part in components for _ in range(part.num_ranks)]
    if len(ranks) != world.size:
        raise ConfigError(
            f"{world.size} rank(s) probe components of {len(ranks)}",
            "the probe runs on all ranks of all components, in their order",
            "start it by its script: hpc-accel script --probe STUDY",
        )
    return ranks[world.rank]


def _speeds(world: Any, machine: Any, node: Any, power: Power, cpus_per_rank: int, *, quick: bool) -> dict[str, Any]:
    """This rank's speed while 1, 2, 4, ... ranks of each node compute, as many as it is one of. Collective.

    `node` has the ranks of `machine` that are of this rank's component: all of them, where nodes are alike.
    """
    import torch

    from hpc_accel.plan.probe_compute import effort_for, fixed_product_s, measure_level
    from hpc_accel.plan.probe_products import precisions_for

    resident = resident_bytes()
    device = pick_device(node.rank)
    kind = node_facts(device, node)
    levels: list[dict[str, Any]] = []
    own = _counts(node.size)
    # Where nodes differ in size, the small ones begin later, so that in the last round all ranks compute.
    rounds = [None] * (max(world.allgather(len(own))) - len(own)) + own
    for number, count in enumerate(rounds, 1):
        takes_part = count is not None and node.rank < count
        beside = machine.allreduce(int(takes_part))
        if count is not None:
            torch.set_num_threads(threads_per_rank(beside, cpus_per_rank))
            crowded = beside * torch.get_num_threads() > kind["num_cpus"]
            effort = effort_for(device, quick=quick, crowded=crowded)
        working = world.Split(0 if takes_part else 1)
        with power if number == len(rounds) else nullcontext():
            if takes_part:
                # Sleeping, because on a node with more ranks than cores a spinning rank would be measured too.
                levels.append({"ranks": count, **measure_level(device, effort, partial(probe_network.rest, working))})
            probe_network.rest(world)
        working.Free()
    alone_s = fixed_product_s(device, effort) if node.rank == 0 else None
    probe_network.rest(world)
    together_s = fixed_product_s(device, effort)
    return {
        "kind": kind,
        "reasons": precisions_for(device)[1],
        "host": socket.gethostname(),
        "memory": memory_bytes(),
        "levels": levels,
        "slowdown": together_s / alone_s if alone_s else None,
        "resident": resident,
    }


def _counts(size: int) -> list[int]:
    """1, 2, 4, ... and `size`."""
    return sorted({*(2**i for i in range(size.bit_length()) if 2**i <= size), size})


def _num_nodes(ranks: list[dict[str, Any]]) -> int:
    return len({rank["host"] for rank in ranks})


def _merge(ranks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per kind of node; every figure is that of its slowest rank, which a step waits for."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for rank in ranks:
        by_kind.setdefault(json.dumps([rank.get("component"), rank["kind"]]), []).append(rank)
    kinds = []
    for alike in by_kind.values():
        counts = sorted({level["ranks"] for rank in alike for level in rank["levels"]})
        levels = [
            _slowest([level for rank in alike for level in rank["levels"] if level["ranks"] == count])
            for count in counts
        ]
        hosts = sorted({rank["host"] for rank in alike})
        first = {key: value for key, value in levels[0].items() if key not in ("ranks", "threads")}
        kinds.append(
            {
                "name": hosts[0],
                "component": alike[0].get("component"),
                "num_nodes": len(hosts),
                **alike[0]["kind"],
                "memory_bytes": min(rank["memory"] for rank in alike),
                "matmul_flops_per_s_reason": alike[0]["reasons"],
                **first,
                "concurrent_slowdown": max(rank["slowdown"] for rank in alike if rank["slowdown"] is not None),
                "levels": levels,
                "process_memory_bytes": max(rank["resident"] for rank in alike),
            }
        )
    return kinds


def _slowest(levels: list[dict[str, Any]]) -> dict[str, Any]:
    """Levels of several ranks as one: lowest rates, highest times, only shapes all of them measured."""
    merged = dict(levels[0])
    shapes = [{_shape(point): point["flops_per_s"] for point in level["matmul_by_size"]} for level in levels]
    merged["matmul_by_size"] = [
        {**point, "flops_per_s": min(shape[_shape(point)] for shape in shapes)}
        for point in levels[0]["matmul_by_size"]
        if all(_shape(point) in shape for shape in shapes)
    ]
    merged["matmul_flops_per_s"] = {
        key: None if rate is None else min(level["matmul_flops_per_s"][key] for level in levels)
        for key, rate in levels[0]["matmul_flops_per_s"].items()
    }
    merged["memory_bandwidth_bytes_per_s"] = min(level["memory_bandwidth_bytes_per_s"] for level in levels)
    for key in ("kernel_overhead_s", "backward_overhead_s", "elementwise_s_per_element"):
        merged[key] = max(level[key] for level in levels)
    return merged


def _shape(point: dict[str, Any]) -> tuple[Any, ...]:
    return point["precision"], point["m"], point["n"], point["k"]


def _network(world: Any, node: Any, *, quick: bool) -> dict[str, Any] | None:
    """Both links, on rank 0; None elsewhere. Collective. The first node of several ranks stands for all."""
    effort = probe_network.Effort(window_s=0.01 if quick else 0.1, large=not quick)
    hosts = world.allgather(node.allgather(world.rank))
    nodes = sorted({tuple(ranks) for ranks in hosts})
    network: dict[str, Any] = {"intra_node": None, "inter_node": None}
    inside = next((ranks for ranks in nodes if len(ranks) > 1), None)
    if inside is not None:
        network["intra_node"] = probe_network.measure_link(world, inside, effort)
    else:
        network["intra_node_reason"] = "one rank per node probed"
    if len(nodes) > 1:
        network["inter_node"] = probe_network.measure_link(world, [ranks[0] for ranks in nodes], effort)
    else:
        network["inter_node_reason"] = "one node probed"
    return network if world.rank == 0 else None
