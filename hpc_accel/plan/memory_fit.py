"""Whether a run's fullest rank has room in its memory, has it barely, or by how much it has not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hpc_accel.errors import ConfigError
from hpc_accel.plan.memory import CONTEXT_BYTES, USABLE_SHARE, device_limit_bytes, ranks_per_gpu
from hpc_accel.study.layout import Layout
from hpc_accel.study.run import Resources

if TYPE_CHECKING:
    from hpc_accel.plan.cost import StepModel

TIGHT_SHARE = 0.85
"""Of what a rank may take. Published runs above that were up to 2.7 times slower than their like: the allocator gives
memory back and asks for it again."""
Fit = Literal["fits", "tight", "too large"]


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the fullest rank needs and what it may take; None where nobody said how large its memory is."""

    need_bytes: int
    limit_bytes: int | None
    what: str
    """The limit in words."""
    more: str
    """What would give it more."""

    @property
    def fit(self) -> Fit | None:
        """None where no limit is known."""
        if self.limit_bytes is None:
            return None
        if self.need_bytes > self.limit_bytes:
            return "too large"
        return "tight" if self.need_bytes > TIGHT_SHARE * self.limit_bytes else "fits"

    @property
    def note(self) -> str | None:
        """What to know of a run that fits barely or not."""
        if self.fit in (None, "fits") or self.limit_bytes is None:
            return None
        need, limit = self.need_bytes / 1e9, self.limit_bytes / 1e9
        if self.fit == "tight":
            return f"memory is tight: {need:.1f} of {limit:.1f} GB per rank; such runs may be slower than predicted"
        return f"memory is short by {need - limit:.1f} GB per rank: {need:.1f} of {limit:.1f} GB"


def room_of(layout: Layout, resources: Resources, model: StepModel) -> Room:
    """Of `layout` on these nodes."""
    need = model.peak_memory_bytes(layout)
    if model.kind.device == "cuda":
        sharing = ranks_per_gpu(model.kind, resources)
        whole = "the GPU's memory" if sharing == 1 else f"a GPU's memory divided by the {sharing} ranks that share it"
        return Room(
            need_bytes=need,
            limit_bytes=device_limit_bytes(model.kind, resources),
            what=f"{USABLE_SHARE:.0%} of {whole}, less {CONTEXT_BYTES / 1e9:.1f} GB for the CUDA context",
            more="shard: full" if sharing == 1 else "fewer ranks to a GPU",
        )
    node, asked = model.kind.memory_bytes, resources.memory_mb
    return Room(
        need_bytes=need,
        limit_bytes=(min(node, asked * 10**6) if asked else node) // resources.ranks_per_node,
        what=f"a rank's share of {'resources.memory_mb and of ' if asked else ''}the node's memory",
        more="raise resources.memory_mb" if asked else "fewer ranks per node",
    )


def memory_refusal(name: str, layout: Layout, resources: Resources, model: StepModel) -> ConfigError | None:
    """Why `layout` would run out of memory, with what is missing; or None."""
    room = room_of(layout, resources, model)
    if room.fit != "too large" or room.limit_bytes is None:
        return None
    need, limit = room.need_bytes / 1e9, max(0, room.limit_bytes) / 1e9
    size = f"micro_batch_size {layout.micro_batch_size}"
    return ConfigError(
        f"{name} {layout.label}: {size} needs {need:.1f} GB of {limit:.1f} GB per rank, {need - limit:.1f} GB too much",
        f"predicted peak memory stays within {room.what}",
        f"use a smaller micro_batch_size, more stages or tensor-parallel ranks, or {room.more}",
    )
