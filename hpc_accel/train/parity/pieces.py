"""How the serial run cuts a global batch: whole, in equal pieces, backwards, or grouped as a layout does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hpc_accel.runtime.batches import ShareSampler, sampler_for
from hpc_accel.runtime.loss import counts_of
from hpc_accel.study.layout import Layout
from hpc_accel.study.run import Run
from hpc_accel.workloads.batch import Batch


@dataclass(frozen=True, kw_only=True)
class BatchPiece:
    """Samples that are computed together. The first `count` of them count; `replica` computes them."""

    samples: list[int]
    count: int
    replica: int = 0

    @property
    def is_padded(self) -> bool:
        """Whether samples are computed that do not count, beside such that do."""
        return 0 < self.count < len(self.samples)

    def counted(self, batch: Batch) -> Batch:
        """Of the piece's batch, the samples that count."""
        return batch.cut(slice(self.count)) if self.is_padded else batch


Cutting = Callable[[int], list[BatchPiece]]
"""The pieces of the global batch of a step, in the order they are computed."""


def sampler_of(run: Run, dataset: Any, layout: Layout | None = None, replica: int = 0) -> ShareSampler:
    """The samples of one replica of `layout`; without a layout, of the serial run."""
    total = run.workload.global_batch_size
    start, share = 0, total
    if layout is not None:
        shares = layout.shares or (layout.micro_batch_size * layout.accumulation_steps,) * layout.dp
        start, share = sum(shares[:replica]), shares[replica]
    keep_last = run.workload.last_batch == "keep"
    return sampler_for(dataset, total, start=start, share=share, seed=run.seed, keep_last=keep_last)


def in_pieces(sampler: ShareSampler, num_pieces: int, *, backwards: bool = False, inside: bool = False) -> Cutting:
    """The batch in `num_pieces` of nearly equal size; `backwards` the last one first, or samples `inside` reversed."""

    def cut(step: int) -> list[BatchPiece]:
        samples = sampler.samples(step)[: sampler.valid(step)]
        each, more = divmod(len(samples), num_pieces)
        ends = [index * each + min(index, more) for index in range(num_pieces + 1)]
        parts = [samples[a:b] for a, b in pairwise(ends) if a < b]
        parts = [part[::-1] for part in parts] if inside else parts
        return [BatchPiece(samples=part, count=len(part)) for part in (parts[::-1] if backwards else parts)]

    return cut


def grouped(run: Run, dataset: Any, layout: Layout, *, inside: bool = False) -> Cutting:
    """The micro-batches of all replicas of `layout`, the first replica's first; with stages, padding included.

    Where BatchNorm normalises over all replicas, the micro-batches of one pass are one piece.
    """
    samplers = [sampler_of(run, dataset, layout, replica) for replica in range(layout.dp)]

    def cut(step: int) -> list[BatchPiece]:
        pieces = []
        for replica, sampler in enumerate(samplers):
            samples = sampler.samples(step)
            size = len(samples) // layout.accumulation_steps
            counts = counts_of(sampler.valid(step), layout.accumulation_steps, size)
            for index, count in enumerate(counts):
                part = samples[index * size :][:size]
                part = part[:count] if count and layout.pp == 1 else part
                part = part[::-1] if inside and count == len(part) else part
                pieces.append(BatchPiece(samples=part, count=count, replica=replica))
        return _by_pass(pieces, layout) if run.recipe.sync_batch_norm else pieces

    return cut


def _by_pass(pieces: list[BatchPiece], layout: Layout) -> list[BatchPiece]:
    """Micro-batches that replicas compute at the same time in one piece, what counts first."""
    united = []
    for index in range(layout.accumulation_steps):
        mine = pieces[index :: layout.accumulation_steps]
        counted = [sample for piece in mine for sample in piece.samples[: piece.count]]
        padding = [sample for piece in mine for sample in piece.samples[piece.count :]]
        united.append(BatchPiece(samples=counted + padding, count=len(counted)))
    return united
