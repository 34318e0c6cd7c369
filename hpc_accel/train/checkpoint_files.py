"""Which files of a checkpoint hold what: what all replicas share is written once, what each has alone by itself."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.study.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """One safetensors file: whether this rank writes it (all that need it read it), and what is in it."""

    name: str
    is_writer: bool
    has_model: bool
    has_optimizer: bool


def checkpoint_files(place: RankCoordinates, recipe: Recipe) -> list[CheckpointFile]:
    """The files that make up this rank's model and optimizer.

    Replicas of plain data parallelism are equal. ZeRO-1 divides the optimizer state among them, FSDP the parameters
    too, and under local SGD each trains alone between two averages.
    """
    shard = place.layout.shard
    model_is_own = shard == "full" or recipe.average_every > 1
    optimizer_is_own = model_is_own or shard == "optimizer"
    where = f"pp{place.pp_rank}-tp{place.tp_rank}"
    parts = []
    if not model_is_own:
        name, first = f"part-{where}.safetensors", place.dp_rank == 0
        parts.append(CheckpointFile(name=name, is_writer=first, has_model=True, has_optimizer=not optimizer_is_own))
    if optimizer_is_own:
        name = f"part-{where}-dp{place.dp_rank}.safetensors"
        parts.append(CheckpointFile(name=name, is_writer=True, has_model=model_is_own, has_optimizer=True))
    return parts
