"""Averages over the replicas in large buckets: gradients after backward, or parameters every so many steps.

Used where DistributedDataParallel cannot be: without overlap on purpose, under schedules whose backward in two halves
never fires its hooks, and for local SGD (Stich, arXiv 1805.09767), which exchanges parameters and no gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

DEFAULT_BUCKET_BYTES = 25 * 2**20


class ReplicaAverage:
    """Averages tensors over `group`, bucket by bucket; `wire_dtype` is what they travel in, None their own."""

    def __init__(
        self, group: dist.ProcessGroup, bucket_bytes: int = DEFAULT_BUCKET_BYTES, wire_dtype: torch.dtype | None = None
    ) -> None:
        self.group = group
        self.bucket_bytes = bucket_bytes
        self.wire_dtype = wire_dtype

    def __call__(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its mean over the group. Collective: the same shapes and order on every rank."""
        size = dist.get_world_size(self.group)
        with torch.no_grad():
            for bucket in self._buckets(tensors):
                flat = torch.cat([tensor.flatten() for tensor in bucket])
                # Divided first, so that a sum in 16 bits does not overflow.
                flat = flat.div_(size).to(self.wire_dtype or flat.dtype)
                dist.all_reduce(flat, group=self.group)
                for tensor, mean in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                    tensor.copy_(mean.view_as(tensor))

    def _buckets(self, tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
        bucket: list[torch.Tensor] = []
        filled = 0
        for tensor in tensors:
            if bucket and (filled >= self.bucket_bytes or tensor.dtype != bucket[0].dtype):
                yield bucket
                bucket, filled = [], 0
            bucket.append(tensor)
            filled += tensor.numel() * tensor.element_size()
        if bucket:
            yield bucket


def gradients_of(parameters: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
    """The gradient of each parameter; zeros where this rank's samples touched none of it, as all ranks need one."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def add_up(tensors: Sequence[torch.Tensor], group: dist.ProcessGroup) -> None:
    """Replace each tensor by its sum over the group, all in one message. Of an FSDP shard, the shard."""
    own = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    with torch.no_grad():
        flat = torch.cat([tensor.flatten() for tensor in own])
        dist.all_reduce(flat, group=group)
        for tensor, whole in zip(own, flat.split([tensor.numel() for tensor in own]), strict=True):
            tensor.copy_(whole.view_as(tensor))
