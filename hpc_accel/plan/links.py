"""Which measured links a run's messages take: those of its backend between GPUs, or those of MPI between hosts."""

from __future__ import annotations

from hpc_accel.probe.hardware import Hardware, Network
from hpc_accel.study.run import Backend


def on_backend(hardware: Hardware, backend: Backend | None) -> tuple[Hardware, str | None]:
    """`hardware` with the links of `backend` as its network; and what to say where they were not measured.

    On a CPU, and without a backend, the network is MPI's. So it is on GPUs nobody timed messages between, where it is
    the nearest that is known: ten times too slow for nccl, and without the copies that mpi4py makes.
    """
    if backend is None or hardware.slowest.device == "cpu":
        return hardware, None
    links = hardware.network.on_device.get(backend)
    if links is None:
        why = hardware.network.on_device_reason.get(backend, "hardware.json has no network.on_device of it")
        return hardware, f"messages as between hosts: not measured for {backend} on GPUs ({why})"
    # What was measured stays in, so that asking again gives the same.
    network = Network(**dict(links), on_device=hardware.network.on_device)
    return hardware.model_copy(update={"network": network}), None
