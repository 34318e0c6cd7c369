"""An event simulation of a pipeline schedule: how long one step takes, and how much of it each rank waits.

F(stage, i) waits for F(stage - 1, i), backward of a stage for backward (B, or I where it is split) of the stage after
it, and both for the message between them, unless one rank holds both stages. W waits for nothing but its turn.
With equal stages and free messages GPipe and 1F1B idle a fraction (p - 1) / (m + p - 1) of the step, and v stages a
rank interleaved (p - 1) / (v m + p - 1) (Huang et al., GPipe, 2019; Narayanan et al., Megatron-LM, 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from hpc_accel.plan.schedules import SCHEDULES, Action, Kind, Order, told
from hpc_accel.study.layout import SPLIT_BACKWARD

WHOLE = 4096
"""Stages times micro-batches that are always simulated whole: that takes a few milliseconds."""


@dataclass(frozen=True, kw_only=True)
class PassTimes:
    """Seconds of one micro-batch's passes, per stage. Without `weight_s` a split backward has nothing to do in W."""

    forward_s: Sequence[float]
    backward_s: Sequence[float]
    """Of the whole backward pass."""
    input_s: Sequence[float] | None = None
    """Of the half that gives gradients of inputs; unknown means all of backward but `weight_s`."""
    weight_s: Sequence[float] | None = None
    """Of the half that gives gradients of weights."""

    @property
    def by_kind(self) -> dict[Kind, Sequence[float]]:
        """Per kind of pass, seconds per stage."""
        weight = self.weight_s or [0.0] * len(self.backward_s)
        rest = self.input_s or [whole - part for whole, part in zip(self.backward_s, weight, strict=True)]
        return {"F": self.forward_s, "B": self.backward_s, "I": rest, "W": weight}


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What a simulated step took. `busy_s` is each rank's own work; the rest of the makespan it waited."""

    makespan_s: float
    busy_s: tuple[float, ...]

    @property
    def bubble_fraction(self) -> float:
        """Share of all ranks' time that was spent waiting."""
        total = self.makespan_s * len(self.busy_s)
        return 1.0 - sum(self.busy_s) / total if total else 0.0


Record = Callable[[int, Action, float, float], object]
"""Is told the rank, the pass, and the seconds at which it starts and ends."""


def simulate(order: Order, times: PassTimes, send_s: float, record: Record | None = None) -> Timeline:
    """Run `order` with the given times; `send_s` lies between dependent passes of stages on different ranks.

    Raises ValueError for an order that waits for itself, naming the first action of each rank that cannot start.
    """
    seconds = times.by_kind
    num_stages, last = len(times.forward_s), len(times.forward_s) - 1
    rank_of = {stage: rank for rank, actions in enumerate(order) for _, stage, _ in actions}
    num_micro = 1 + max(micro for actions in order for _, _, micro in actions)
    # Ends of passes by stage and micro-batch; None while not run. I and B end what the stage before waits for.
    forward: list[list[float | None]] = [[None] * num_micro for _ in range(num_stages)]
    backward: list[list[float | None]] = [[None] * num_micro for _ in range(num_stages)]
    delay_before = [0.0 if s == 0 or rank_of[s] == rank_of[s - 1] else send_s for s in range(num_stages)]
    neighbours = _neighbours(rank_of, num_stages, len(order))
    clock = [0.0] * len(order)
    position = [0] * len(order)
    waiting = list(range(len(order)))
    while waiting:
        rank = waiting.pop()
        started, now = position[rank], clock[rank]
        for kind, stage, micro in order[rank][started:]:
            if kind == "F":
                arrived = forward[stage - 1][micro] if stage else 0.0
                delay = delay_before[stage]
            elif kind == "W":
                arrived, delay = now, 0.0
            elif stage == last:
                arrived, delay = forward[stage][micro], 0.0
            else:
                arrived, delay = backward[stage + 1][micro], delay_before[stage + 1]
            if arrived is None:
                break
            start = max(now, arrived + delay)
            now = start + seconds[kind][stage]
            if record is not None:
                record(rank, (kind, stage, micro), start, now)
            if kind != "W":
                (forward if kind == "F" else backward)[stage][micro] = now
            position[rank] += 1
        clock[rank] = now
        if position[rank] > started:
            waiting += neighbours[rank]
    stuck = [
        f"rank {r}: {told(actions[position[r] :][:1])}" for r, actions in enumerate(order) if position[r] < len(actions)
    ]
    if stuck:
        raise ValueError(f"the schedule waits for itself: {', '.join(stuck)}")
    busy = [sum(seconds[kind][stage] for kind, stage, _ in actions) for actions in order]
    return Timeline(makespan_s=max(clock), busy_s=tuple(busy))


