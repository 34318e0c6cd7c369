"""One published measurement as the planner sees it: model, layout and ranks, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpc_accel.plan.transformer import TransformerSizes
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recompute
from hpc_accel.study.run import Resources


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of a published table. What it does not say is None."""

    number: int
    """Of the row, from 1."""
    sizes: TransformerSizes
    layout: Layout | None
    refused: str | None
    """Why the planner knows no such layout."""
    resources: Resources
    recompute: Recompute
    context_parallel: int
    ran: bool
    step_time_s: float | None
    allocated_bytes: float | None
    """Held between steps."""
    peak_memory_bytes: float | None
    group: tuple[Any, ...]
    """What rows of one group share: they compute the same on equally many GPUs, and differ in layout."""
    fold: tuple[Any, ...]
    """Rows of one fold are never judged by what was measured in another of it."""
    block: tuple[Any, ...]
    """What the time of a block depends on: sizes, tensor-parallel ranks, samples of a micro-batch."""
    variant: tuple[int, ...]
    """Which overrides of the mapping file's program it ran under."""
    arguments: tuple[Any, ...]
    """Rows that agree in these ran the same."""
    scored: bool
    """Whether its time counts; the mapping file says why not."""

    @property
    def rule(self) -> tuple[int, int, int]:
        """The rule of thumb: smallest tp, then smallest pp, then largest micro-batch."""
        layout = self.layout
        if layout is None:
            return 10**6, 10**6, 0
        return layout.tp, layout.pp, -layout.micro_batch_size

    @property
    def flops_per_gpu(self) -> float:
        """Of a step, forward and backward, without recomputation."""
        sizes, layout = self.sizes, self.layout
        if layout is None:
            return 0.0
        samples = layout.dp * layout.micro_batch_size * layout.accumulation_steps
        s, h = sizes.sequence, sizes.hidden
        weights = h * sizes.qkv_columns + h * h + (3 if sizes.gated else 2) * h * sizes.feed_forward
        forward = sizes.layers * (2.0 * s * weights + 4.0 * s * s * h) + 2.0 * s * h * sizes.vocabulary
        return 3.0 * samples * forward / layout.num_ranks
