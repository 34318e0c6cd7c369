"""Where each rank stands in the layout: a DeviceMesh of (pp, dp, tp), tensor-parallel ranks adjacent.

tp is innermost because it communicates most and neighbouring ranks share a node; pp is outermost because
it communicates least.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from hpc_accel.study.layout import Layout

DIMENSIONS = ("pp", "dp", "tp")


@dataclass(frozen=True, kw_only=True)
class Place:
    """One rank's coordinates and the groups it communicates in.

    `mesh` is None where the group of all ranks is the only one needed: a single rank, dp alone, pp alone.
    """

    layout: Layout
    mesh: DeviceMesh | None
    pp_rank: int
    dp_rank: int
    tp_rank: int

    @property
    def is_first_stage(self) -> bool:
        """Whether the inputs enter here."""
        return self.pp_rank == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether the loss is computed here."""
        return self.pp_rank == self.layout.pp - 1

    def group(self, dimension: str) -> dist.ProcessGroup | None:
        """The group of ranks that differ only in `dimension`; None if this layout does not use it."""
        if getattr(self.layout, dimension) == 1:
            return None
        return self.mesh[dimension].get_group() if self.mesh is not None else dist.group.WORLD

    def submesh(self, dimension: str) -> DeviceMesh | None:
        """The one-dimensional mesh of `dimension`; None if this layout does not use it."""
        if self.mesh is None or getattr(self.layout, dimension) == 1:
            return None
        return self.mesh[dimension]


def make_place(layout: Layout, rank: int, device_type: str) -> Place:
    """This rank's place. Collective over all ranks: the sub-groups are created in the same order everywhere."""
    shape = tuple(getattr(layout, dimension) for dimension in DIMENSIONS)
    mesh = None
    if layout.tp > 1 or sum(size > 1 for size in shape) > 1:
        mesh = init_device_mesh(device_type, shape, mesh_dim_names=DIMENSIONS)
    pp_rank, rest = divmod(rank, layout.dp * layout.tp)
    dp_rank, tp_rank = divmod(rest, layout.tp)
    return Place(layout=layout, mesh=mesh, pp_rank=pp_rank, dp_rank=dp_rank, tp_rank=tp_rank)
