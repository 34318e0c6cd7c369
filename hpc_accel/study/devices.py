"""What `device` means, decided once: the probe, the rules, the plan and the launch all ask here.

auto   the GPUs that resources.gpus_per_node asks for; with 0 the CPU, whatever torch sees
cpu    the CPU
cuda   a GPU; with gpus_per_node 0 ranks share those of this machine, which no scheduler hands out
"""

from __future__ import annotations

from hpc_accel.study.run import Run


def on_gpus(device: str, gpus_per_node: int) -> bool:
    """Whether ranks compute on GPUs, on nodes where the study asks for `gpus_per_node`."""
    return device == "cuda" or (device == "auto" and gpus_per_node > 0)


def runs_on_gpus(run: Run) -> bool:
    """Whether any rank of `run` computes on a GPU."""
    return on_gpus(run.device, run.resources.gpus_per_node)


def unused_gpus(device: str, gpus_per_node: int, num_seen: int) -> str | None:
    """What to tell somebody whose GPUs `auto` leaves alone; None where none are, or where the study says so itself."""
    if device != "auto" or gpus_per_node or not num_seen:
        return None
    return (
        f"torch sees {num_seen} GPU(s), and device auto with resources.gpus_per_node 0 computes on the CPU: "
        "set resources.gpus_per_node to use them"
    )
