"""What a rank computes on: the GPU it was promised, or the CPU; on nodes that differ each rank its own."""

from __future__ import annotations

from typing import Any

import torch

from hpc_accel.errors import ConfigError
from hpc_accel.study.devices import on_gpus, unused_gpus
from hpc_accel.study.run import Run


def choose_device(run: Run, gpus_on_node: int, local_rank: int, comm: Any) -> torch.device:
    """The device this rank computes on (`study.devices` says which). Collective over `comm`.

    `gpus_on_node` is what the run asked for on this rank's node; 0 on a node beside others that have some means a CPU.
    Raises ConfigError when the study asks for GPUs that are not there, or for one per rank and ranks share.
    """
    device = take_device(run.device, gpus_on_node, local_rank)
    refuse_shared(gpu_uuids(device, comm), run.resources.gpus_per_node)
    return device


def take_device(device: str, gpus_on_node: int, local_rank: int) -> torch.device:
    """The device of one rank, made the current one; local ranks go round where GPUs are fewer. Raises ConfigError."""
    if not on_gpus(device, gpus_on_node):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"{gpus_on_node} GPU(s) per node requested, torch sees none"
            if gpus_on_node
            else "device cuda, torch sees no GPU",
            "a rank that was promised a GPU must find it",
            "set device: cpu, or install the CUDA lock (make env ACCEL=cuda), check nvidia-smi, CUDA_VISIBLE_DEVICES",
        )
    own = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(own)
    return own


def gpu_uuids(device: torch.device, comm: Any) -> list[str]:
    """The GPU of each rank that has one, whatever number it goes by there. Collective over `comm`."""
    uuid = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None
    return [each for each in comm.allgather(uuid) if each is not None]


def refuse_shared(uuids: list[str], gpus_per_node: int) -> None:
    """Raise ConfigError when ranks share a GPU although the study asks for one each.

    Under `device: cuda` and gpus_per_node 0 sharing is what the study says, so there it is right.
    """
    if gpus_per_node and len(set(uuids)) < len(uuids):
        raise ConfigError(
            f"{len(uuids)} ranks see {len(set(uuids))} different GPU(s)",
            "every rank of this run was promised a GPU of its own",
            "check the launcher's GPU binding: request GPUs per node (gres), not per task",
        )


def unused_gpus_here(run: Run) -> str | None:
    """What the record of a run on CPUs says where torch sees GPUs; None elsewhere."""
    return unused_gpus(run.device, run.resources.gpus_per_node, num_gpus_seen())


def num_gpus_seen() -> int:
    """GPUs torch could use here. Counting makes no context on them."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def mesh_device(run: Run, device: torch.device) -> str:
    """The device type that all ranks name for their mesh: their own, or the CPU where some have no GPU."""
    some_without = any(not part.gpus_per_node for part in run.resources.each_kind)
    return "cpu" if run.resources.gpus_per_node and some_without else device.type
