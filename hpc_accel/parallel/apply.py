"""A layout and a recipe applied to a model: this rank's stages, each cut, recomputed, compiled and replicated.

What a layout does not use is not imported: pipelining, DTensor, FSDP and the compiler each cost up to a second of
start-up on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hpc_accel.parallel.boundary import Dtypes, cast_outputs
from hpc_accel.parallel.data import make_average, replicate
from hpc_accel.parallel.gradients import ReplicaAverage, add_up, gradients_of
from hpc_accel.parallel.memory_layout import offload_activations, set_channels_last
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.parallel.ties import Tie, add_up_ties, first_names, state_shapes, ties_of
from hpc_accel.study.recipe import Recipe
from hpc_accel.workloads.control_flow import ControlFlow, control_flow_of
from hpc_accel.workloads.deferred import Deferred, moved
from hpc_accel.workloads.linears import Division
from hpc_accel.workloads.tensor_plan import divisions, planned
from hpc_accel.workloads.workload import Loss, Workload

if TYPE_CHECKING:
    from hpc_accel.parallel.pipeline import Schedule
    from hpc_accel.parallel.tensor import TensorCut


@dataclass(frozen=True, kw_only=True)
class ParallelModel:
    """What one rank runs: its only module directly, or its stages through `schedule`.

    `average` averages gradients after backward, or parameters under local SGD; None where DDP does. Of a model that
    FSDP divided, it averages those of the parameters that are whole.
    `flow` is what was seen of the model's control flow, nothing with one replica.
    `partial` are parameters whose gradients the tensor-parallel ranks of `tp_group` must add up.
    """

    modules: dict[int, nn.Module]
    schedule: Schedule | None
    boundaries: list[tuple[torch.Tensor, ...]]
    """Without values: what enters each stage and leaves the last; empty without stages, and where a tracer cut them."""
    average: ReplicaAverage | None
    flow: ControlFlow
    partial: list[nn.Parameter]
    tp_group: dist.ProcessGroup | None
    given: bool
    """Whether stages are given the model's inputs, by that name, beside what the stage before sends."""
    place: RankCoordinates
    ties: list[Tie]
    """Parameters that other stages have too."""
    names: Mapping[str, str]
    """The first name in the whole model of each name that a parameter has."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of every parameter and persistent buffer of the whole model, by every name."""
    divided: Mapping[str, Division]
    """How tensor parallelism divides parameters, by their names in the whole model; whole ones are left out."""

    @property
    def counted_elsewhere(self) -> frozenset[str]:
        """Parameters here, by name, of which another stage's copy counts in sums over the whole model."""
        return frozenset(tie.name for tie in self.ties if self.place.pp_rank != tie.ranks[0])

    @property
    def unfinished(self) -> bool:
        """Whether gradients are left to exchange after backward."""
        return bool(self.partial or self.ties) or self.average is not None

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
            elif isinstance(sync := getattr(module, "set_requires_gradient_sync", None), MethodType):
                sync(wanted)  # FSDP2, whose class is not imported for others

    def finish_gradients(self, *, averages: bool) -> None:
        """What is left to exchange after the last backward: sums over parts of the sequence, and means if asked."""
        if self.partial and self.tp_group is not None:
            add_up(gradients_of(self.partial), self.tp_group)
        add_up_ties(self.ties, self.place)
        if self.average is not None and averages:
            self.average.gradients([each for each in self.parameters if not hasattr(each, "to_local")])


