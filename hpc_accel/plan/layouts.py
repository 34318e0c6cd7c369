"""Every layout that could be tried on the given ranks: factors, micro-batches, schedules, sharding; none judged yet.

Numbers of ranks are the divisors of one node, then of the number of nodes, so that each fills whole nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from hpc_accel.study.layout import LOOPED, SINGLE, V_SHAPED, Layout, Schedule, micro_batch_rule
from hpc_accel.study.study_file import ResourcesChoice


@lru_cache(maxsize=1024)
def divisors(number: int) -> tuple[int, ...]:
    """All divisors, ascending."""
    small = [i for i in range(1, math.isqrt(number) + 1) if number % i == 0]
    return tuple(small + [number // i for i in reversed(small) if i * i != number])


def rank_counts(limits: ResourcesChoice) -> tuple[int, ...]:
    """Numbers of ranks worth trying, ascending."""
    nodes = [limits.ranks_per_node * count for count in divisors(limits.num_nodes)]
    return tuple(sorted({*divisors(limits.ranks_per_node), *nodes}))


def factors(limits: ResourcesChoice, *, whole: bool = False) -> Iterator[tuple[int, int, int]]:
    """All (dp, pp, tp) of those numbers of ranks; `whole`: of all ranks alone."""
    for ranks in (limits.num_nodes * limits.ranks_per_node,) if whole else rank_counts(limits):
        for tp in divisors(ranks):
            for pp in divisors(ranks // tp):
                yield ranks // tp // pp, pp, tp


@dataclass(frozen=True, kw_only=True)
class MemoryVariants:
    """One layout, and the same with what saves memory, most of it last."""

    whole: Layout
    sequence_length: int | None = None
    """Of what tensor-parallel ranks can divide; None where they cannot."""
    ranks_per_node: int | None = None
    """Groups of replicas that divide the model among them lie inside a node; None: there are no groups."""

    def layouts(self) -> Iterator[Layout]:
        """All of them, from the one that saves nothing."""
        yield self.whole
        fields = self.whole.model_dump()
        for saving in self._shards():
            for sequence_parallel in (False, True) if self._divides else (False,):
                layout = Layout(**fields | saving | {"sequence_parallel": sequence_parallel})
                if (saving["shard"] != "none" or sequence_parallel) and not layout.loses_sharded_gradients:
                    yield layout

    def _shards(self) -> list[dict[str, Any]]:
        """How replicas may share what they hold: not, the optimizer, all in groups inside nodes, or all everywhere."""
        if self.whole.dp == 1:
            return [{"shard": "none"}]
        groups = [{"shard": "full", "shard_ranks": self.node_group}] if self.node_group else []
        return [{"shard": "none"}, {"shard": "optimizer"}, *groups, {"shard": "full"}]

    @property
    def node_group(self) -> int | None:
        """Replicas of one node, where there are several nodes of several."""
        if self.ranks_per_node is None:
            return None
        size = min(self.whole.dp, self.ranks_per_node // self.whole.tp)
        return size if 1 < size < self.whole.dp and self.whole.dp % size == 0 else None

    def divided(self) -> Iterator[Layout]:
        """Those that differ in the work of a pass: the sequence whole, and divided."""
        yield self.whole
        if self._divides:
            yield self.whole.model_copy(update={"sequence_parallel": True})

    @property
    def num_layouts(self) -> int:
        """How many that are."""
        num_shards = 2 if self.whole.splits_backward and self.whole.dp > 1 else len(self._shards())
        return num_shards * (2 if self._divides else 1)

    @property
    def _divides(self) -> bool:
        return self.whole.tp > 1 and self.sequence_length is not None and self.sequence_length % self.whole.tp == 0


def memory_variants(
    dp: int,
    pp: int,
    tp: int,
    global_batch_size: int,
    *,
    num_cuttable_layers: int = 0,
    sequence_length: int | None = None,
    ranks_per_node: int | None = None,
) -> Iterator[MemoryVariants]:
    """Micro-batch sizes and schedules of one (dp, pp, tp). Nothing if dp does not divide the batch.

    Ranks hold two stages, in a loop or a V, where layers suffice for that.
    """
    share, rest = divmod(global_batch_size, dp)
    if rest:
        return
    for micro_batch_size in divisors(share):
        accumulation_steps = share // micro_batch_size
        for schedule, chunks in _schedules(pp, accumulation_steps, num_cuttable_layers):
            layout = Layout(
                dp=dp,
                pp=pp,
                tp=tp,
                schedule=schedule,
                stages_per_rank=chunks,
                micro_batch_size=micro_batch_size,
                accumulation_steps=accumulation_steps,
            )
            yield MemoryVariants(whole=layout, sequence_length=sequence_length, ranks_per_node=ranks_per_node)


def variants(dp: int, pp: int, tp: int, global_batch_size: int, **model: Any) -> Iterator[Layout]:
    """All layouts of all `memory_variants`."""
    return chain.from_iterable(group.layouts() for group in memory_variants(dp, pp, tp, global_batch_size, **model))


def _schedules(pp: int, num_micro_batches: int, num_cuttable_layers: int) -> list[tuple[Schedule | None, int]]:
    """Schedules that can run so many micro-batches, and the stages each gives a rank.

    Of those that only differ in memory the one that keeps more is left out: looped_bfs where interleaved_1f1b works.
    """
    if pp == 1:
        return [(None, 1)]
    two = LOOPED + V_SHAPED if 2 * pp <= num_cuttable_layers else ()
    wanted = [*((schedule, 1) for schedule in SINGLE), *((schedule, 2) for schedule in two)]
    found = [one for one in wanted if micro_batch_rule(one[0], pp, one[1], num_micro_batches) is None]
    if ("interleaved_1f1b", 2) in found:
        found.remove(("looped_bfs", 2))
    return found  # type: ignore[return-value]
