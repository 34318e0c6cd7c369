"""How measured passes of a layer become the passes of a layout that was not measured.

Where a layout has exactly the tensor-parallel ranks, micro-batch and ranks of a node of a measurement, it stands for
the prediction. Elsewhere the prediction is multiplied by measured over predicted of the nearest ones, each weighted by
the inverse fourth power of its distance in logarithms to the base 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from hpc_accel.plan.calibration import MAX_SPREAD, Calibration, MeasuredPass, layer_digest
from hpc_accel.study.model_facts import LayerFacts
from hpc_accel.study.recipe import Precision, Recompute

Value = TypeVar("Value")


class Key(NamedTuple):
    """What a layer's passes were measured with; `ranks` None: however many of the node computed."""

    tp: int
    micro_batch_size: int
    sequence_parallel: bool
    ranks: int | None = None


class MeasuredPasses:
    """Those of one precision, recomputation and set of options, by layer."""

    def __init__(
        self,
        calibration: Calibration | None,
        precision: Precision,
        recompute: Recompute,
        options: tuple[str, ...] = (),
    ) -> None:
        self._by_layer: dict[str, dict[Key, tuple[float, float]]] = {}
        found = [
            each
            for each in (calibration.passes if calibration else ())
            if each.recipe == (precision, recompute, options)
        ]
        quiet = [each for each in found if each.spread <= MAX_SPREAD]
        for each in quiet or found:
            self._by_layer.setdefault(each.layer, {})[_key(each)] = (each.forward_s, each.backward_s)
        self._powers_w = {_key(each): each.power_w for each in found if each.power_w is not None}

    def of(
        self, layer: LayerFacts, key: Key, predicted: Callable[[Key], tuple[float, float]]
    ) -> tuple[float, float] | None:
        """Forward and backward seconds of `layer`; None where nothing of it was measured.

        `predicted` says what the model expects of the same layer, of `key` or of a measured one.
        """
        measured = self._by_layer.get(layer_digest(layer)) if self._by_layer else None
        if not measured:
            return None
        if (exact := _exact(measured, key)) is not None:
            return exact
        ratios = []
        for other, seconds in measured.items():
            expected = predicted(other)
            ratios.append(
                (_distance(key, other), [took / wanted for took, wanted in zip(seconds, expected, strict=True)])
            )
        wanted = predicted(key)
        forward, backward = (weighted([(far, each[part]) for far, each in ratios]) for part in (0, 1))
        return forward * wanted[0], backward * wanted[1]

    def power_w(self, key: Key) -> float | None:
        """Of the node in measured steps: exactly those of `key`, else of the nearest; None where none was measured."""
        if not self._powers_w:
            return None
        if (exact := _exact(self._powers_w, key)) is not None:
            return exact
        return weighted([(_distance(key, other), power_w) for other, power_w in self._powers_w.items()])


def weighted(values: Sequence[tuple[float, float]]) -> float:
    """Geometric mean of (distance, value), each by the inverse fourth power of its distance."""
    total = sum(math.log(value) / max(far, 1e-3) ** 4 for far, value in values)
    return math.exp(total / sum(1 / max(far, 1e-3) ** 4 for far, _ in values))


def _exact(measured: Mapping[Key, Value], key: Key) -> Value | None:
    return measured.get(key, measured.get(key._replace(ranks=None)))


def _key(measured: MeasuredPass) -> Key:
    return Key(measured.tp, measured.micro_batch_size, measured.sequence_parallel, measured.ranks)


def _distance(one: Key, other: Key) -> float:
    far = math.hypot(math.log2(one.tp / other.tp), math.log2(one.micro_batch_size / other.micro_batch_size))
    crowd = abs(math.log2(one.ranks / other.ranks)) if one.ranks and other.ranks else 0.0
    return far + crowd + (1.0 if one.sequence_parallel != other.sequence_parallel else 0.0)
