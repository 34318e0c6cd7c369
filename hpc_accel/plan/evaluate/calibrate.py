"""Published step times as measured blocks: how long a block must have taken, all else as composed, for a row to fit.

A few rows of other groups, chosen by a seed, say it for each kind of block. Rows of the same kind are then predicted
with that block; those of a kind that nobody measured with the ratio of the nearest kinds.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpc_accel.plan.evaluate.case import Case
from hpc_accel.plan.evaluate.predict import Predictor
from hpc_accel.plan.measured_passes import weighted

LEAST, MOST = 0.5, 2.0
"""A block that would have to take less or more than this multiple of its prediction is not what the row differs in."""
PRECISE = 1e-5
Kind = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Measured over predicted time of blocks of one kind."""

    kind: Kind
    ratio: float
    rows: tuple[int, ...]


def chosen_rows(cases: Iterable[Case], num: int, seed: int) -> dict[Kind, list[Case]]:
    """At most `num` rows of each kind of block, always the same for one seed."""
    kinds: dict[Kind, list[Case]] = defaultdict(list)
    for case in cases:
        if case.step_time_s is not None and case.scored and case.layout is not None:
            kinds[case.block].append(case)
    chosen = {}
    for kind in sorted(kinds, key=repr):
        rows = sorted(kinds[kind], key=lambda case: case.number)
        chosen[kind] = random.Random(f"{seed} {kind}").sample(rows, min(num, len(rows)))
    return chosen


def scales_of(predictor: Predictor, rows: dict[Kind, list[Case]]) -> list[Scale]:
    """The ratio of each kind: the median of what its rows say."""
    scales = []
    for kind, cases in rows.items():
        ratios = sorted(ratio for case in cases if (ratio := _ratio(predictor, case)) is not None)
        if ratios:
            middle = (
                ratios[len(ratios) // 2]
                if len(ratios) % 2
                else math.sqrt(ratios[len(ratios) // 2 - 1] * ratios[len(ratios) // 2])
            )
            scales.append(Scale(kind=kind, ratio=middle, rows=tuple(case.number for case in cases)))
    return scales


def ratio_for(kind: Kind, scales: Sequence[Scale]) -> float | None:
    """Of this kind, or of the nearest ones; None where none is comparable."""
    near = [(far, scale.ratio) for scale in scales if (far := distance(kind, scale.kind)) is not None]
    exact = [ratio for far, ratio in near if far == 0]
    if exact:
        return exact[0]
    return weighted(near) if near else None


def _ratio(predictor: Predictor, case: Case) -> float | None:
    """What the block's prediction must be multiplied by for the row's step time, by the secant rule."""
    wanted = case.step_time_s
    low, high = 1.0, 1.5
    at_low, at_high = predictor.scaled_s(case, low), predictor.scaled_s(case, high)
    for _ in range(8):
        if wanted is None or at_low is None or at_high is None or at_high == at_low:
            return None
        if abs(at_high / wanted - 1) < PRECISE:
            break
        following = min(max(high + (wanted - at_high) * (high - low) / (at_high - at_low), LEAST), MOST)
        if following == high:
            return None
        low, at_low, high = high, at_high, following
        at_high = predictor.scaled_s(case, high)
    return high


def distance(one: Kind, other: Kind) -> float | None:
    """In powers of two over all numbers; None where a word differs."""
    total = 0.0
    for a, b in zip(one, other, strict=True):
        if isinstance(a, (int, float)) and isinstance(b, (int, float)) and a > 0 and b > 0:
            total += math.log2(a / b) ** 2
        elif a != b:
            return None
    return math.sqrt(total)
