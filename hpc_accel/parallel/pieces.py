"""Where what a rank holds of each parameter lies in the whole model: by the parameter's name there, and by index.

A rank holds all of a parameter, one or several slices along one dimension (tensor parallelism), a shard of rows
(FSDP2), or a shard of slices. So figures of a divided model can be added up over ranks without gathering it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from hpc_accel.parallel.apply import ParallelModel
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.parallel.ties import plain
from hpc_accel.workloads.linears import Division, shares

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What this rank holds of `name`: from index `start` of a tensor of `shape`. One rank `counts` each element.

    A rank has several pieces of a parameter that is divided section by section.
    """

    name: str
    parameter: torch.Tensor
    start: tuple[int, ...]
    shape: tuple[int, ...]
    counts: bool
    is_cut: bool
    """Whether tensor parallelism divided it."""
    part: tuple[int, int, int] | None = None
    """Of what the rank holds, which dimension, from where and how much; None for all."""

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """This piece of a tensor that is divided as the parameter is."""
        own = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        return own if self.part is None else own.narrow(*self.part)


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Trainable parameters of a whole model; tied ones once."""
    return {name: tuple(each.shape) for name, each in model.named_parameters() if each.requires_grad}


def shapes_by_name(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The same by every name: tied parameters have several."""
    return {name: tuple(each.shape) for name, each in model.named_parameters(remove_duplicate=False)}


def pieces_of(
    model: ParallelModel, place: RankCoordinates, divided: Mapping[str, Division], shapes: Shapes
) -> Iterator[Piece]:
    """Every trainable parameter that this rank holds a part of. `shapes` are those of the whole model, and `divided`
    tells how tensor parallelism divides its parameters.

    Raises KeyError for a parameter that the whole model does not have under its name.
    """
    elsewhere = model.counted_elsewhere
    for module in model.modules.values():
        for long_name, parameter in module.named_parameters():
            if parameter.requires_grad:
                name = model.names[plain(long_name)]
                pieces = pieces_of_parameter(name, parameter, shapes[name], place, divided.get(name))
                yield from (replace(each, counts=False) if name in elsewhere else each for each in pieces)


def named_parameters(model: ParallelModel) -> list[tuple[str, nn.Parameter]]:
    """This rank's trainable parameters, in the order of `model.parameters`, under the whole model's names."""
    return [
        (model.names[plain(name)], each)
        for module in model.modules.values()
        for name, each in module.named_parameters()
        if each.requires_grad
    ]


def pieces_of_parameter(
    name: str, parameter: torch.Tensor, shape: tuple[int, ...], place: RankCoordinates, how: Division | None
) -> Iterator[Piece]:
    """What this rank holds of one parameter of `shape`, which tensor parallelism divides as `how` says."""
    is_cut, is_sharded = how is not None, hasattr(parameter, "to_local")
    counts = (is_cut or place.tp_rank == 0) and (place.is_first_holder if is_sharded else place.dp_rank == 0)
    offset = shard_start(parameter) if is_sharded else (0,) * len(shape)
    if how is None:
        yield Piece(name=name, parameter=parameter, start=offset, shape=shape, counts=counts, is_cut=False)
        return
    dim, sections = how
    local: Any = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    begin, end = offset[dim], offset[dim] + local.shape[dim]
    seen = 0  # where the section's part begins among what the tensor-parallel rank holds
    for first, count in shares(sections, place.layout.tp, place.tp_rank):
        low, high = max(begin, seen), min(end, seen + count)
        if low < high:
            start = tuple(first + low - seen if index == dim else each for index, each in enumerate(offset))
            part = (dim, low - begin, high - low)
            yield Piece(name=name, parameter=parameter, start=start, shape=shape, counts=counts, is_cut=True, part=part)
        seen += count


def shard_start(parameter: Any) -> tuple[int, ...]:
    """The index in the whole parameter of the first element of this rank's shard of it."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return tuple(offset)