@dataclass(frozen=True, kw_only=True)
class RankWork:
    """What no order can hurry: one rank's passes of one micro-batch, and that micro-batch's way there and back.

    The way is through the stages before the rank's first one, and over the boundaries between them.
    """

    work_s: float
    to_inputs_s: float
    """The rank's passes but for those of weights that the way back need not wait for."""
    way_there_s: float
    way_back_s: float
    num_hops: int

    def least_s(self, num_micro_batches: int, send_s: float) -> float:
        """A step takes at least this long."""
        back = self.to_inputs_s * num_micro_batches + self.way_back_s + self.num_hops * send_s
        return self.way_there_s + self.num_hops * send_s + max(self.work_s * num_micro_batches, back)


def rank_works(schedule: str, stages: Sequence[Sequence[int]], times: PassTimes) -> list[RankWork]:
    """Per rank, given the stages each holds."""
    seconds = times.by_kind
    forward, whole = seconds["F"], seconds["B"]
    split = schedule in SPLIT_BACKWARD
    back = seconds["I"] if split else whole
    # DualPipeV splits some backward passes only.
    all_split = split and schedule != "dualpipev"
    works = [b + w for b, w in zip(seconds["I"], seconds["W"], strict=True)] if all_split else whole
    there, returned = [0.0, *accumulate(forward)], [0.0, *accumulate(back)]
    return [
        RankWork(
            work_s=sum(forward[stage] + works[stage] for stage in held),
            to_inputs_s=sum(forward[stage] + back[stage] for stage in held),
            way_there_s=there[min(held)],
            way_back_s=returned[min(held)],
            num_hops=min(held),
        )
        for held in stages
    ]


def step_time_s(schedule: str, ranks: int, num_micro_batches: int, times: PassTimes, send_s: float) -> float:
    """Makespan of one step. A schedule repeats, so beyond a few rounds the rest is extrapolated."""
    chunks = len(times.forward_s) // ranks

    def simulated(num: int) -> float:
        return simulate(_order(schedule, ranks, chunks, num), times, send_s).makespan_s

    # One period is a round of interleaving, else p micro-batches: with messages the pattern may repeat only after a
    # round trip.
    rounds = max(1, num_micro_batches // ranks)
    interleaved = num_micro_batches % rounds == 0 and chunks > 1
    period = num_micro_batches // rounds if interleaved else ranks
    full = 3 * period
    if num_micro_batches <= full + period or len(times.forward_s) * num_micro_batches <= WHOLE:
        return simulated(num_micro_batches)
    long, short = simulated(full), simulated(full - period)
    extrapolated = long + (num_micro_batches - full) * (long - short) / period
    # The busiest rank may take some rounds to hold up the others.
    held = [sorted({stage for _, stage, _ in actions}) for actions in _order(schedule, ranks, chunks, 1)]
    works = rank_works(schedule, held, times)
    return max(extrapolated, *(work.least_s(num_micro_batches, send_s) for work in works))


@lru_cache(maxsize=32)
def _order(schedule: str, ranks: int, chunks: int, num_micro_batches: int) -> Order:
    """A search asks for the same order with many times."""
    return SCHEDULES[schedule](ranks, chunks, num_micro_batches)


def _neighbours(rank_of: dict[int, int], num_stages: int, num_ranks: int) -> list[list[int]]:
    """Per rank, those whose stages come before or after its own."""
    found: list[set[int]] = [set() for _ in range(num_ranks)]
    for stage in range(1, num_stages):
        one, other = rank_of[stage - 1], rank_of[stage]
        if one != other:
            found[one].add(other)
            found[other].add(one)
    return [sorted(ranks) for ranks in found]
