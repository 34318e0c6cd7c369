"""The probed hardware as rows of words: nodes, network, MPI, sensors; what was not probed keeps its reason."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import wording
from hpc_accel.report.load import safe_json


def rows(hardware: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each fact."""
    found = [row for kind in safe_json.items(hardware, "node_kinds") for row in _node(kind)]
    for key, name in (("intra_node", "MPI inside a node"), ("inter_node", "MPI between nodes")):
        latency = safe_json.positive(hardware, "network", key, "latency_s")
        rate = safe_json.positive(hardware, "network", key, "bandwidth_bytes_per_s")
        if latency and rate:
            found.append((name, f"{wording.short(latency * 1e6)} us, {wording.short(rate / 1e9)} GB/s"))
        else:
            found.append((name, _gap(safe_json.text(hardware, "network", f"{key}_reason"))))
    found += _on_device(safe_json.mapping(hardware, "network"))
    mpi = safe_json.mapping(hardware, "mpi")
    if mpi:
        aware = "GPU-aware" if mpi.get("gpu_aware") is True else "not GPU-aware"
        words = [safe_json.text(mpi, "library") or "?", f"threads: {safe_json.text(mpi, 'thread_level') or '?'}", aware]
        found.append(("MPI", ", ".join(words)))
    return found


def _on_device(network: dict[str, Any]) -> list[tuple[str, str]]:
    """Links between device tensors by backend, where GPUs were probed."""
    found = []
    for backend, links in safe_json.mapping(network, "on_device").items():
        for key, name in (("intra_node", "inside a node"), ("inter_node", "between nodes")):
            rate = safe_json.positive(links, key, "bandwidth_bytes_per_s")
            if rate:
                found.append((f"{backend} on GPUs {name}", f"{wording.short(rate / 1e9)} GB/s"))
    for backend, reason in safe_json.mapping(network, "on_device_reason").items():
        found.append((f"{backend} on GPUs", _gap(str(reason))))
    return found


def _node(kind: dict[str, Any]) -> list[tuple[str, str]]:
    name = safe_json.text(kind, "name") or "node"
    num_cpus = safe_json.number(kind, "num_cpus")
    facts = [
        f"{safe_json.text(kind, 'device_name') or '?'}",
        wording.counted(int(num_cpus), "CPU") if num_cpus else "",
        wording.memory(safe_json.positive(kind, "memory_bytes")),
    ]
    devices = safe_json.positive(kind, "devices_per_node")
    if devices:
        facts.append(wording.counted(int(devices), "device"))
    found = [(name, ", ".join(fact for fact in facts if fact))]
    rates = safe_json.mapping(kind, "matmul_flops_per_s")
    words = [
        f"{precision} {wording.short(rate / 1e9)} GFLOP/s"
        if (rate := safe_json.positive(rates, precision))
        else f"{precision} {_gap(safe_json.text(kind, 'matmul_flops_per_s_reason', precision))}"
        for precision in rates
    ]
    if words:
        found.append((f"{name}: matrix multiplication", safe_json.clean("; ".join(words))))
    if unused := safe_json.text(kind, "device_reason"):
        found.append((f"{name}: device", unused))
    bandwidth = safe_json.positive(kind, "memory_bandwidth_bytes_per_s")
    if bandwidth:
        found.append((f"{name}: memory bandwidth", f"{wording.short(bandwidth / 1e9)} GB/s"))
    slowdown = safe_json.positive(kind, "concurrent_slowdown")
    if slowdown:
        found.append((f"{name}: all ranks at once", f"{wording.short(slowdown)} times slower than one alone"))
    return found


def sensors(hardware: dict[str, Any]) -> list[dict[str, str]]:
    """Energy sensors: what each covers, and why it cannot be read."""
    return [
        {
            "name": safe_json.text(sensor, "name") or "?",
            "scope": safe_json.text(sensor, "scope") or "",
            "state": "readable" if sensor.get("available") is True else "not readable",
            "reason": safe_json.text(sensor, "reason") or "",
        }
        for sensor in safe_json.items(hardware, "sensors")
    ]


def _gap(reason: str | None) -> str:
    return f"{wording.NOT_MEASURED}{': ' + reason if reason else ''}"
