"""Tensor parallelism: the linear layers a workload's plan names are cut by DTensor (Megatron-LM, arXiv 1909.08053)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

# DDP reduces plain tensors; torch's own transform shows it the local shards and restores DTensors for the forward.
from torch.distributed.tensor.parallel.ddp import _pre_dp_module_transform


def cut_linears(
    module: nn.Module, plan: Mapping[str, Literal["columns", "rows"]], mesh: DeviceMesh, *, under_ddp: bool
) -> None:
    """Divide the planned linear layers of `module` among the ranks of `mesh`, in place.

    `plan` maps exact module names (of the whole model; those not in this stage are skipped) to the cut.
    """
    present = {name for name, _ in module.named_modules()}
    styles: dict[str, ParallelStyle] = {
        name: ColwiseParallel() if way == "columns" else RowwiseParallel()
        for name, way in plan.items()
        if name in present
    }
    if not styles:
        return
    parallelize_module(module, mesh, styles)
    if under_ddp:
        _pre_dp_module_transform(module)
