"""Which candidate is measured next, what a measurement teaches, and when no more is measured."""

from __future__ import annotations

import math

from hpc_accel.plan.spend import Candidate, Spending


def far(one, other):
    return abs(math.log2(one / other))


def candidates(*rows: tuple[float, int]) -> list[Candidate]:
    """(predicted seconds, block) of each; a measurement costs what is predicted."""
    return [Candidate(key=i, predicted_s=time, block=block, cost=time) for i, (time, block) in enumerate(rows)]


def test_what_cannot_win_is_not_measured():
    times = {0: 1.0, 1: 1.15, 2: 1.3}
    spent = Spending(candidates=candidates((1.0, 1), (1.15, 64), (1.3, 64)), distance=far).run(times.get, budget=99)
    assert spent.trials == [0, 1], "1.3 less 17 % is above 1, 1.15 less 17 % is not"
    assert (spent.best, spent.stopped) == (0, "no other could be faster")


def test_a_measurement_corrects_those_of_its_block():
    """The first is half as fast as predicted, so its like are too, and those of another block are looked at."""
    times = {0: 2.0, 1: 2.2, 2: 1.6}
    spent = Spending(candidates=candidates((1.0, 1), (1.1, 1), (1.5, 64)), distance=far).run(times.get, budget=99)
    assert spent.trials == [0, 2] and spent.best == 2


def test_budget_trials_and_failures():
    known = candidates((1.0, 1), (1.01, 64), (1.02, 4096))
    spent = Spending(candidates=known, distance=far).run({0: 1.0, 1: 0.99, 2: 0.98}.get, budget=2.1)
    assert (spent.trials, spent.best, spent.stopped) == ([0, 1], 1, "the budget") and spent.cost == 2.01
    first = Spending(candidates=known, distance=far).run({0: 1.0}.get, budget=0.5)
    assert first.trials == [0], "a choice needs one measurement"
    limited = Spending(candidates=known, distance=far).run({0: 1.0, 1: 0.99}.get, budget=99, most=2)
    assert limited.stopped == "2 trials"
    failed = Spending(candidates=known, distance=far).run({0: None, 1: None, 2: 1.0}.get, budget=99)
    assert (failed.trials, failed.best) == ([0, 1, 2], 2)


def test_without_learning_the_predicted_order_is_followed():
    known = candidates((3.0, 1), (1.0, 1), (2.0, 1))
    spent = Spending(candidates=known, distance=far, learns=False).run({0: 9, 1: 9, 2: 9}.get, budget=99)
    assert spent.trials == [1, 2, 0] and spent.stopped == "all were measured"
