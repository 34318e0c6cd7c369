"""A published grid replayed as if its rows were measured now: what a budget finds, beside what the whole grid finds.

Each group of rows computes the same on equally many GPUs. A full measurement of a row costs its step time; a short one,
with a `short` share of the steps, that share. The budget is a share of what all rows of the group cost in full. A row
that crashed costs what its prediction says, at most a usual run, and tells nothing. The table's times are taken as they
are: of a short measurement's noise a table knows nothing.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from hpc_accel.plan.evaluate.calibrate import distance
from hpc_accel.plan.evaluate.case import Case
from hpc_accel.plan.evaluate.cases import cases_of
from hpc_accel.plan.evaluate.mapping import mapping_of, read_rows
from hpc_accel.plan.evaluate.predict import Answer, Predictor
from hpc_accel.plan.memory import CONTEXT_BYTES, USABLE_SHARE
from hpc_accel.plan.shipped import hardware_of
from hpc_accel.plan.spend import Candidate, Spending, Spent

WITHIN = 0.01
Row = tuple[Case, Answer]
Order = Callable[[Row, int], float]
"""What a row is predicted to take, by whom; the second argument draws by chance."""


def replay(
    path: Path, hardware: str, *, mapping: Path | None = None, budget: float, short: float, most: int | None = None
) -> dict[str, Any]:
    """All figures, as `--json` prints them. Raises ConfigError for a file that is no such table."""
    rows = read_rows(path)
    known = mapping_of(rows, path, mapping)
    machine = hardware_of(hardware)
    predictor = Predictor(known, machine)
    memory = machine.slowest.device_memory_bytes
    limit = USABLE_SHARE * memory - CONTEXT_BYTES if memory else math.inf
    groups = _groups([(case, predictor.answer(case)) for case in cases_of(rows, known)])
    ways: dict[str, tuple[Order, bool]] = {
        "planner, learning": (_predicted(limit), True),
        "planner's order": (_predicted(limit), False),
        "rule of thumb": (_by_rule, False),
        "by chance": (lambda row, seed: random.Random(f"{seed} {row[0].number}").random(), False),
    }
    found = {
        name: _scores([_played(group, order, learns, budget, short, most) for group in groups], budget)
        for name, (order, learns) in ways.items()
    }
    return {
        "file": path.name,
        "set": known.name,
        "hardware": machine.site,
        "num_groups": len(groups),
        "num_rows": sum(map(len, groups)),
        "budget": budget,
        "short": short,
        "most": most,
        "ways": found,
    }


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that count or crashed, by group; groups with something to choose."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for case, answer in rows:
        counts = case.step_time_s is not None and case.scored
        if case.group and case.layout is not None and (counts or not case.ran):
            groups[case.group].append((case, answer))
    chosen = [groups[key] for key in sorted(groups, key=repr)]
    return [group for group in chosen if sum(case.step_time_s is not None for case, _ in group) > 1]


def _predicted(limit: float) -> Order:
    """The planner's time; what it says would not fit, or says nothing of, comes last."""

    def order(row: Row, _seed: int) -> float:
        _, answer = row
        if answer.step_time_s is None:
            return 1e9
        return answer.step_time_s * (1e6 if (answer.peak_memory_bytes or 0.0) > limit else 1.0)

    return order


def _by_rule(row: Row, _seed: int) -> float:
    tp, pp, micro = row[0].rule
    return tp * 1e6 + pp * 1e3 + micro + 512


def _played(
    group: list[Row], order: Order, learns: bool, budget: float, short: float, most: int | None
) -> tuple[Spent, float, float]:
    """What was spent; its choice's regret, infinite without one; and the share of the grid's cost that it took."""
    times = {case.number: case.step_time_s for case, _ in group}
    usual = statistics.median(each for each in times.values() if each is not None)
    full = {case.number: case.step_time_s or _sane(answer.step_time_s, usual) for case, answer in group}
    whole = sum(full.values())
    candidates = [
        Candidate(
            key=case.number,
            predicted_s=order((case, answer), 0),
            block=case.block,
            cost=short * full[case.number],
        )
        for case, answer in group
    ]
    spent = Spending(candidates=candidates, distance=_apart, learns=learns).run(
        times.__getitem__, budget=budget * whole, most=most
    )
    best = min(each for each in times.values() if each is not None)
    return spent, spent.best_s / best - 1, spent.cost / whole


def _sane(predicted_s: float | None, usual: float) -> float:
    """Of a crashed row: it ends early, so that at most a usual run's time is charged."""
    return min(predicted_s or usual, usual)


def _apart(one: Hashable, other: Hashable) -> float | None:
    return distance(one, other) if isinstance(one, tuple) and isinstance(other, tuple) else None


def _scores(played: Sequence[tuple[Spent, float, float]], budget: float) -> dict[str, Any]:
    regrets = [regret for _, regret, _ in played]
    chosen = [regret for regret in regrets if regret < math.inf]
    trials = [len(spent.trials) for spent, _, _ in played]
    return {
        "within_1_percent": 100 * sum(regret <= WITHIN for regret in regrets) / len(regrets),
        "mean_regret": 100 * statistics.fmean(chosen) if chosen else None,
        "max_regret": 100 * max(chosen) if chosen else None,
        "no_choice": len(regrets) - len(chosen),
        "median_trials": statistics.median(trials),
        "max_trials": max(trials),
        "mean_spent": 100 * statistics.fmean(share for _, _, share in played),
        "max_spent": 100 * max(share for _, _, share in played),
        "over_budget": sum(share > budget * (1 + 1e-9) for _, _, share in played),
        "ended_early": sum(spent.stopped == "no other could be faster" for spent, _, _ in played),
    }
