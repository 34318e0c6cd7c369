"""A layout and a recipe applied to a model: this rank's stages, each cut, recomputed, compiled and replicated.

What a layout does not use is not imported: pipelining, DTensor, FSDP and the compiler each cost up to a second of
start-up on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hpc_accel.parallel.data import averages_later, make_average, replicate, shard
from hpc_accel.parallel.gradients import ReplicaAverage
from hpc_accel.parallel.memory import offload_activations, set_channels_last
from hpc_accel.parallel.mesh import Place
from hpc_accel.study.recipe import Recipe
from hpc_accel.workloads.tensor_plan import planned_linears
from hpc_accel.workloads.workload import Loss, Workload

if TYPE_CHECKING:
    from hpc_accel.parallel.pipeline import Schedule


@dataclass(frozen=True, kw_only=True)
class ParallelModel:
    """What one rank runs: its only module directly, or its stages through `schedule`.

    `average` averages gradients after backward, or parameters under local SGD; None where DDP or FSDP do.
    """

    modules: dict[int, nn.Module]
    schedule: Schedule | None
    average: ReplicaAverage | None

    @property
    def module(self) -> nn.Module:
        """The only module of a rank without stages."""
        (module,) = self.modules.values()
        return module

    @property
    def parameters(self) -> list[nn.Parameter]:
        """This rank's trainable parameters."""
        return [each for module in self.modules.values() for each in module.parameters() if each.requires_grad]

    def synchronise_gradients(self, wanted: bool) -> None:
        """Whether the next backward exchanges gradients, which only the last micro-batch of a step does."""
        for module in self.modules.values():
            if isinstance(module, DistributedDataParallel):
                module.require_backward_grad_sync = wanted
            elif isinstance(sync := getattr(module, "set_requires_gradient_sync", None), MethodType):  # FSDP2, not imported
                sync(wanted)


def parallelize(
    workload: Workload,
    split: tuple[int, ...] | None,
    place: Place,
    device: torch.device,
    *,
    loss: Loss,
    recipe: Recipe,
    autocast_dtype: torch.dtype | None,
) -> ParallelModel:
    """Apply `place.layout` and `recipe` to the workload's model. Collective over all ranks.

    `split` is the number of layers of each stage, None for a layout without stages. The whole model is built with the
    same seed on every rank, so each keeps its part of the same weights.
    `loss` is the loss of one micro-batch, divided by their number.
    """
    average = make_average(place, recipe)
    if split is None:
        module = _prepared(workload.model, workload, place, device, recipe, autocast_dtype)
        return ParallelModel(modules={0: module}, schedule=None, average=average)
    from hpc_accel.parallel.pipeline import cut, make_schedule

    stages = cut(workload, split, place, autocast_dtype)
    modules = {
        index: _prepared(stages.modules[index], workload, place, device, recipe, autocast_dtype)
        for index in place.stages
    }
    schedule = make_schedule(modules, stages, place, device, loss)
    return ParallelModel(modules=modules, schedule=schedule, average=average)


def _prepared(
    module: nn.Module,
    workload: Workload,
    place: Place,
    device: torch.device,
    recipe: Recipe,
    autocast_dtype: torch.dtype | None,
) -> nn.Module:
    """One stage, or the whole model, ready to run: each step works on what the one before left."""
    module.to(device)
    if recipe.channels_last:
        set_channels_last(module)
    if recipe.precision == "fp8":
        from hpc_accel.parallel.float8 import use_float8

        use_float8(module, device)
    tp_mesh = place.submesh("tp")
    if tp_mesh is not None:
        from hpc_accel.parallel.tensor import cut_linears

        cut_linears(module, planned_linears(workload.model, workload.tensor_plan), tp_mesh)
    if recipe.recompute != "none":
        from hpc_accel.parallel.recompute import recompute_blocks

        recompute_blocks(module, recipe.recompute)
    if autocast_dtype is not None:
        # On forward only: a schedule runs backward in between, which must not see autocast.
        module.forward = torch.autocast(device.type, dtype=autocast_dtype)(module.forward)
    if recipe.offload == "activations":
        offload_activations(module)
    if recipe.compile:
        module.compile()
    if place.layout.shard == "full":
        return shard(module, place, recipe, autocast_dtype)
    if place.layout.dp > 1 and not averages_later(place, recipe) and recipe.average_every == 1:
        return replicate(module, place, recipe, device)
    return module
