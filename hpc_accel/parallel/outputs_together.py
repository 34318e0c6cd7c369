"""Outputs and targets of all replicas in front of the loss, for workloads with `gather_outputs`."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.utils._pytree import tree_map_only

from hpc_accel.parallel.exchange import gather
from hpc_accel.parallel.mesh import RankCoordinates


class OutputsTogether:
    """Gathers tensors [own samples, ...] of the replicas of `group` into [all samples, ...], in their order.

    Backward adds up what all replicas' losses say of an output, and gives it to the replica that it came from. As each
    computes the same loss, that is their number times the gradient: what an average over replicas makes right.
    """

    def __init__(self, group: dist.ProcessGroup, shares: tuple[int, ...] | None) -> None:
        """`shares` are the samples of each replica where they differ."""
        self.group = group
        self.shares = shares

    def __call__(self, values: Any) -> Any:
        """`values`, a tensor or tensors in a tuple, list or dict, each of all replicas. Collective over them."""
        return tree_map_only(torch.Tensor, self._gathered, values)

    def _gathered(self, own: torch.Tensor) -> torch.Tensor:
        if self.shares is None:
            return gather(own, self.group, 0, partial_gradient=True)
        most = max(self.shares)
        filled = torch.cat([own, own.new_zeros((most - len(own), *own.shape[1:]))])
        parts = gather(filled, self.group, 0, partial_gradient=True).split(most)
        return torch.cat([part[:share] for part, share in zip(parts, self.shares, strict=True)])


def outputs_together(place: RankCoordinates) -> OutputsTogether | None:
    """For this rank; None where it has no other replica."""
    group = place.group("dp")
    return OutputsTogether(group, place.layout.shares) if group is not None else None
