"""Pipeline schedules as data: for each rank the order in which it runs passes of the stages it holds.

    1f1b, 2 ranks of one stage, 3 micro-batches      rank 0:  F0.0 F0.1 B0.0 F0.2 B0.1 B0.2
                                                     rank 1:  F1.0 B1.0 F1.1 B1.1 F1.2 B1.2

F<stage>.<micro-batch> is a forward pass, B a whole backward pass. Schedules that split backward run its two halves
apart: I gives the gradients of the inputs, which the stage before waits for, W those of the weights, which fill gaps.
The orders are those that torch.distributed.pipelining (2.13) runs.

    gpipe                    Huang et al., 2019              interleaved_1f1b         Narayanan et al., 2021
    1f1b                     Narayanan et al., 2021          looped_bfs               Lamy-Poirier, arXiv 2211.05953
    interleaved_zero_bubble  Qi et al., arXiv 2401.10241     zbv_zero_bubble          the same, section 6
    dualpipev                DeepSeek, arXiv 2412.19437, folded into a V
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Kind = Literal["F", "B", "I", "W"]


Action = tuple[Kind, int, int]
"""One pass: its kind, its stage, its micro-batch. Plain, because a large schedule has hundreds of thousands."""
Order = list[list[Action]]
"""Per rank, its actions in turn."""


def gpipe(p: int, v: int, m: int) -> Order:
    """All forward passes, then all backward passes, in the same order of micro-batches."""
    return [[(kind, rank, i) for kind in _FB for i in range(m)] for rank in range(p)]


def one_f_one_b(p: int, v: int, m: int) -> Order:
    """Rank i runs p - 1 - i forwards ahead, then alternates, so that at most p - i micro-batches are in flight."""
    order: Order = []
    for rank in range(p):
        forward, backward = ([(kind, rank, i) for i in range(m)] for kind in _FB)
        order.append(_alternating(forward, backward, min(p - 1 - rank, m)))
    return order


def interleaved_1f1b(p: int, v: int, m: int) -> Order:
    """1F1B round by round, a round of about p micro-batches through all stages of a rank before the next round."""
    order: Order = []
    for rank in range(p):
        forward, backward, per_round = _rounds(p, v, m, rank, "B")
        order.append(_alternating(forward, backward, min((v - 1) * per_round + 2 * (p - 1 - rank), m * v)))
    return order


def interleaved_zero_bubble(p: int, v: int, m: int) -> Order:
    """The same with half as many forwards ahead; rank i delays weight gradients by i micro-batches (ZB-H1)."""
    order: Order = []
    for rank in range(p):
        forward, backward, per_round = _rounds(p, v, m, rank, "I")
        weights: list[Action] = [("W", stage, i) for _, stage, i in backward]
        ahead = min((v - 1) * per_round + p - 1 - rank, m * v)
        actions = forward[:ahead]
        for i, action in enumerate(backward):
            late = weights[i - rank : i - rank + 1] if i >= rank else []
            actions += [*forward[ahead + i : ahead + i + 1], action, *late]
        order.append(actions + weights[max(0, len(weights) - rank) :])
    return order


def looped_bfs(p: int, v: int, m: int) -> Order:
    """Every stage runs all micro-batches before the rank's next stage does: GPipe, stage after stage."""
    order: Order = []
    for rank in range(p):
        stages = range(rank, p * v, p)
        forward: list[Action] = [("F", stage, i) for stage in stages for i in range(m)]
        order.append(forward + [("B", stage, i) for stage in reversed(stages) for i in reversed(range(m))])
    return order


def zbv_zero_bubble(p: int, v: int, m: int) -> Order:
    """Two stages a rank in a V, backward split: no bubble where F, I and W take equally long."""
    # Below 2p - 1 micro-batches the V is not full: those missing are left out of the full one's order.
    full = max(2 * p - 1, m)
    order: Order = []
    for rank in range(p):
        line = _Line(rank, 2 * p - 1 - rank)
        line.add("F0", times=2 * (p - rank) - 1)
        line.add("F1 F0", times=rank)
        line.add("F1 I1 W1", times=p - rank)
        while line.next["F1"] < line.next["F0"] or line.next["F0"] < full:
            line.add("F0 I0 W0 F1 I1 W1" if line.next["F0"] < full else "I0 W0 F1 I1 W1")
        line.add("I0 I1", times=rank)
        line.add("I0 W0", times=p - rank)
        line.add("W1", times=full - line.next["W1"])
        line.add("W0", times=full - line.next["W0"])
        order.append([action for action in line.actions if action[2] < m])
    return order


