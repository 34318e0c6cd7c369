"""Where each rank stands in the layout: a DeviceMesh of pp, dp and tp in the order the layout names.

By default tp is innermost because it communicates most and neighbouring ranks share a node; pp is outermost because it
communicates least.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from hpc_accel.study.layout import Layout

REPLICAS, SHARDS = "replicas", "shards"
"""What dp is made of where the model is divided in groups of replicas."""


@dataclass(frozen=True, kw_only=True)
class RankCoordinates:
    """One rank's coordinates and the groups it communicates in.

    `mesh` is None where the group of all ranks is the only one needed: a single rank, dp alone, pp alone.
    """

    layout: Layout
    mesh: DeviceMesh | None
    pp_rank: int
    dp_rank: int
    tp_rank: int

    @property
    def stages(self) -> list[int]:
        """The stages this rank holds."""
        return self.layout.stages[self.pp_rank]

    @property
    def is_first_stage(self) -> bool:
        """Whether the inputs enter here."""
        return 0 in self.stages

    @property
    def is_last_stage(self) -> bool:
        """Whether the loss is computed here."""
        return self.layout.num_stages - 1 in self.stages

    @property
    def share(self) -> int:
        """Samples of the global batch that this rank's replica trains on."""
        layout = self.layout
        if layout.shares is not None:
            return layout.shares[self.dp_rank]
        return layout.micro_batch_size * layout.accumulation_steps

    @property
    def micro_batch_size(self) -> int:
        """Samples of one forward pass on this rank."""
        return self.share // self.layout.accumulation_steps

    @property
    def is_first_holder(self) -> bool:
        """Whether what this rank holds of a divided model is the first copy of it: the one that counts and is saved."""
        return self.dp_rank < self.layout.shard_group or self.layout.shard != "full"

    def group(self, dimension: str) -> dist.ProcessGroup | None:
        """The group of ranks that differ only in `dimension`; None if this layout does not use it."""
        if getattr(self.layout, dimension) == 1:
            return None
        return self.mesh[dimension].get_group() if self.mesh is not None else dist.group.WORLD

    def submesh(self, dimension: str) -> DeviceMesh | None:
        """The mesh of `dimension`; None if this layout does not use it. Of dp in groups: groups, and ranks of each."""
        if self.mesh is None or getattr(self.layout, dimension) == 1:
            return None
        if dimension == "dp" and self.layout.shard_ranks is not None:
            return self.mesh[REPLICAS, SHARDS]
        return self.mesh[dimension]


def _parts(layout: Layout, sizes: dict[str, int]) -> dict[str, int]:
    """The dimensions of the mesh, outermost first: where the model is divided in groups of replicas, dp is two."""
    parts: dict[str, int] = {}
    for dimension, size in sizes.items():
        if dimension == "dp" and layout.shard_ranks is not None:
            parts |= {REPLICAS: size // layout.shard_ranks, SHARDS: layout.shard_ranks}
        else:
            parts[dimension] = size
    return parts


def rank_coordinates(layout: Layout, rank: int, device_type: str) -> RankCoordinates:
    """This rank's place. Collective over all ranks: the sub-groups are created in the same order everywhere."""
    order = tuple(layout.order.split("."))
    sizes = {dimension: getattr(layout, dimension) for dimension in order}
    mesh = None
    if layout.tp > 1 or layout.shard == "full" or sum(size > 1 for size in sizes.values()) > 1:
        parts = _parts(layout, sizes)
        mesh = init_device_mesh(device_type, tuple(parts.values()), mesh_dim_names=tuple(parts))
        if layout.shard_ranks is not None:
            mesh[REPLICAS, SHARDS]._flatten("dp")
    coordinates, rest = {}, rank
    for dimension in reversed(order):
        rest, coordinates[dimension] = divmod(rest, sizes[dimension])
    return RankCoordinates(
        layout=layout,
        mesh=mesh,
        pp_rank=coordinates["pp"],
        dp_rank=coordinates["dp"],
        tp_rank=coordinates["tp"],
    )
