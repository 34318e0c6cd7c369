"""The probed hardware as rows of words: nodes, network, MPI, sensors; what was not probed keeps its reason."""

from __future__ import annotations

from typing import Any

from hpc_accel.report import fields, wording


def rows(hardware: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each fact."""
    found = [row for kind in fields.items(hardware, "node_kinds") for row in _node(kind)]
    for key, name in (("intra_node", "MPI inside a node"), ("inter_node", "MPI between nodes")):
        latency = fields.positive(hardware, "network", key, "latency_s")
        rate = fields.positive(hardware, "network", key, "bandwidth_bytes_per_s")
        if latency and rate:
            found.append((name, f"{wording.short(latency * 1e6)} us, {wording.short(rate / 1e9)} GB/s"))
        else:
            found.append((name, _gap(fields.text(hardware, "network", f"{key}_reason"))))
    found += _on_device(fields.mapping(hardware, "network"))
    mpi = fields.mapping(hardware, "mpi")
    if mpi:
        aware = "GPU-aware" if mpi.get("gpu_aware") is True else "not GPU-aware"
        words = [fields.text(mpi, "library") or "?", f"threads: {fields.text(mpi, 'thread_level') or '?'}", aware]
        found.append(("MPI", ", ".join(words)))
    return found


def _on_device(network: dict[str, Any]) -> list[tuple[str, str]]:
    """Links between device tensors by backend, where GPUs were probed."""
    found = []
    for backend, links in fields.mapping(network, "on_device").items():
        for key, name in (("intra_node", "inside a node"), ("inter_node", "between nodes")):
            rate = fields.positive(links, key, "bandwidth_bytes_per_s")
            if rate:
                found.append((f"{backend} on GPUs {name}", f"{wording.short(rate / 1e9)} GB/s"))
    for backend, reason in fields.mapping(network, "on_device_reason").items():
        found.append((f"{backend} on GPUs", _gap(str(reason))))
    return found


def _node(kind: dict[str, Any]) -> list[tuple[str, str]]:
    name = fields.text(kind, "name") or "node"
    facts = [
        f"{fields.text(kind, 'device_name') or '?'}",
        wording.counted(int(fields.number(kind, "num_cpus") or 0), "CPU") if fields.number(kind, "num_cpus") else "",
        wording.memory(fields.positive(kind, "memory_bytes")),
    ]
    devices = fields.positive(kind, "devices_per_node")
    if devices:
        facts.append(wording.counted(int(devices), "device"))
    found = [(name, ", ".join(fact for fact in facts if fact))]
    rates = fields.mapping(kind, "matmul_flops_per_s")
    words = [
        f"{precision} {wording.short(rate / 1e9)} GFLOP/s"
        if (rate := fields.positive(rates, precision))
        else f"{precision} {_gap(fields.text(kind, 'matmul_flops_per_s_reason', precision))}"
        for precision in rates
    ]
    if words:
        found.append((f"{name}: matrix multiplication", fields.clean("; ".join(words))))
    if unused := fields.text(kind, "device_reason"):
        found.append((f"{name}: device", unused))
    bandwidth = fields.positive(kind, "memory_bandwidth_bytes_per_s")
    if bandwidth:
        found.append((f"{name}: memory bandwidth", f"{wording.short(bandwidth / 1e9)} GB/s"))
    slowdown = fields.positive(kind, "concurrent_slowdown")
    if slowdown:
        found.append((f"{name}: all ranks at once", f"{wording.short(slowdown)} times slower than one alone"))
    return found


def sensors(hardware: dict[str, Any]) -> list[dict[str, str]]:
    """Energy sensors: what each covers, and why it cannot be read."""
    return [
        {
            "name": fields.text(sensor, "name") or "?",
            "scope": fields.text(sensor, "scope") or "",
            "state": "readable" if sensor.get("available") is True else "not readable",
            "reason": fields.text(sensor, "reason") or "",
        }
        for sensor in fields.items(hardware, "sensors")
    ]


def _gap(reason: str | None) -> str:
    return f"{wording.NOT_MEASURED}{': ' + reason if reason else ''}"
