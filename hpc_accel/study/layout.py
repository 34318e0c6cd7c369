"""How a run is spread over ranks: factors, pipeline schedule, sharding, and where neighbours stand."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import SerializerFunctionWrapHandler, model_serializer

from hpc_accel.study.base import PositiveInt, StrictModel

Schedule = Literal[
    "gpipe", "1f1b", "interleaved_1f1b", "looped_bfs", "interleaved_zero_bubble", "zbv_zero_bubble", "dualpipev"
]
Shard = Literal["none", "optimizer", "full"]
Order = Literal["pp.dp.tp", "pp.tp.dp", "dp.pp.tp", "dp.tp.pp", "tp.pp.dp", "tp.dp.pp"]
"""Mesh dimensions, outermost first: neighbouring ranks, which share a node, differ in the last one."""

SINGLE = ("gpipe", "1f1b")
"""Schedules with one stage on each rank."""
LOOPED = ("interleaved_1f1b", "looped_bfs", "interleaved_zero_bubble")
"""Rank r of p holds the stages r, r + p, r + 2p, ..."""
V_SHAPED = ("zbv_zero_bubble", "dualpipev")
"""Rank r of p holds the stages r and 2p - 1 - r, so the first rank computes the loss."""
SPLIT_BACKWARD = ("interleaved_zero_bubble", *V_SHAPED)
"""See Layout.splits_backward."""


class Layout(StrictModel):
    """How a run is spread over ranks. global batch = dp x micro_batch_size x accumulation_steps.

    With pp > 1 the `accumulation_steps` micro-batches are the ones the schedule pipelines. `split` is the number of
    layers of each stage; "auto" balances FLOPs, "measured" the time each layer takes when the run starts. `shares` are
    samples of the global batch for each data-parallel replica; then `micro_batch_size` is that of the largest share.
    """

    dp: PositiveInt = 1
    pp: PositiveInt = 1
    tp: PositiveInt = 1
    shard: Shard = "none"
    schedule: Schedule | None = None
    stages_per_rank: PositiveInt = 1
    micro_batch_size: PositiveInt
    accumulation_steps: PositiveInt
    split: Literal["auto", "measured"] | tuple[PositiveInt, ...] = "auto"
    sequence_parallel: bool = False
    """Between tensor-parallel layers each rank holds a part of the sequence instead of all of it."""
    shard_ranks: PositiveInt | None = None
    """With shard full, neighbouring replicas that divide the model among them; such groups hold it whole each, and add
    up their gradients (hybrid sharding). None: all replicas are one group."""
    order: Order = "pp.dp.tp"
    shares: tuple[PositiveInt, ...] | None = None

    @model_serializer(mode="wrap")
    def _without_defaults(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A layout without groups keeps the digest that it had before there were any."""
        content: dict[str, Any] = whole(self)
        if content.get("shard_ranks") is None:
            content.pop("shard_ranks", None)
        return content

    @property
    def shard_group(self) -> int:
        """Replicas among which the model is divided; 1 where each holds it whole."""
        return (self.shard_ranks or self.dp) if self.shard == "full" else 1

    @property
    def num_ranks(self) -> int:
        """Ranks this layout occupies."""
        return self.dp * self.pp * self.tp

    @property
    def num_stages(self) -> int:
        """Stages the model is cut into."""
        return self.pp * self.stages_per_rank

    @property
    def splits_backward(self) -> bool:
        """Whether backward computes gradients of inputs first and of weights later, which fills the bubble."""
        return self.schedule in SPLIT_BACKWARD

    @property
    def loses_sharded_gradients(self) -> bool:
        """In a backward of two halves torch's FSDP2 loses gradients (torch 2.11 to 2.13: parity fails)."""
        return self.shard == "full" and self.splits_backward

    def averages_later(self, *, overlap: bool, is_traced: bool) -> bool:
        """Whether replicas average gradients after backward, and not by DistributedDataParallel's hooks during it.

        `is_traced`: torch's stages look into the graphs that its tracer made, which hooks would hide.
        """
        hookless = self.splits_backward or is_traced or not overlap
        return self.dp > 1 and self.shard != "full" and hookless

    @property
    def stages(self) -> list[list[int]]:
        """Stages of each pipeline rank, in order."""
        if self.schedule in V_SHAPED:
            return [[rank, self.num_stages - 1 - rank] for rank in range(self.pp)]
        return [list(range(rank, self.num_stages, self.pp)) for rank in range(self.pp)]

    @property
    def label(self) -> str:
        """Short name in tables: `serial`, `dp2`, `dp2.pp2.1f1b`, `dp4.fsdp`, `dp4.fsdp2` (in groups of two)."""
        parts = [f"{key}{getattr(self, key)}" for key in ("dp", "pp", "tp") if getattr(self, key) > 1]
        if self.pp > 1:
            parts.append(self.schedule or "")
        if self.stages_per_rank > 2:
            parts.append(f"v{self.stages_per_rank}")
        if self.shard != "none":
            parts.append({"optimizer": "zero1", "full": f"fsdp{self.shard_ranks or ''}"}[self.shard])
        if self.sequence_parallel:
            parts.append("sp")
        if self.order != "pp.dp.tp":
            parts.append(self.order.replace(".", ""))
        if self.shares is not None:
            parts.append("+".join(map(str, self.shares)))
        return ".".join(parts) or "serial"


def plain_order(order: Order, **sizes: int) -> Order:
    """The first order that places ranks as `order` does in a mesh of `sizes`: only dimensions above 1 count."""

    def used(names: str) -> list[str]:
        return [name for name in names.split(".") if sizes[name] > 1]

    return next(each for each in get_args(Order) if used(each) == used(order))


def micro_batch_rule(schedule: str, pp: int, stages_per_rank: int, num_micro_batches: int) -> str | None:
    """What `schedule` wants of the number of micro-batches and does not get, or None. As torch's schedules say."""
    if schedule == "1f1b" and num_micro_batches < pp:
        return f"1f1b needs at least as many micro-batches (accumulation_steps) as stages: {pp}"
    if schedule == "dualpipev" and num_micro_batches < pp * stages_per_rank:
        return f"dualpipev needs at least as many micro-batches (accumulation_steps) as stages: {pp * stages_per_rank}"
    rounds = max(1, num_micro_batches // pp)
    if schedule in ("interleaved_1f1b", "interleaved_zero_bubble") and num_micro_batches % rounds:
        return f"{schedule} runs {num_micro_batches} // pp = {rounds} rounds of equally many micro-batches"
    return None
