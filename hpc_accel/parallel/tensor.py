"""Tensor parallelism: the linear layers a workload's plan names are cut by DTensor (Megatron-LM, arXiv 1909.08053).

Every rank's parameters stay plain tensors, its own shard, so that DDP, optimizers and gradient scalers need not
know; a parametrization shows the layer the DTensor of all shards when it computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.nn.utils.parametrize import register_parametrization


def cut_linears(module: nn.Module, plan: Mapping[str, Literal["columns", "rows"]], mesh: DeviceMesh) -> None:
    """Divide the planned linear layers of `module` among the ranks of `mesh`, in place. Collective over the mesh.

    `plan` maps exact module names of the whole model to the cut; those not in this stage are skipped.
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
    for name in styles:
        _keep_own_shard(module.get_submodule(name))


def _keep_own_shard(linear: nn.Module) -> None:
    for name, parameter in list(linear.named_parameters(recurse=False)):
        if isinstance(parameter, DTensor):
            mesh, placements, shape = parameter.device_mesh, parameter.placements, parameter.shape
            shard = cast(DTensor, parameter.detach()).to_local().clone()
            setattr(linear, name, nn.Parameter(shard, requires_grad=parameter.requires_grad))
            register_parametrization(linear, name, _AllShards(mesh, placements, shape), unsafe=True)


class _AllShards(nn.Module):
    """A rank's shard as the DTensor it is part of; gradients flow back to the shard."""

    def __init__(self, mesh: DeviceMesh, placements: Sequence[Placement], shape: torch.Size) -> None:
        super().__init__()
        self.mesh = mesh
        self.placements = placements
        self.shape = shape

    def forward(self, shard: torch.Tensor) -> torch.Tensor:
        """[own part] -> DTensor [whole]."""
        stride = torch.empty(self.shape, device="meta").stride()
        return DTensor.from_local(shard, self.mesh, self.placements, run_check=False, shape=self.shape, stride=stride)
