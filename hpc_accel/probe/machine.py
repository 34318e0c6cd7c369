"""What the machine is, beside how fast it is: nodes, devices, sensors and their power, MPI, versions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from hpc_accel.measure.energy.figure import EnergyFigure

RESIDENT_PAGES_FIELD = 1
"""Of /proc/self/statm."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What one rank of the probe computes on."""

    device: Any
    """A torch.device."""
    uuids: list[str]
    """GPUs of all ranks that have one; the same list everywhere."""
    resident_bytes: int
    """Of this process, before it has a model."""
    unused_gpus: str | None = None
    """That torch sees GPUs which the study does not use, and what to do."""


def node_facts(device: Any, node: Any) -> dict[str, Any]:
    """What nodes of one kind have in common. Collective over the ranks of the node."""
    import torch

    from hpc_accel.measure.provenance import cpu_model

    allowed = node.allgather(os.sched_getaffinity(0))
    cuda = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if cuda else None
    return {
        "device": device.type,
        "device_name": properties.name if properties else cpu_model(),
        "devices_per_node": _num_devices(properties, node),
        "num_cpus": len(set().union(*allowed)),
        "device_memory_bytes": properties.total_memory if properties else None,
    }


def _num_devices(properties: Any, node: Any) -> int:
    """GPUs of the node. Where each rank sees only its own, as many as there are different ones. Collective."""
    import torch

    seen = node.allgather((torch.cuda.device_count(), str(properties.uuid)) if properties else (0, None))
    return max(len({uuid for _, uuid in seen if uuid is not None}), *(count for count, _ in seen))


def memory_bytes() -> int:
    """Main memory of this node."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def resident_bytes() -> int:
    """Resident set of this process now."""
    with open("/proc/self/statm") as file:  # noqa: PTH123 - a pseudo-file read at once
        return int(file.read().split()[RESIDENT_PAGES_FIELD]) * os.sysconf("SC_PAGE_SIZE")


def mpi_facts(device: str) -> dict[str, Any]:
    """The MPI library in use."""
    import mpi4py
    from mpi4py import MPI

    level = {
        MPI.THREAD_SINGLE: "single",
        MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized",
        MPI.THREAD_MULTIPLE: "multiple",
    }[MPI.Query_thread()]
    facts: dict[str, Any] = {
        "library": MPI.Get_library_version().partition("\n")[0].partition(",")[0].strip("\x00 "),
        "mpi4py": mpi4py.__version__,
        "thread_level": level,
        "gpu_aware": False if device == "cpu" else None,
    }
    if device != "cpu":
        # Asking by sending device memory can crash a library that cannot: not worth a probe.
        facts["gpu_aware_reason"] = "MPI has no portable question for it"
    return facts


class Power:
    """Energy sensors around the busiest part of the probe. Collective over `comm`."""

    def __init__(self, comm: Any) -> None:
        from hpc_accel.measure.energy.meter import EnergyMeter

        self.meter = EnergyMeter(comm)
        self.sensors: list[dict[str, Any]] = self.meter.describe()
        self.energy = EnergyFigure.missing("no sensor could be read")
        self._window = self.meter.window("probe")

    def __enter__(self) -> Power:
        self._window.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._window.__exit__(kind, error, trace)
        if kind is None:
            self.energy = self._window.result
            self.meter.close()


def power_facts(energy: EnergyFigure, num_nodes: int) -> dict[str, Any]:
    """Power of one node from a window's energy; unknown with the reason where the window cannot tell it."""
    if energy.power_w is None:
        return {"power_w": None, "power_w_reason": energy.reason or "no sensor could be read"}
    if energy.resolution_warning or energy.is_partial:
        why = "not all nodes' sensors answered" if energy.is_partial else "the sensors update too slowly for it"
        return {"power_w": None, "power_w_reason": f"the probe's window of {energy.window_s:.1f} s: {why}"}
    return {"power_w": energy.power_w / num_nodes, "power_w_reason": None}
