"""Data parallelism around one stage: DistributedDataParallel, or nothing where averages come later."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hpc_accel.parallel.gradients import DEFAULT_BUCKET_BYTES, ReplicaAverage
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.study.recipe import Recipe

WIRE = {"bf16": torch.bfloat16, "fp16": torch.float16}


def replicate(
    module: nn.Module, place: RankCoordinates, recipe: Recipe, device: torch.device, *, may_idle: bool
) -> nn.Module:
    """`module` with its gradients averaged over the data-parallel group while backward runs. Collective over it.

    With `may_idle` a step may use some parameters on no rank, or on some only: each is then looked for in the graph.
    """
    group = place.group("dp")
    wrapped = DistributedDataParallel(
        module,
        process_group=group,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        bucket_cap_mb=recipe.bucket_mb,
        static_graph=recipe.static_graph,
        find_unused_parameters=may_idle and not recipe.static_graph,
    )
    _compress(wrapped, recipe.compression, group)
    return wrapped


def _compress(wrapped: DistributedDataParallel, compression: str, group: dist.ProcessGroup | None) -> None:
    """Torch's own communication hooks."""
    if compression == "none":
        return
    if compression == "powersgd":
        from hpc_accel.parallel.powersgd import ErrorFeedback

        ErrorFeedback(wrapped, group)
        return
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    compressed = default_hooks.bf16_compress_hook if compression == "bf16" else default_hooks.fp16_compress_hook
    # Under a name of its own, and without annotations: torch allows its bf16 hook on NCCL and XCCL only.
    wrapped.register_comm_hook(group, lambda state, bucket: compressed(state, bucket))  # noqa: PLW0108


def make_average(place: RankCoordinates, recipe: Recipe, *, later: bool) -> ReplicaAverage | None:
    """What averages gradients `later`, after backward, or parameters under local SGD; None where neither is needed.

    FSDP's gradients are averaged by FSDP; those of parameters that it leaves whole are averaged here.
    """
    group = place.group("dp")
    if group is None or not (later or recipe.average_every > 1 or place.layout.shard == "full"):
        return None
    bucket_bytes = recipe.bucket_mb * 2**20 if recipe.bucket_mb else DEFAULT_BUCKET_BYTES
    return ReplicaAverage(group, bucket_bytes, WIRE.get(recipe.compression))
