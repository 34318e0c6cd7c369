"""FSDP2 around one stage: parameters, gradients and optimizer state divided over the replicas, block by block.

What torch cannot divide stays whole on every rank, and its gradients are averaged after backward: scalars, complex and
strided parameters, those with sparse gradients, and of each block those of another type than most of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.parallel.boundary import own_written_inputs
from hpc_accel.parallel.data import WIRE
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.parallel.pieces import shard_start
from hpc_accel.study.recipe import Recipe
from hpc_accel.workloads.blocks import blocks_with_parameters
from hpc_accel.workloads.control_flow import ControlFlow
from hpc_accel.workloads.deferred import Deferred


def shard(
    module: nn.Module,
    place: RankCoordinates,
    recipe: Recipe,
    autocast_dtype: torch.dtype | None,
    flow: ControlFlow,
    deferred: Deferred | None = None,
) -> nn.Module:
    """`module`, divided over the data-parallel ranks. Where `flow` says that blocks may be skipped, they are not units.
    Of a `deferred` model each rank fills its shards, for which one parameter at a time is whole.

    Raises ConfigError where parameters may idle and torch is too old to exchange gradients all the same.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    options: dict[str, Any] = {
        "mesh": place.submesh("dp"),
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=autocast_dtype, reduce_dtype=WIRE.get(recipe.compression, _wide(module))
        ),
        "offload_policy": CPUOffloadPolicy() if recipe.offload == "parameters" else OffloadPolicy(),
    }
    empty = {name: each for name, each in module.named_parameters() if each.is_meta}
    units = [] if flow.skips_blocks else _units(module)
    whole = {each for unit in units for each in left_whole(unit, list(unit.parameters()))}
    inside = {each for unit in units for each in unit.parameters()}
    whole |= set(left_whole(module, [each for each in module.parameters() if each not in inside]))
    for unit in units:
        own_written_inputs(unit)  # FSDP2 gives a unit views, which autograd does not let it overwrite
        fully_shard(unit, **options, ignored_params=whole)
    fully_shard(module, **options, ignored_params=whole)
    if deferred is not None and empty:
        _fill(module, deferred, empty, place.submesh("dp"), offloaded=recipe.offload == "parameters")
    _exchange_of_idle(module, flow)
    return module


@torch.no_grad()
def _fill(
    module: nn.Module, deferred: Deferred, empty: Mapping[str, nn.Parameter], mesh: Any, *, offloaded: bool
) -> None:
    """Give shards and what is left whole their values. `empty` are the whole parameters, by name, without values."""
    type_ = "cpu" if offloaded else mesh.device_type
    device = torch.device(type_, torch.cuda.current_device()) if type_ == "cuda" else torch.device(type_)
    deferred.fill([module], device)
    module._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
    for name, parameter in module.named_parameters():
        if hasattr(parameter, "to_local"):
            part = deferred.tape.value(empty[name])
            for dim, (start, length) in enumerate(zip(shard_start(parameter), parameter.to_local().shape, strict=True)):
                part = part.narrow(dim, start, length) if length else part.narrow(dim, 0, 0)
            parameter.to_local().copy_(part)


def _units(module: nn.Module) -> list[nn.Module]:
    """Blocks that share no parameter: those stay with the whole, as FSDP2 wants tied weights in one group."""
    blocks = blocks_with_parameters(module)
    uses = Counter(id(parameter) for block in blocks for parameter in block.parameters())
    alone = [block for block in blocks if all(uses[id(parameter)] == 1 for parameter in block.parameters())]
    return [block for block in alone if block is not module]


def left_whole(module: nn.Module, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Of the `parameters` of one unit inside `module` those that FSDP2 does not divide."""
    sparse = {id(each) for part in module.modules() if getattr(part, "sparse", False) for each in part.parameters()}
    odd = [each for each in parameters if _is_odd(each) or id(each) in sparse]
    rest = [each for each in parameters if each.requires_grad and not any(each is other for other in odd)]
    sizes: Counter[torch.dtype] = Counter()
    for each in rest:
        sizes[each.dtype] += each.numel()
    if len(sizes) > 1:
        most = sizes.most_common(1)[0][0]
        odd += [each for each in rest if each.dtype != most]
    return odd


def _is_odd(parameter: nn.Parameter) -> bool:
    return parameter.dim() == 0 or not parameter.is_contiguous() or parameter.is_complex()


def _exchange_of_idle(module: Any, flow: ControlFlow) -> None:
    """A parameter that is idle on some ranks only takes part in every exchange, with zeros."""
    exchange = getattr(module, "set_reduce_scatter_unused_params", None)
    if exchange is not None:
        exchange(True)
    elif flow.looks_at_values:
        raise ConfigError(
            f"shard full of a model whose branches look at values, with torch {torch.__version__}",
            "ranks may use different parameters, which torch's FSDP2 allows from 2.13 on",
            "install torch >= 2.13, or use shard: none or optimizer",
        )


def _wide(module: nn.Module) -> torch.dtype:
    """What gradients are added up in: fp32, or fp64 where parameters are."""
    is_double = any(each.dtype == torch.float64 for each in module.parameters())
    return torch.float64 if is_double else torch.float32
