"""Pipeline schedules as data, and an event simulation that says how long one step of them takes.

A schedule is, for each stage, the order in which it runs its forward (F) and backward (B) passes:

    1f1b, 2 stages, 3 micro-batches      stage 0:  F0 F1 B0 F2 B1 B2
                                         stage 1:  F0 B0 F1 B1 F2 B2

F(stage, i) waits for F(stage - 1, i) and the message that carries it; B(stage, i) waits for B(stage + 1, i).
With equal stages and free messages both schedules idle a fraction (p - 1) / (m + p - 1) of the step
(Huang et al., GPipe, 2019; Narayanan et al., PipeDream-Flush, 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Action = tuple[Literal["F", "B"], int]
Order = list[list[Action]]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What a simulated step took. `busy_s` is each stage's own work; the rest of the makespan it waited."""

    makespan_s: float
    busy_s: tuple[float, ...]

    @property
    def bubble_fraction(self) -> float:
        """Share of all stages' time that was spent waiting."""
        total = self.makespan_s * len(self.busy_s)
        return 1.0 - sum(self.busy_s) / total if total else 0.0


def gpipe(num_stages: int, num_micro_batches: int) -> Order:
    """All forward passes, then all backward passes, in the same order of micro-batches."""
    forward: list[Action] = [("F", i) for i in range(num_micro_batches)]
    backward: list[Action] = [("B", i) for i in range(num_micro_batches)]
    return [forward + backward for _ in range(num_stages)]


def one_f_one_b(num_stages: int, num_micro_batches: int) -> Order:
    """Stage i runs p - 1 - i forwards ahead, then alternates, so that at most p - i micro-batches are in flight."""
    order: Order = []
    for stage in range(num_stages):
        ahead = min(num_stages - 1 - stage, num_micro_batches)
        actions: list[Action] = [("F", i) for i in range(ahead)]
        for i in range(num_micro_batches - ahead):
            actions += [("F", ahead + i), ("B", i)]
        actions += [("B", i) for i in range(num_micro_batches - ahead, num_micro_batches)]
        order.append(actions)
    return order


SCHEDULES: dict[str, Callable[[int, int], Order]] = {"gpipe": gpipe, "1f1b": one_f_one_b}


def in_flight(schedule: str, num_stages: int, stage: int, num_micro_batches: int) -> int:
    """Micro-batches whose activations `stage` holds at once."""
    return num_micro_batches if schedule == "gpipe" else min(num_stages - stage, num_micro_batches)


def simulate(order: Order, forward_s: Sequence[float], backward_s: Sequence[float], send_s: float) -> Timeline:
    """Run `order` with the given times per stage and pass; `send_s` lies between neighbours' dependent passes.

    Raises ValueError for an order that waits for itself, naming the first action of each stage that cannot start.
    """
    last = len(order) - 1
    # Ends of passes: ends["F"][stage][i]; None while not run.
    ends: dict[str, list[list[float | None]]] = {
        kind: [[None] * (1 + max(i for _, i in actions)) for actions in order] for kind in "FB"
    }
    clock = [0.0] * len(order)
    position = [0] * len(order)
    waiting = list(range(len(order)))
    while waiting:
        stage = waiting.pop()
        started = position[stage]
        now, times = clock[stage], {"F": forward_s[stage], "B": backward_s[stage]}
        for kind, micro in order[stage][started:]:
            if stage == (0 if kind == "F" else last):
                arrived = 0.0 if kind == "F" else ends["F"][stage][micro]
            else:
                sent = ends[kind][stage - 1 if kind == "F" else stage + 1][micro]
                arrived = None if sent is None else sent + send_s
            if arrived is None:
                break
            now = (arrived if arrived > now else now) + times[kind]
            ends[kind][stage][micro] = now
            position[stage] += 1
        clock[stage] = now
        if position[stage] > started:
            waiting += [near for near in (stage - 1, stage + 1) if 0 <= near <= last]
    stuck = [f"stage {s}: {actions[position[s]]}" for s, actions in enumerate(order) if position[s] < len(actions)]
    if stuck:
        raise ValueError(f"the schedule waits for itself: {', '.join(stuck)}")
    passes = [sum(kind == "F" for kind, _ in actions) for actions in order]
    busy = [forwards * forward_s[s] + (len(order[s]) - forwards) * backward_s[s] for s, forwards in enumerate(passes)]
    return Timeline(makespan_s=max(clock), busy_s=tuple(busy))


def step_time_s(
    schedule: str, num_micro_batches: int, forward_s: Sequence[float], backward_s: Sequence[float], send_s: float
) -> float:
    """Makespan of one step. Beyond three micro-batches per stage the schedule repeats, so the rest is extrapolated."""
    num_stages = len(forward_s)
    order = SCHEDULES[schedule]
    full = 3 * num_stages
    if num_micro_batches <= full + num_stages:
        return simulate(order(num_stages, num_micro_batches), forward_s, backward_s, send_s).makespan_s
    # One period is taken over p micro-batches: with messages the pattern may repeat only after a round trip.
    long = simulate(order(num_stages, full), forward_s, backward_s, send_s).makespan_s
    short = simulate(order(num_stages, full - num_stages), forward_s, backward_s, send_s).makespan_s
    return long + (num_micro_batches - full) * (long - short) / num_stages
