"""Which files of a checkpoint hold what: what all replicas share is written once, what each has alone by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.study.recipe import Recipe

Holds = Literal["model", "optimizer", "feedback"]
"""`feedback` is what PowerSGD left out of each replica's gradients."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """One safetensors file, and whether this rank writes it; all that need it read it."""

    name: str
    holds: Holds
    is_writer: bool


def checkpoint_files(place: RankCoordinates, recipe: Recipe) -> list[CheckpointFile]:
    """The files that make up this rank's model and optimizer.

    Replicas of plain data parallelism are equal. ZeRO-1 divides the optimizer state among them, FSDP the parameters
    too (of groups that have all each, the first writes), and under local SGD each trains alone between two averages.
    """
    shard = place.layout.shard
    model_is_own = shard == "full" or recipe.average_every > 1
    files = [
        _file("model", place, is_own=model_is_own),
        _file("optimizer", place, is_own=model_is_own or shard == "optimizer"),
    ]
    return [*files, _file("feedback", place, is_own=True)] if recipe.compression == "powersgd" else files


def _file(holds: Holds, place: RankCoordinates, *, is_own: bool) -> CheckpointFile:
    group = place.layout.shard_ranks or place.layout.dp
    replica = f"-dp{place.dp_rank % group}" if is_own else ""
    name = f"{holds}-pp{place.pp_rank}-tp{place.tp_rank}{replica}.safetensors"
    return CheckpointFile(name=name, holds=holds, is_writer=place.dp_rank < (group if is_own else 1))
