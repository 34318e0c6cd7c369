"""Measure the machine a study will run on, and write hardware.json.

Run on all ranks under mpirun, or on one rank without it. First 1, 2, 4, ... ranks of every node compute at once (with
more ranks than cores that is what decides), then messages are timed within a node and between nodes: MPI's own and,
on GPUs, those of the study's backend.
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
from hpc_accel.probe import network
from hpc_accel.probe.hardware import checked_hardware
from hpc_accel.probe.machine import (
    Place,
    Power,
    memory_bytes,
    mpi_facts,
    node_facts,
    power_facts,
    resident_bytes,
)
from hpc_accel.probe.merge import merge
from hpc_accel.runtime.threads import threads_per_rank
from hpc_accel.study.devices import unused_gpus
from hpc_accel.study.run import Backend, NodeKind


def run(
    out: Path,
    *,
    site: str,
    quick: bool = True,
    cpus_per_rank: int = 1,
    node_kinds: Sequence[NodeKind] | None = None,
    device: str = "auto",
    gpus_per_node: int = 0,
    backend: Backend = "mpi4py",
) -> dict[str, Any]:
    """Measure and write `out`; the content on rank 0, empty elsewhere. Collective over COMM_WORLD.

    `quick` takes about ten seconds on two cores, twenty on GPUs; otherwise more is measured for longer.
    `cpus_per_rank`, `device`, `gpus_per_node` and `backend` are the study's, so that what is measured is what its runs
    will use: so many CPUs in a Slurm job (elsewhere ranks share the cores evenly), CPUs or GPUs, and on GPUs the
    messages of that backend beside those of MPI itself.
    Of a study whose nodes differ, `node_kinds` say which ranks are whose, and how many CPUs and GPUs theirs have.
    Raises ConfigError when there are not as many ranks as the node kinds have, or not the GPUs the study asks for, and
    what `write_atomically` raises when the file cannot be written.
    """
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    node_kind = _node_kind(world, node_kinds)
    own = node_kind or NodeKind(gpus_per_node=gpus_per_node, cpus_per_rank=cpus_per_rank)
    most_gpus = max(each.gpus_per_node for each in node_kinds or (own,))
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    # Node kinds may share a machine, as a CPU beside a GPU does; they are measured each by itself.
    alike = node.Split(own.number)
    place = _place(world, alike, device, own.gpus_per_node, most_gpus)
    power = Power(world)
    speeds = _speeds(world, node, alike, place, power, own.cpus_per_rank, quick=quick)
    gathered = world.gather({"number": node_kind.number if node_kind else None, **speeds}, root=0)
    alike.Free()
    links = _network(world, node, place, backend, quick=quick)
    ranks_per_node = node.size
    node.Free()
    if gathered is None or links is None:
        return {}
    kinds = _kinds(gathered, power)
    content = {
        "format": 1,
        "site": site,
        "created_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "num_nodes": _num_nodes(gathered),
        "ranks_per_node": ranks_per_node,
        "node_kinds": kinds,
        "network": links,
        "mpi": mpi_facts(kinds[0]["device"]),
        "sensors": power.sensors,
        "provenance": provenance.collect(),
    }
    checked_hardware(content, where="the probe's result")
    write_atomically(out, json.dumps(content, indent=1) + "\n")
    return content


def _node_kind(world: Any, node_kinds: Sequence[NodeKind] | None) -> NodeKind | None:
    """This rank's node kind. Ranks are numbered node kind after node kind."""
    if node_kinds is None:
        return None
    ranks = [part for part in node_kinds for _ in range(part.num_ranks)]
    if len(ranks) != world.size:
        raise ConfigError(
            f"{world.size} rank(s) probe node kinds of {len(ranks)}",
            "the probe runs on all ranks of all node kinds, in their order",
            "start it by its script: hpc-accel script --probe STUDY",
        )
    return ranks[world.rank]


def _place(world: Any, node: Any, device: str, gpus_per_node: int, most_gpus: int) -> Place:
    """What this rank computes on, as in a run. Collective. Raises ConfigError where GPUs are missing or shared."""
    from hpc_accel.runtime.device import gpu_uuids, num_gpus_seen, refuse_shared, take_device

    resident = resident_bytes()  # with torch, and before CUDA has added what is no model's
    taken = take_device(device, gpus_per_node, node.rank)
    uuids = gpu_uuids(taken, world)
    refuse_shared(uuids, most_gpus)
    unused = unused_gpus(device, most_gpus, num_gpus_seen())
    return Place(device=taken, uuids=uuids, resident_bytes=resident, unused_gpus=unused)