def parallelize(
    workload: Workload,
    split: tuple[int, ...] | None,
    place: RankCoordinates,
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
    tensor_cut = _tensor_cut(workload, place)
    flow = control_flow_of(workload) if place.layout.dp > 1 else ControlFlow()
    names, shapes = first_names(workload.model), state_shapes(workload.model)
    divided = divisions(workload.model, tensor_cut.plan) if tensor_cut is not None else {}
    stages, schedule = None, None
    if split is not None:
        from hpc_accel.parallel.pipeline import Stages, cut, make_schedule

        stages = cut(workload, split, place, autocast_dtype)
    is_traced = stages is not None and not isinstance(stages, Stages)
    later = _averages_later(place, recipe, flow, is_traced=is_traced)
    prepare = _Prepare(place, device, recipe, autocast_dtype, tensor_cut, flow, later=later, deferred=workload.deferred)
    if stages is None:
        modules = {0: prepare(workload.model)}
    else:
        modules = {index: prepare(module, stages.output_dtypes(index)) for index, module in stages.modules.items()}
        for module in stages.modules.values():
            if enter_first := getattr(module, "enter_first", None):
                enter_first()
        schedule = make_schedule(modules, stages, place, device, loss)
    if tensor_cut is not None:
        tensor_cut.done()
    return ParallelModel(
        modules=modules,
        schedule=schedule,
        boundaries=getattr(stages, "boundaries", []),
        average=make_average(place, recipe, later=later),
        flow=flow,
        partial=prepare.partial,
        tp_group=place.group("tp"),
        given=getattr(stages, "given", False),
        place=place,
        ties=ties_of(modules, getattr(stages, "shared", {}), names, place),
        names=names,
        shapes=shapes,
        divided={names[name]: how for name, how in divided.items() if name in names},
    )


def _averages_later(place: RankCoordinates, recipe: Recipe, flow: ControlFlow, *, is_traced: bool) -> bool:
    """Whether replicas average gradients after backward.

    Also where parameters may idle and DistributedDataParallel cannot find them: in a stage it is not given the outputs
    of all micro-batches, and what a reentrant part uses does not stand in the graph.
    """
    hidden = flow.may_idle and not recipe.static_graph and (place.layout.pp > 1 or flow.reentrant)
    later = place.layout.averages_later(overlap=recipe.overlap, is_traced=is_traced)
    return later or (hidden and place.layout.dp > 1 and place.layout.shard != "full")


def _tensor_cut(workload: Workload, place: RankCoordinates) -> TensorCut | None:
    group = place.group("tp")
    if group is None:
        return None
    from hpc_accel.parallel.tensor import TensorCut

    plan = planned(workload.model, workload.tensor_plan)
    return TensorCut(plan, group, sequence_parallel=place.layout.sequence_parallel)


class _Prepare:
    """Makes a stage, or the whole model, ready to run: each step works on what the one before left."""

    def __init__(
        self,
        place: RankCoordinates,
        device: torch.device,
        recipe: Recipe,
        autocast_dtype: torch.dtype | None,
        tensor_cut: TensorCut | None,
        flow: ControlFlow,
        *,
        later: bool,
        deferred: Deferred | None = None,
    ) -> None:
        self.place = place
        self.device = device
        self.recipe = recipe
        self.autocast_dtype = autocast_dtype
        self.tensor_cut = tensor_cut
        self.flow = flow
        self.deferred = deferred
        self.later = later
        self.partial: list[nn.Parameter] = []

    def __call__(self, module: nn.Module, output_dtypes: Dtypes | None = None) -> nn.Module:
        """`output_dtypes` are what the neighbour of a stage expects; None for a model without stages."""
        with self.deferred.recording() if self.deferred is not None else nullcontext():
            module = self._changed(module, output_dtypes)
        if self.deferred is not None and self.place.layout.shard != "full":
            self.deferred.fill([module], self.device)
        wrapped = self._replicated(module)
        if self.tensor_cut is not None:
            self.partial += self.tensor_cut.partial_parameters(module)
        return wrapped

    def _changed(self, module: nn.Module, output_dtypes: Dtypes | None) -> nn.Module:
        """On its device, with all that is done to it as one replica."""
        recipe = self.recipe
        moved(module, self.device)
        replicas = self.place.group("dp")
        if recipe.sync_batch_norm and replicas is not None:
            from hpc_accel.parallel.batch_norm import synchronise_batch_norm

            module = synchronise_batch_norm(module, replicas)
        if recipe.channels_last:
            set_channels_last(module)
        if recipe.precision == "fp8":
            from hpc_accel.parallel.float8 import use_float8

            module = use_float8(module, self.device)
        if self.tensor_cut is not None:
            self.tensor_cut.apply(module)
        if recipe.recompute != "none":
            from hpc_accel.parallel.recompute import recompute_blocks

            recompute_blocks(module, recipe.recompute)
        if recipe.compile:
            # Inside autocast and hooks on saved tensors: from outside, both end the graph, and of a Sequential each
            # layer would be compiled by itself (0.81 of the speed of one graph for a 124M language model on an H200).
            module.forward = torch.compile(module.forward)
        if self.autocast_dtype is not None:
            # On forward only: a schedule runs backward in between, which must not see autocast.
            module.forward = torch.autocast(self.device.type, dtype=self.autocast_dtype)(module.forward)
            if output_dtypes is not None:
                cast_outputs(module, output_dtypes)
        if recipe.offload == "activations":
            offload_activations(module)
        return module

    def _replicated(self, module: nn.Module) -> nn.Module:
        place, recipe = self.place, self.recipe
        if place.layout.shard == "full":
            from hpc_accel.parallel.shard import shard

            return shard(module, place, recipe, self.autocast_dtype, self.flow, self.deferred)
        if place.layout.dp > 1 and not self.later and recipe.average_every == 1:
            return replicate(module, place, recipe, self.device, may_idle=self.flow.may_idle)
        return module
