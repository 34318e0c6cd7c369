"""What a rank computes on: the GPU it was promised, or the CPU; on nodes that differ each rank its own."""

from __future__ import annotations

from typing import Any

import torch

from hpc_accel.errors import ConfigError
from hpc_accel.study.schema import Run


def choose_device(run: Run, gpus_on_node: int, local_rank: int, comm: Any) -> torch.device:
    """The device this rank computes on; `auto` takes a GPU where there is one. Collective over `comm`.

    `gpus_on_node` is what the run asked for on this rank's node; 0 on a node beside others that have some means a CPU.
    Raises ConfigError when the study asks for GPUs that are not there, or for one per rank and ranks share.
    """
    on_cpu = run.device == "cpu" or not torch.cuda.is_available()
    on_cpu = on_cpu or (run.resources.gpus_per_node > 0 and not gpus_on_node)
    device = torch.device("cpu") if on_cpu else torch.device("cuda", local_rank % torch.cuda.device_count())
    if on_cpu and run.device == "cuda":
        raise ConfigError(
            "device cuda, torch sees no GPU",
            "the device must be there",
            "set device: auto or cpu, or install the CUDA lock (make env ACCEL=cuda)",
        )
    if on_cpu and gpus_on_node and run.device != "cpu":
        raise ConfigError(
            f"{gpus_on_node} GPU(s) per node requested, torch sees none",
            "a rank that was promised a GPU must find it",
            "install the CUDA lock (make env ACCEL=cuda), check nvidia-smi and CUDA_VISIBLE_DEVICES",
        )
    if not on_cpu:
        torch.cuda.set_device(device)
    uuid = None if on_cpu else str(torch.cuda.get_device_properties(device).uuid)
    uuids = [each for each in comm.allgather(uuid) if each is not None]
    if run.resources.gpus_per_node and len(set(uuids)) < len(uuids):
        raise ConfigError(
            f"{len(uuids)} ranks see {len(set(uuids))} different GPU(s)",
            "every rank of this run was promised a GPU of its own",
            "check the launcher's GPU binding: request GPUs per node (gres), not per task",
        )
    return device


def mesh_device(run: Run, device: torch.device) -> str:
    """The device type that all ranks name for their mesh: their own, or the CPU where some have no GPU."""
    some_without = any(not part.gpus_per_node for part in run.resources.parts)
    return "cpu" if run.resources.gpus_per_node and some_without else device.type
