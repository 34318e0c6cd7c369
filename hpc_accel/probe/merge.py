"""What all ranks measured, as one entry per kind of node."""

from __future__ import annotations

import json
from typing import Any

Rank = dict[str, Any]
"""What one rank measured: kind, reasons, host, memory, levels, slowdown, resident, and node kind if it has one."""


def merge(ranks: list[Rank]) -> list[dict[str, Any]]:
    """One entry per kind of node; every figure is that of its slowest rank, which a step waits for.

    Nodes are alike that have the same devices. One node may have several kinds of them (two GPUs, two sizes of MIG
    slices): then the entry names them all and has the smallest memory.
    """
    by_node: dict[tuple[Any, str], list[Rank]] = {}
    for rank in ranks:
        by_node.setdefault((rank.get("number"), rank["host"]), []).append(rank)
    by_kind: dict[str, list[Rank]] = {}
    for (node_kind, _), node in by_node.items():
        key = json.dumps([node_kind, *sorted({_alike(rank["kind"]) for rank in node})])
        by_kind.setdefault(key, []).extend(node)
    return [_kind(alike) for alike in by_kind.values()]


def _alike(kind: dict[str, Any]) -> str:
    """What makes two ranks' devices alike. Not their memory, of which equal GPUs may report some bytes more or less."""
    return json.dumps({key: value for key, value in kind.items() if key != "device_memory_bytes"}, sort_keys=True)


def _kind(alike: list[Rank]) -> dict[str, Any]:
    kinds = [rank["kind"] for rank in alike]
    counts = sorted({level["ranks"] for rank in alike for level in rank["levels"]})
    levels = [_slowest([level for rank in alike for level in _of(rank, count)]) for count in counts]
    first = {key: value for key, value in _fewest(alike).items() if key not in ("ranks", "threads")}
    hosts = sorted({rank["host"] for rank in alike})
    memories = [kind["device_memory_bytes"] for kind in kinds if kind["device_memory_bytes"] is not None]
    return {
        "name": hosts[0],
        "number": alike[0].get("number"),
        "num_nodes": len(hosts),
        **kinds[0],
        "device_name": " + ".join(dict.fromkeys(kind["device_name"] for kind in kinds)),
        "device_memory_bytes": min(memories, default=None),
        "memory_bytes": min(rank["memory"] for rank in alike),
        "matmul_flops_per_s_reason": {key: why for rank in alike for key, why in rank["reasons"].items()},
        **first,
        # Only each node's first rank compares itself alone with itself among others.
        "concurrent_slowdown": max((rank["slowdown"] for rank in alike if rank["slowdown"] is not None), default=1.0),
        "levels": levels,
        "process_memory_bytes": max(rank["resident"] for rank in alike),
    }


def _of(rank: Rank, count: int) -> list[dict[str, Any]]:
    return [level for level in rank["levels"] if level["ranks"] == count]


def _fewest(alike: list[Rank]) -> dict[str, Any]:
    """Each kind of device while as few ranks as possible computed, and of these kinds the slowest.

    Where all are alike that is one rank alone. Of two kinds in a node, the second was never measured alone.
    """
    by_device: dict[str, list[dict[str, Any]]] = {}
    for rank in alike:
        device = json.dumps([rank["kind"]["device_name"], rank["kind"]["device_memory_bytes"]])
        by_device.setdefault(device, []).extend(rank["levels"])
    fewest = [
        level
        for levels in by_device.values()
        for level in levels
        if level["ranks"] == min(each["ranks"] for each in levels)
    ]
    return _slowest(fewest)


def _slowest(levels: list[dict[str, Any]]) -> dict[str, Any]:
    """Levels of several ranks as one: lowest rates, highest times, only shapes and precisions all of them measured."""
    merged = dict(levels[0])
    shapes = [{_shape(point): point["flops_per_s"] for point in level["matmul_by_size"]} for level in levels]
    merged["matmul_by_size"] = [
        {**point, "flops_per_s": min(shape[_shape(point)] for shape in shapes)}
        for point in levels[0]["matmul_by_size"]
        if all(_shape(point) in shape for shape in shapes)
    ]
    merged["matmul_flops_per_s"] = {
        key: _least([level["matmul_flops_per_s"][key] for level in levels]) for key in levels[0]["matmul_flops_per_s"]
    }
    merged["memory_bandwidth_bytes_per_s"] = min(level["memory_bandwidth_bytes_per_s"] for level in levels)
    for key in ("kernel_overhead_s", "backward_overhead_s", "elementwise_s_per_element"):
        merged[key] = max(level[key] for level in levels)
    return merged


def _least(rates: list[float | None]) -> float | None:
    """None where one of them has no such arithmetic: a step needs it on all."""
    known = [rate for rate in rates if rate is not None]
    return min(known) if len(known) == len(rates) else None


def _shape(point: dict[str, Any]) -> tuple[Any, ...]:
    return point["precision"], point["m"], point["n"], point["k"]
