"""Where what a rank holds of each parameter lies in the whole model: by the parameter's name there, and by index.

A rank holds all of a parameter, a slice along one dimension (tensor parallelism), a shard of rows (FSDP2), or a shard
of a slice. So figures of a divided model can be added up over ranks without gathering it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hpc_accel.parallel.apply import ParallelModel
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.workloads.tensor_plan import Cut

Shapes = Mapping[str, tuple[int, ...]]
_COLUMNS = ("columns", "gather", "vocabulary")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What this rank holds of `name`: from index `start` of a tensor of `shape`. One rank `counts` each element."""

    name: str
    parameter: torch.Tensor
    start: tuple[int, ...]
    shape: tuple[int, ...]
    counts: bool
    is_cut: bool
    """Whether tensor parallelism divided it."""

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's part of a tensor that is divided as the parameter is."""
        return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Trainable parameters of a whole model; tied ones once."""
    return {name: tuple(each.shape) for name, each in model.named_parameters() if each.requires_grad}


def shapes_by_name(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The same by every name: tied parameters have several."""
    return {name: tuple(each.shape) for name, each in model.named_parameters(remove_duplicate=False)}


def pieces_of(model: ParallelModel, place: RankCoordinates, plan: Mapping[str, Cut], shapes: Shapes) -> Iterator[Piece]:
    """Every trainable parameter that this rank holds a part of. `shapes` are those of the whole model.

    Raises KeyError for a parameter that the whole model does not have under its name.
    """
    for module in model.modules.values():
        for long_name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            name = plain(long_name)
            start, is_cut = _start(name, shapes[name], place, plan)
            divided = hasattr(parameter, "to_local")
            if divided:
                start = tuple(a + b for a, b in zip(start, _shard_start(parameter), strict=True))
            copies = (is_cut or place.tp_rank == 0) and (divided or place.dp_rank == 0)
            yield Piece(name=name, parameter=parameter, start=start, shape=shapes[name], counts=copies, is_cut=is_cut)


def named_parameters(model: ParallelModel) -> list[tuple[str, nn.Parameter]]:
    """This rank's trainable parameters, in the order of `model.parameters`, under the whole model's names."""
    return [
        (plain(name), each)
        for module in model.modules.values()
        for name, each in module.named_parameters()
        if each.requires_grad
    ]


def plain(name: str) -> str:
    """A parameter's name without what wrappers put before it."""
    return ".".join(part for part in name.removeprefix("module.").split(".") if part != "_orig_mod")


def _start(
    name: str, shape: tuple[int, ...], place: RankCoordinates, plan: Mapping[str, Cut]
) -> tuple[tuple[int, ...], bool]:
    owner, _, kind = name.rpartition(".")
    way = plan.get(owner)
    dim = 0 if way in _COLUMNS else 1 if way == "rows" and kind == "weight" else None
    if place.layout.tp == 1 or dim is None:
        return (0,) * len(shape), False
    each, more = divmod(shape[dim], place.layout.tp)  # as torch.tensor_split does
    first = place.tp_rank * each + min(place.tp_rank, more)
    return tuple(first if index == dim else 0 for index in range(len(shape))), True


def _shard_start(parameter: Any) -> tuple[int, ...]:
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return tuple(offset)
