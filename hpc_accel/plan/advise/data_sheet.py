"""A machine for the planner from a data sheet alone: what sheets do not say is a stated assumption.

The shares of peak lie between those that measured devices of the package reach (their hardware files).
"""

from __future__ import annotations

from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.plan.advise.catalogue import Device
from hpc_accel.probe.hardware import Hardware, checked_hardware
from hpc_accel.study.recipe import Precision

PRODUCT_SHARE = 0.65
"""Of the peak rate, what products of any shape keep up: A100 0.87, H100 0.64, MI300X 0.51 in the package's files."""
ATTENTION_SHARE = 0.37
"""Of the peak rate, what fused attention reaches: A100 and H100 0.5 to 0.55, MI250X 0.31."""
BACKWARD_RATIO = 2.9
LINK_SHARE = 0.75
"""Of the links' bandwidth in one direction, what a ring over all devices of a node gets."""
PADDING: dict[str, Any] = {"rows": 107, "columns": 127, "inner": 142, "start_s": 8e-6}
"""Of products, as fitted to an A100's table of kernels."""
LATENCY_S, INTER_LATENCY_S = 1e-5, 2e-5
KERNEL_OVERHEAD_S, KERNEL_START_S = 1e-5, 3e-6
ADAPTERS, ADAPTER_BYTES_PER_S = 1, 12.5e9
"""Where no source says: one adapter of 100 Gbit/s for every two devices of a node."""
HOST_MEMORY_BYTES = 10**12
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16")


def assumptions(device: Device, per_node: int | None = None) -> tuple[str, ...]:
    """What the planner's machine of nodes of `per_node` devices has that no source says, in words."""
    several = (per_node or device.devices_per_node) > 1
    told = [] if per_node or device.per_node or not several else [f"nodes of {device.devices_per_node} devices"]
    told += [
        f"{PRODUCT_SHARE:.0%} of peak in products, {ATTENTION_SHARE:.0%} in attention",
        f"{KERNEL_OVERHEAD_S * 1e6:.0f} us of host time for an operation",
    ]
    if device.link_bytes_per_s is None and several:
        told.append("links between devices as fast as an adapter, for no source gives them")
    if device.adapters is None:
        told.append(f"an adapter of {ADAPTER_BYTES_PER_S / 1e9:g} GB/s for every two devices")
    return tuple(told)


def machine_of(device: Device, per_node: int | None = None) -> Hardware:
    """A node of `per_node` of `device`, by default its usual one, as the planner takes it.

    Raises ConfigError where the sheet has too little for that.
    """
    missing = [name for name in ("memory_bytes", "memory_bandwidth_bytes_per_s") if getattr(device, name) is None]
    peaks = {dtype: device.peak_flops_per_s[dtype][0] for dtype in PRECISIONS if dtype in device.peak_flops_per_s}
    if not peaks:
        missing.append("a peak rate of fp32, tf32, bf16 or fp16")
    if missing or device.memory_bytes is None or device.memory_bandwidth_bytes_per_s is None:
        raise ConfigError(
            f"{device.name}: {', '.join(missing)} unknown",
            "a prediction needs a rate of products, memory and its bandwidth",
            "probe the machine (hpc-accel probe) and name its hardware.json",
        )
    per_node = per_node or device.devices_per_node
    kind: dict[str, Any] = {
        "name": device.name,
        "device": "cpu" if device.kind == "cpu" else "cuda",
        "device_name": device.title,
        "devices_per_node": 0 if device.kind == "cpu" else per_node,
        "num_cpus": int(device.cores[0]) if device.cores else 96,
        "memory_bytes": int(device.memory_bytes[0]) if device.kind == "cpu" else HOST_MEMORY_BYTES,
        "device_memory_bytes": None if device.kind == "cpu" else _usable_bytes(device, device.memory_bytes[0]),
        "matmul_flops_per_s": {dtype: PRODUCT_SHARE * peaks[dtype] if dtype in peaks else None for dtype in PRECISIONS},
        "matmul_flops_per_s_reason": {dtype: "no source gives a rate" for dtype in PRECISIONS if dtype not in peaks},
        "product_models": {
            dtype: {"flops_per_s": PRODUCT_SHARE * peaks[dtype], **PADDING}
            for dtype in ("bf16", "fp16")
            if dtype in peaks
        },
        "memory_bandwidth_bytes_per_s": device.memory_bandwidth_bytes_per_s[0],
        "kernel_overhead_s": KERNEL_OVERHEAD_S,
        "kernel_start_s": KERNEL_START_S,
        "power_w_reason": "nobody measured this node; a data sheet's limit is not its power",
    }
    half = peaks.get("bf16") or peaks.get("fp16")
    if half:
        kind["attention"] = {
            "flops_per_s": ATTENTION_SHARE * half,
            "positions": 790,
            "start_s": 4e-5,
            "backward_ratio": BACKWARD_RATIO,
        }
    return checked_hardware(
        {
            "site": device.name,
            "created_utc": "data sheet",
            "num_nodes": 1,
            "ranks_per_node": per_node,
            "provenance": dict(device.sources),
            "node_kinds": [kind],
            "network": {"intra_node": _intra_node(device, per_node), "inter_node": _inter_node(device, per_node)},
        },
        where=device.name,
    )


def _usable_bytes(device: Device, sheet_bytes: float) -> int:
    """A sheet's GB of a device's memory are GiB; of GDDR a sixteenth of them holds the error correction."""
    return int(sheet_bytes / 1e9 * 2**30 * (15 / 16 if device.has_inline_ecc else 1))


def _adapter(device: Device, per_node: int) -> tuple[int, float]:
    """Adapters of a node, in proportion where it is not the usual one, and bytes/s of each."""
    if device.adapters is None:
        return max(ADAPTERS, per_node // 2), ADAPTER_BYTES_PER_S
    count = device.adapters.count[0] * per_node / device.devices_per_node
    return max(1, round(count)), device.adapters.bytes_per_s[0]


def _intra_node(device: Device, per_node: int) -> dict[str, Any]:
    """Rings over the node's devices, each step of a ring with its latency."""
    one_way = device.link_bytes_per_s[0] if device.link_bytes_per_s else _adapter(device, per_node)[1]
    bandwidth = LINK_SHARE * one_way
    points = []
    for ranks in (2, 4, 8):
        if ranks <= per_node:
            for size in (2**10, 2**20, 2**24, 2**28):
                steps = 2 * (ranks - 1)
                points.append({"ranks": ranks, "bytes": size, "time_s": LATENCY_S + steps / ranks * size / bandwidth})
    return {"latency_s": LATENCY_S, "bandwidth_bytes_per_s": bandwidth, "allreduce": points}


def _inter_node(device: Device, per_node: int) -> dict[str, Any]:
    count, bytes_per_s = _adapter(device, per_node)
    return {"latency_s": INTER_LATENCY_S, "bandwidth_bytes_per_s": bytes_per_s, "lanes": count}
