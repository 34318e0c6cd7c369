"""Averages over the replicas in large buckets: gradients after backward, or parameters every so many steps.

Used where DistributedDataParallel cannot be: without overlap on purpose, under schedules whose backward in two halves
never fires its hooks, and for local SGD (Stich, arXiv 1805.09767), which exchanges parameters and no gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import nn

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
        self._average(tensors, [True] * len(tensors))

    def gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the group. Collective: the same parameters on every rank.

        A rank whose samples touched none of a parameter adds zeros. Where no rank's did, there is no gradient
        afterwards, as in a serial run: an optimizer leaves the parameter alone.
        """
        used = [parameter.grad is not None for parameter in parameters]
        used_anywhere = self._average(gradients_of(parameters), used)
        for parameter, is_used in zip(parameters, used_anywhere, strict=True):
            if not is_used:
                parameter.grad = None

    def _average(self, tensors: Sequence[torch.Tensor], used: Sequence[bool]) -> list[bool]:
        """The means in place; which tensors any rank `used`."""
        size = dist.get_world_size(self.group)
        found: list[bool] = []
        with torch.no_grad():
            for bucket in self._buckets(tensors):
                flags = torch.tensor(used[len(found) :][: len(bucket)], dtype=bucket[0].dtype).to(bucket[0].device)
                flat = torch.cat([*(tensor.flatten() for tensor in bucket), flags])
                # Divided first, so that a sum in 16 bits does not overflow.
                flat = flat.div_(size).to(self._wire(flat.dtype))
                dist.all_reduce(flat, group=self.group)
                *means, flags = flat.split([*(tensor.numel() for tensor in bucket), len(bucket)])
                for tensor, mean in zip(bucket, means, strict=True):
                    tensor.copy_(mean.view_as(tensor))
                found += [flag != 0 for flag in flags.tolist()]
        return found

    def _wire(self, dtype: torch.dtype) -> torch.dtype:
        return dtype if self.wire_dtype is None or dtype.is_complex else self.wire_dtype

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


def gradients_of(parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    """The gradient of each parameter, dense; zeros where this rank's samples touched none of it, as all need one."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        elif parameter.grad.is_sparse:
            parameter.grad = parameter.grad.to_dense()
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def add_up(tensors: Sequence[torch.Tensor], group: dist.ProcessGroup) -> None:
    """Replace each tensor by its sum over the group, all in one message. Of an FSDP shard, the shard."""
    own = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    with torch.no_grad():
        flat = torch.cat([tensor.flatten() for tensor in own])
        dist.all_reduce(flat, group=group)
        for tensor, whole in zip(own, flat.split([tensor.numel() for tensor in own]), strict=True):
            tensor.copy_(whole.view_as(tensor))