def dualpipev(p: int, v: int, m: int) -> Order:
    """Two stages a rank in a V; forward of one stage beside backward of the other, weights split only at the ends."""
    return [_dualpipev_rank(p, m, rank) for rank in range(p)]


def _dualpipev_rank(p: int, m: int, rank: int) -> list[Action]:
    line = _Line(rank, 2 * p - 1 - rank)
    line.add("F0", times=2 * (p - 1 - rank))
    line.add("F0 F1", times=rank + 1)
    for _ in range(p - 1 - rank):
        line.add("I1")
        line.add_oldest_weight()
        line.add("F1")
    line.add("F0 B1 F1 B0", times=m - 2 * p + rank + 1)
    line.add("B1 F1 B0", times=p - 1 - rank)
    # Of these backward passes the second half is split.
    for i, which in enumerate("10" * (rank + 1)):
        line.add(("B" if i <= rank else "I") + which)
    for _ in range(p - 1 - rank):
        line.add_oldest_weight()
        line.add("I0")
    for _ in range(rank + 1):
        line.add_oldest_weight()
    return line.actions


SCHEDULES: dict[str, Callable[[int, int, int], Order]] = {
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "interleaved_1f1b": interleaved_1f1b,
    "looped_bfs": looped_bfs,
    "interleaved_zero_bubble": interleaved_zero_bubble,
    "zbv_zero_bubble": zbv_zero_bubble,
    "dualpipev": dualpipev,
}
"""By name, (p ranks, v stages per rank, m micro-batches) -> order."""

_FB: tuple[Kind, Kind] = ("F", "B")


def told(actions: list[Action]) -> str:
    """As in the picture above."""
    return " ".join(f"{kind}{stage}.{micro}" for kind, stage, micro in actions)


def in_flight(schedule: str, p: int, v: int, m: int, rank: int) -> int:
    """Most micro-batches whose activations `rank` holds at once, counted once for each stage they are held in.

    A split backward holds them until the weights' gradients are done. Exact, but for V-shaped schedules with too few
    micro-batches to fill the V, which may hold fewer.
    """
    per_round = m // max(1, m // p)
    most = {
        "gpipe": m,
        "1f1b": p - rank,
        "looped_bfs": v * m,
        "interleaved_1f1b": (v - 1) * per_round + 2 * (p - 1 - rank) + 1,
        "interleaved_zero_bubble": (v - 1) * per_round + p,
        "zbv_zero_bubble": 2 * p,
        "dualpipev": 2 * p + 1,
    }[schedule]
    return min(most, v * m)


def _alternating(forward: list[Action], backward: list[Action], ahead: int) -> list[Action]:
    """`ahead` forwards, then one forward and one backward in turn, then the backwards that are left."""
    actions = forward[:ahead]
    for i, action in enumerate(backward):
        actions += [*forward[ahead + i : ahead + i + 1], action]
    return actions


def _rounds(p: int, v: int, m: int, rank: int, backward: Kind) -> tuple[list[Action], list[Action], int]:
    """All forwards and all backwards of `rank` in rounds, and micro-batches in a round: p, or a few more."""
    per_round = m // max(1, m // p)
    stages = range(rank, p * v, p)
    rounds = [range(start, start + per_round) for start in range(0, m, per_round)]
    forwards: list[Action] = [("F", stage, i) for mine in rounds for stage in stages for i in mine]
    backwards: list[Action] = [(backward, stage, i) for mine in rounds for stage in reversed(stages) for i in mine]
    return forwards, backwards, per_round


class _Line:
    """A rank's order under construction. Each kind of pass takes a stage's micro-batches in turn."""

    def __init__(self, *stages: int) -> None:
        self.stages = stages
        self.actions: list[Action] = []
        self.next = {f"{kind}{i}": 0 for kind in "FIW" for i in range(len(stages))}
        self._no_weights_yet: list[Action] = []

    def add(self, passes: str, *, times: int = 1) -> None:
        """`passes` ("F0 I1": kind and which of the rank's stages), so many times over."""
        for _ in range(times):
            for name in passes.split():
                self._add(name[0], int(name[1]))

    def add_oldest_weight(self) -> None:
        """W of the backward pass split longest ago, if there is one."""
        if self._no_weights_yet:
            self.actions.append(self._no_weights_yet.pop(0))

    def _add(self, kind: str, which: int) -> None:
        counter = f"{'I' if kind == 'B' else kind}{which}"
        micro = self.next[counter]
        self.next[counter] += 1
        if kind == "I":
            self._no_weights_yet.append(("W", self.stages[which], micro))
        self.actions.append((kind, self.stages[which], micro))  # type: ignore[arg-type]
