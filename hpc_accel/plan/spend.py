"""Which candidate to measure next, learnt from those measured so far, and when to stop: no other could win any more.

Each candidate has a predicted time and is good to a share of it. A measurement corrects the predictions of all that
share its block by measured over predicted, and those of similar blocks less so. The next candidate is the one that
would be fastest if its prediction erred in its favour; measuring ends when even that would not beat the best measured
one by `TOLERANCE`, or when the budget or the number of trials is used up.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from hpc_accel.study.run import Run

UNCALIBRATED, CALIBRATED = 0.17, 0.034
"""Shares that nine of ten predictions are good to, on one node: with nothing measured of the block, and with the block
measured (`hpc-accel plan evaluate`, Megatron-LM on A100)."""
TOLERANCE = 0.01
SIMILAR = 1.5
"""Blocks farther apart than this many powers of two tell nothing of each other."""
Distance = Callable[[Hashable, Hashable], float | None]


WIDE = 0.5
"""Share that a prediction is taken to be good to where the plan withholds it: its calibration was disturbed."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A candidate: its predicted milliseconds, None where nothing is predicted; what they are good to, where wide."""

    run: Run
    time_ms: float | None
    error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What could be measured. `block` is what its error depends on; `cost` of a measurement in any one unit."""

    key: int
    predicted_s: float
    block: Hashable
    cost: float
    error: float = UNCALIBRATED
    """Share that the prediction is good to while nothing of its block was measured."""
    first: bool = False
    """Measured before all others, whatever is predicted: the baseline, without which no speed-up is known."""


@dataclass(kw_only=True)
class Spent:
    """What was measured, in turn, and why no more was."""

    trials: list[int] = field(default_factory=list)
    cost: float = 0.0
    best: int | None = None
    best_s: float = math.inf
    stopped: str = "all were measured"


@dataclass(kw_only=True)
class Spending:
    """Asks `measure` (seconds, or None where the run fails) of one candidate after the other."""

    candidates: Sequence[Candidate]
    distance: Distance
    learns: bool = True
    """Whether measurements correct predictions and can end the search; without, the predicted order is followed."""
    _ratios: dict[Hashable, list[float]] = field(default_factory=dict)

    def run(self, measure: Callable[[int], float | None], *, budget: float, most: int | None = None) -> Spent:
        """Measure until no other could win, `budget` would be passed, or `most` trials are done; the first is free to
        pass the budget, because a choice without any measurement is none.
        """
        spent, left = Spent(), list(self.candidates)
        while left:
            if most is not None and len(spent.trials) >= most:
                spent.stopped = f"{most} trials"
                break
            following = min(left, key=lambda each: (not each.first, self.hope(each)))
            if self.learns and not following.first and self.hope(following) >= spent.best_s * (1 - TOLERANCE):
                spent.stopped = "no other could be faster"
                break
            affordable = [each for each in left if spent.cost + each.cost <= budget]
            if spent.trials and not affordable:
                spent.stopped = "the budget"
                break
            if spent.trials and not following.first:
                following = min(affordable, key=self.hope)
            left.remove(following)
            self._take(spent, following, measure(following.key))
        return spent

    def _take(self, spent: Spent, one: Candidate, seconds: float | None) -> None:
        spent.trials.append(one.key)
        spent.cost += one.cost
        if seconds is None:
            return
        if seconds < spent.best_s:
            spent.best, spent.best_s = one.key, seconds
        self._ratios.setdefault(one.block, []).append(seconds / one.predicted_s)

    def hope(self, one: Candidate) -> float:
        """The time that it would have if its prediction erred in its favour; its own predicted one without learning."""
        if not self.learns:
            return one.predicted_s
        ratio, error = self._corrected(one.block)
        error = error if one.block in self._ratios and one.error <= UNCALIBRATED else max(error, one.error)
        return one.predicted_s * ratio * (1 - error)

    def _corrected(self, block: Hashable) -> tuple[float, float]:
        """Measured over predicted for this block, and the share it is good to."""
        if block in self._ratios:
            return statistics.median(self._ratios[block]), CALIBRATED
        near = {other: far for other in self._ratios if (far := self.distance(block, other)) is not None}
        close: Mapping[Hashable, float] = {other: far for other, far in near.items() if far <= SIMILAR}
        if not close:
            return 1.0, UNCALIBRATED
        weights = {other: 1 / max(far, 0.1) ** 2 for other, far in close.items()}
        total = sum(weights.values())
        mean = (
            sum(weight * math.log(statistics.median(self._ratios[other])) for other, weight in weights.items()) / total
        )
        return math.exp(mean), UNCALIBRATED
