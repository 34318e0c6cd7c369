"""The same samples in the same order, whatever the layout: global batch k is the same set for every run of a seed.

An epoch is a permutation drawn from (seed, epoch). It is cut into global batches; the last incomplete one is
dropped, and how many samples that leaves out is part of the record. A data-parallel rank takes its contiguous
share of each global batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hpc_accel.errors import DataError


class ShareSampler(Sampler[list[int]]):
    """Endless sample indices of one data-parallel rank's share, one list a step, from step `first_step` on."""

    def __init__(
        self, num_samples: int, global_batch_size: int, dp: int, dp_rank: int, seed: int, first_step: int = 0
    ) -> None:
        if global_batch_size > num_samples:
            raise DataError(
                f"{num_samples} samples for a global batch of {global_batch_size}",
                "a batch holds each sample at most once",
                f"set global_batch_size <= {num_samples}",
            )
        self.num_samples = num_samples
        self.global_batch_size = global_batch_size
        self.share = global_batch_size // dp
        self.start = dp_rank * self.share
        self.seed = seed
        self.first_step = first_step

    def __iter__(self) -> Iterator[list[int]]:
        epoch, first_batch = divmod(self.first_step, self.num_samples // self.global_batch_size)
        while True:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(self.num_samples, generator=generator)
            for batch in range(first_batch, self.num_samples // self.global_batch_size):
                begin = batch * self.global_batch_size + self.start
                yield order[begin : begin + self.share].tolist()
            epoch, first_batch = epoch + 1, 0

    @property
    def samples_dropped_per_epoch(self) -> int:
        """Samples of the last, incomplete global batch, left out of each epoch (others each time)."""
        return self.num_samples % self.global_batch_size


def share_loader(dataset: Dataset[Any], sampler: ShareSampler) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (inputs, targets) of one rank's share, each [share, ...]."""
    loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=sampler)
    for batch in loader:
        inputs, targets = batch
        yield inputs, targets
