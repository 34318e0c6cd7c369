"""The best option by what counts, its runner-up, and what would change the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpc_accel.plan.advise.options import Impossible, Option
from hpc_accel.plan.advise.question import Question
from hpc_accel.plan.advise.uncertainty import SAME_HARDWARE


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The answer. `best` is None where nothing fits the limits."""

    question: Question
    best: Option | None
    runner_up: Option | None
    """The best at another place; where there is only one place, the next best there."""
    is_tie: bool
    """Whether the planner cannot tell the two apart."""
    changes: tuple[str, ...]
    options: tuple[Option, ...]
    """All, the best first; those that break a limit or do not run here at the end."""
    front: tuple[Option, ...]
    """Options within the limits of which no other is better in all of time, energy and cost."""
    impossible: tuple[Impossible, ...]


def score(option: Option, weights: dict[str, float]) -> float:
    """Product of what counts, each to the power of its weight: units do not matter. Infinite where one is unknown."""
    total = 0.0
    for what, weight in weights.items():
        figure = option.figure(what)
        if figure is None:
            return math.inf
        total += weight * math.log(figure.value)
    return math.exp(total)


def is_allowed(option: Option) -> bool:
    """Whether it keeps all limits and this project's training runs there."""
    return not option.beyond and not option.place.not_run_here


def figures_of(option: Option) -> dict[str, float]:
    """Of time, energy and cost what is known."""
    known = {what: option.figure(what) for what in ("time", "energy", "cost")}
    return {what: figure.value for what, figure in known.items() if figure is not None}


def pareto(options: Sequence[Option]) -> tuple[Option, ...]:
    """Those that no other is at least equal to in all known figures and better in one.

    What is known of one option alone cannot be compared, so neither of the two beats the other.
    """

    def beats(other: Option, option: Option) -> bool:
        theirs, mine = figures_of(other), figures_of(option)
        return theirs.keys() == mine.keys() and theirs != mine and all(theirs[what] <= mine[what] for what in mine)

    def beaten(option: Option) -> bool:
        return any(beats(other, option) for other in options)

    return tuple(option for option in options if not beaten(option))


def advise(question: Question, options: Sequence[Option], impossible: Sequence[Impossible]) -> Advice:
    """The whole answer."""
    weights = question.weights
    ordered = sorted(options, key=lambda each: (not is_allowed(each), score(each, weights)))
    allowed = [each for each in ordered if is_allowed(each) and score(each, weights) < math.inf]
    best = allowed[0] if allowed else None
    others = allowed[1:]
    runner_up = next((each for each in others if best and each.place.name != best.place.name), None)
    runner_up = runner_up or (others[0] if others else None)
    return Advice(
        question=question,
        best=best,
        runner_up=runner_up,
        is_tie=bool(best and runner_up and _is_tie(best, runner_up, weights)),
        changes=tuple(_changes(question, best, runner_up, ordered)) if best else (),
        options=tuple(ordered),
        front=pareto([each for each in ordered if is_allowed(each)]),
        impossible=tuple(impossible),
    )


def _is_tie(best: Option, other: Option, weights: dict[str, float]) -> bool:
    """At one place errors are common, so near equality decides; at two, whether the ranges overlap."""
    if best.place.name == other.place.name:
        return score(other, weights) <= score(best, weights) * (1 + SAME_HARDWARE)
    return any(_overlap(best, other, what) for what in weights)


def _overlap(best: Option, other: Option, what: str) -> bool:
    one, two = best.figure(what), other.figure(what)
    return one is not None and two is not None and two.low <= one.high


def _changes(question: Question, best: Option, runner_up: Option | None, ordered: Sequence[Option]) -> list[str]:
    told = _at_risk(question, best)
    if runner_up is not None:
        told += _against(question, best, runner_up)
    told += _faster(question, best, ordered)
    told += _unpriced(question, best, ordered)
    return told


def _at_risk(question: Question, best: Option) -> list[str]:
    """Limits that the prediction keeps and the upper end of its range does not."""
    limits = question.limits
    figures = (
        ("deadline", limits.deadline_h, best.hours, "h"),
        ("budget", limits.budget, best.cost, question.currency),
        ("power cap", limits.power_w, best.power, "W"),
        ("limit", limits.node_hours, best.hours * best.num_nodes, "node-hours"),
    )
    return [
        f"the {what} of {limit:g} {unit} is kept as predicted, not at the upper end of the range ({figure.high:.4g})"
        for what, limit, figure, unit in figures
        if limit is not None and figure is not None and figure.high > limit
    ]


def _against(question: Question, best: Option, runner_up: Option) -> list[str]:
    """By how much the order of the two would have to be wrong, and the prices at which it turns."""
    ratio = score(runner_up, question.weights) / score(best, question.weights)
    told = [f"{runner_up.name} would be first if it did better by a factor of {ratio:.3g} against {best.name}"]
    weight, price = question.weights.get("cost", 0.0), runner_up.place.price_per_node_hour
    if weight and price and best.place.name != runner_up.place.name:
        even = price * ratio ** (-1 / weight)
        told.append(
            f"it would be first at a price below {even:.4g} {question.currency} a node-hour (asked: {price:.4g})"
        )
    return told


def _faster(question: Question, best: Option, ordered: Sequence[Option]) -> list[str]:
    """What a shorter deadline takes."""
    faster = [each for each in ordered if is_allowed(each) and each.hours.value < best.hours.value]
    if not faster:
        return ["nothing here is faster: a shorter deadline needs more nodes or other hardware"]
    next_one = min(faster, key=lambda each: (score(each, question.weights), each.hours.value))
    cost = f", {next_one.cost.value:.4g} {question.currency}" if next_one.cost else ""
    return [
        f"a deadline below {best.hours.value:.4g} h: then {next_one.name} ({next_one.hours.value:.4g} h{cost}); "
        f"to be safe against the planner's error, below {best.hours.high:.4g} h"
    ]


def _unpriced(question: Question, best: Option, ordered: Sequence[Option]) -> list[str]:
    """Places without a price, where cost counts: the price that would put them first."""
    if set(question.weights) != {"cost"} or best.cost is None:
        return []
    told: dict[str, float] = {}
    for each in ordered:
        # At that price it costs what the best does, which is within the budget; any other limit still holds.
        kept = all(limit.startswith("the budget") for limit in each.beyond)
        if kept and each.cost is None and not each.place.not_run_here:
            even = best.cost.value / each.node_hours
            if even > told.get(each.place.name, 0.0):
                told[each.place.name] = even
    return [
        f"{name} has no price: it would be first below {even:.4g} {question.currency} a node-hour"
        for name, even in told.items()
    ]