POWER_MARGIN = 1.05
"""A window begins and ends between two updates of a sensor."""


def _speeds(
    world: Any, machine: Any, node: Any, place: Place, power: Power, cpus_per_rank: int, *, quick: bool
) -> dict[str, Any]:
    """This rank's speed while 1, 2, 4, ... ranks of each node compute, as many as it is one of. Collective.

    `node` has the ranks of `machine` that are of this rank's node kind: all of them, where nodes are alike.
    """
    import torch

    from hpc_accel.probe.compute import effort_for, fixed_product_s, keep_busy, measure_level
    from hpc_accel.probe.products import precisions_for

    device = place.device
    kind = node_facts(device, node) | {"device_reason": place.unused_gpus}
    levels: list[dict[str, Any]] = []
    own = _counts(node.size, device.type)
    # Where nodes differ in size, the small ones begin later, so that in the last round all ranks compute.
    rounds = [None] * (max(world.allgather(len(own))) - len(own)) + own
    # A GPU's counter is slower than the last round, much of which is small products: its power has a window of its own.
    has_gpus = world.allreduce(int(device.type == "cuda")) > 0
    for number, count in enumerate(rounds, 1):
        takes_part = count is not None and node.rank < count
        beside = machine.allreduce(int(takes_part))
        if count is not None:
            torch.set_num_threads(threads_per_rank(beside, cpus_per_rank))
            crowded = beside * torch.get_num_threads() > kind["num_cpus"]
            effort = effort_for(device, quick=quick, crowded=crowded)
        working = world.Split(0 if takes_part else 1)
        with power if number == len(rounds) and not has_gpus else nullcontext():
            if takes_part:
                # Sleeping, because on a node with more ranks than cores a spinning rank would be measured too.
                levels.append({"ranks": count, **measure_level(device, effort, partial(network.rest, working))})
            network.rest(world)
        working.Free()
    if has_gpus:
        with power:
            keep_busy(device, effort, POWER_MARGIN * power.meter.min_window_s)
    alone_s = fixed_product_s(device, effort) if node.rank == 0 else None
    network.rest(world)
    together_s = fixed_product_s(device, effort)
    return {
        "kind": kind,
        "reasons": precisions_for(device)[1],
        "host": socket.gethostname(),
        "memory": memory_bytes(),
        "levels": levels,
        "slowdown": together_s / alone_s if alone_s else None,
        "resident": place.resident_bytes,
    }


def _counts(size: int, device: str) -> list[int]:
    """1, 2, 4, ... and `size`; on GPUs, of which each rank has its own, 1 and `size`: each takes seconds there."""
    if device == "cuda":
        return sorted({1, size})
    return sorted({*(2**i for i in range(size.bit_length()) if 2**i <= size), size})


def _kinds(ranks: list[dict[str, Any]], power: Power) -> list[dict[str, Any]]:
    """The kinds of nodes, with their power where the sensors saw one kind alone."""
    kinds = merge(ranks)
    facts = power_facts(power.energy, _num_nodes(ranks))
    if len(kinds) > 1 and facts["power_w"] is not None:
        facts = {"power_w": None, "power_w_reason": "the sensors' window is of several kinds of nodes together"}
    return [kind | facts for kind in kinds]


def _num_nodes(ranks: list[dict[str, Any]]) -> int:
    return len({rank["host"] for rank in ranks})


def _network(world: Any, node: Any, place: Place, backend: Backend, *, quick: bool) -> dict[str, Any] | None:
    """Links of MPI itself and, of GPUs, of the study's backend, on rank 0; None elsewhere. Collective."""
    effort = network.Effort(window_s=0.01 if quick else 0.1, large=not quick)
    nodes = sorted({tuple(ranks) for ranks in world.allgather(node.allgather(world.rank))})
    links = network.measure_links(world, nodes, effort)
    if place.uuids:  # of any rank: the same on all
        from hpc_accel.probe.backend import backend_links

        links |= backend_links(world, nodes, place, backend, effort)
    return links if world.rank == 0 else None
