"""Data parallelism around one stage: DistributedDataParallel, FSDP2, or nothing where averages come later."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hpc_accel.parallel.gradients import DEFAULT_BUCKET_BYTES, ReplicaAverage
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.study.recipe import Recipe

WIRE = {"bf16": torch.bfloat16, "fp16": torch.float16}
POWERSGD_RANK = 4
POWERSGD_START = 2
"""Steps with whole gradients before PowerSGD begins; its error feedback wants at least 2."""


def replicate(module: nn.Module, place: RankCoordinates, recipe: Recipe, device: torch.device) -> nn.Module:
    """`module` with its gradients averaged over the data-parallel group while backward runs. Collective over it."""
    group = place.group("dp")
    wrapped = DistributedDataParallel(
        module,
        process_group=group,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        bucket_cap_mb=recipe.bucket_mb,
        static_graph=recipe.static_graph,
    )
    _compress(wrapped, recipe.compression, group)
    return wrapped


def _compress(wrapped: DistributedDataParallel, compression: str, group: dist.ProcessGroup | None) -> None:
    """Torch's own communication hooks; PowerSGD is Vogels et al., arXiv 1905.13727."""
    if compression == "none":
        return
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    if compression == "powersgd":
        state = powerSGD_hook.PowerSGDState(
            process_group=group, matrix_approximation_rank=POWERSGD_RANK, start_powerSGD_iter=POWERSGD_START
        )
        wrapped.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        return
    compressed = default_hooks.bf16_compress_hook if compression == "bf16" else default_hooks.fp16_compress_hook
    # Under a name of its own, and without annotations: torch allows its bf16 hook on NCCL and XCCL only.
    wrapped.register_comm_hook(group, lambda state, bucket: compressed(state, bucket))  # noqa: PLW0108


def make_average(place: RankCoordinates, recipe: Recipe, *, later: bool) -> ReplicaAverage | None:
    """What averages gradients `later`, after backward, or parameters under local SGD; None where neither is needed."""
    group = place.group("dp")
    if group is None or not (later or recipe.average_every > 1):
        return None
    bucket_bytes = recipe.bucket_mb * 2**20 if recipe.bucket_mb else DEFAULT_BUCKET_BYTES
    return ReplicaAverage(group, bucket_bytes, WIRE.get(recipe.compression))


def _wide(module: nn.Module) -> torch.dtype:
    """What gradients are added up in: fp32, or fp64 where parameters are."""
    is_double = any(each.dtype == torch.float64 for each in module.parameters())
    return torch.float64 if is_double else torch.float32


def shard(module: nn.Module, place: RankCoordinates, recipe: Recipe, autocast_dtype: torch.dtype | None) -> nn.Module:
    """Parameters, gradients and optimizer state divided over the data-parallel ranks by FSDP2, block by block."""
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    from hpc_accel.workloads.blocks import blocks_with_parameters

    options: dict[str, Any] = {
        "mesh": place.submesh("dp"),
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=autocast_dtype, reduce_dtype=WIRE.get(recipe.compression, _wide(module))
        ),
        "offload_policy": CPUOffloadPolicy() if recipe.offload == "parameters" else OffloadPolicy(),
    }
    blocks = blocks_with_parameters(module)
    uses = Counter(id(parameter) for block in blocks for parameter in block.parameters())
    for block in blocks:
        # Blocks that share a parameter stay with the whole: FSDP2 wants tied weights in one group.
        if all(uses[id(parameter)] == 1 for parameter in block.parameters()):
            fully_shard(block, **options)
    fully_shard(module, **options)
    return module
