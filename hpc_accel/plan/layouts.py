"""Every layout that could be tried on the given ranks: factors, micro-batches and schedules, none of them judged yet.

Numbers of ranks are the divisors of one node, then of the number of nodes, so that each fills whole nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

from hpc_accel.study.layout import Layout, Schedule
from hpc_accel.study.study import ResourcesChoice


@lru_cache(maxsize=1024)
def divisors(number: int) -> tuple[int, ...]:
    """All divisors, ascending."""
    small = [i for i in range(1, math.isqrt(number) + 1) if number % i == 0]
    return tuple(small + [number // i for i in reversed(small) if i * i != number])


def rank_counts(limits: ResourcesChoice) -> tuple[int, ...]:
    """Numbers of ranks worth trying, ascending."""
    nodes = [limits.ranks_per_node * count for count in divisors(limits.num_nodes)]
    return tuple(sorted({*divisors(limits.ranks_per_node), *nodes}))


def factors(limits: ResourcesChoice) -> Iterator[tuple[int, int, int]]:
    """All (dp, pp, tp) of those numbers of ranks."""
    for ranks in rank_counts(limits):
        for tp in divisors(ranks):
            for pp in divisors(ranks // tp):
                yield ranks // tp // pp, pp, tp


def variants(dp: int, pp: int, tp: int, global_batch_size: int) -> Iterator[Layout]:
    """Micro-batch sizes and schedules of one (dp, pp, tp). Nothing if dp does not divide the batch."""
    share, rest = divmod(global_batch_size, dp)
    if rest:
        return
    for micro_batch_size in divisors(share):
        accumulation_steps = share // micro_batch_size
        schedules: list[Schedule | None] = [None] if pp == 1 else ["gpipe"]
        if pp > 1 and accumulation_steps >= pp:
            schedules.append("1f1b")
        for schedule in schedules:
            yield Layout(
                dp=dp,
                pp=pp,
                tp=tp,
                schedule=schedule,
                micro_batch_size=micro_batch_size,
                accumulation_steps=accumulation_steps,
            )
