"""calibration.json: what a study's own model took on this machine, layer by layer, and how predictions use it.

A layer's passes are measured for some numbers of tensor-parallel ranks and micro-batch sizes, collectives of tensor
parallelism included, between other compute and through the study's backend. Where a layout has exactly those, they
stand for the prediction. Elsewhere the prediction is multiplied by measured over predicted of the nearest ones, each
weighted by the inverse fourth power of its distance in logarithms to the base 2. Pipeline, replicas and optimizer are
composed of them by the same formulas as without.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from hpc_accel.errors import ConfigError
from hpc_accel.probe.hardware import Count, Facts, Positive
from hpc_accel.study.model_facts import LayerFacts
from hpc_accel.study.recipe import Precision, Recompute

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MAX_SPREAD = 0.15
"""Quartiles of a quiet measurement differ by at most this share of the median."""


class MeasuredPass(Facts):
    """One micro-batch through one layer and back on one rank."""

    layer: str
    """`layer_digest` of its facts: equal layers are measured once."""
    name: str
    precision: Precision
    recompute: Recompute = "none"
    tp: Count = 1
    micro_batch_size: Count
    sequence_parallel: bool = False
    forward_s: Positive
    backward_s: Positive
    """What recomputation repeats is in it."""
    spread: Seconds = 0.0
    """Difference of the quartiles over the median."""


class Linear(Facts):
    """A time that grows with a count: fixed_s + each_s x count."""

    fixed_s: Seconds
    each_s: Seconds

    def __call__(self, count: float) -> float:
        return self.fixed_s + self.each_s * count


class Calibration(Facts):
    """Of one workload. What was not measured is None, and predicted as without a calibration."""

    passes: tuple[MeasuredPass, ...] = ()
    micro_batch_s: Seconds | None = None
    """Of one micro-batch beside its layers and samples: starting the passes, the loss, the schedule."""
    samples: Linear | None = None
    """To fetch and collate the samples of one micro-batch."""
    optimizer: Linear | None = None
    """Of one step, by the parameters that a rank updates."""
    synchronised: Linear | None = None
    """What the backward pass in which replicas exchange gradients takes more than another, by parameter tensors, with
    nobody to exchange with."""

    def disturbed(self) -> str | None:
        """Which measurement something else disturbed, or None."""
        for each in self.passes:
            if each.spread > MAX_SPREAD:
                where = f"{each.name} at tp {each.tp}, micro-batch {each.micro_batch_size}"
                return f"{where}: quartiles {each.spread:.0%} apart"
        return None


class CalibrationFile(Facts):
    """The whole file: a study's workloads by name, on the hardware of the hardware.json beside it."""

    format: Literal[1] = 1
    hardware_sha256: str
    """Of that file's bytes; for another the calibration does not hold."""
    created_utc: str
    workloads: dict[str, Calibration]


Key = tuple[int, int, bool]
"""Tensor-parallel ranks, micro-batch size, sequence divided or not."""


def layer_digest(layer: LayerFacts) -> str:
    """What a layer computes, whatever it is called and whoever holds its parameters."""
    content = (
        layer.forward_flops_per_sample,
        layer.tp_flops_per_sample,
        layer.tp_allreduce_elements_per_sample,
        layer.saved_elements_per_sample,
        layer.num_operations,
    )
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


class MeasuredPasses:
    """Those of one precision and recomputation, by layer."""

    def __init__(self, calibration: Calibration | None, precision: Precision, recompute: Recompute) -> None:
        self._by_layer: dict[str, dict[Key, tuple[float, float]]] = {}
        for each in calibration.passes if calibration else ():
            if (each.precision, each.recompute) == (precision, recompute):
                key = (each.tp, each.micro_batch_size, each.sequence_parallel)
                self._by_layer.setdefault(each.layer, {})[key] = (each.forward_s, each.backward_s)

    def of(
        self, layer: LayerFacts, key: Key, predicted: Callable[[Key], tuple[float, float]]
    ) -> tuple[float, float] | None:
        """Forward and backward seconds of `layer`; None where nothing of it was measured.

        `predicted` says what the model expects of the same layer, of `key` or of a measured one.
        """
        measured = self._by_layer.get(layer_digest(layer)) if self._by_layer else None
        if not measured:
            return None
        if key in measured:
            return measured[key]
        ratios = []
        for other, seconds in measured.items():
            expected = predicted(other)
            ratios.append(
                (_distance(key, other), [took / wanted for took, wanted in zip(seconds, expected, strict=True)])
            )
        wanted = predicted(key)
        forward, backward = (weighted([(far, each[part]) for far, each in ratios]) for part in (0, 1))
        return forward * wanted[0], backward * wanted[1]


def weighted(values: Sequence[tuple[float, float]]) -> float:
    """Geometric mean of (distance, value), each by the inverse fourth power of its distance."""
    total = sum(math.log(value) / max(far, 1e-3) ** 4 for far, value in values)
    return math.exp(total / sum(1 / max(far, 1e-3) ** 4 for far, _ in values))


def _distance(one: Key, other: Key) -> float:
    far = math.hypot(math.log2(one[0] / other[0]), math.log2(one[1] / other[1]))
    return far + (1.0 if one[2] != other[2] else 0.0)


def load_calibrations(path: Path, hardware: bytes) -> dict[str, Calibration]:
    """By workload, from the calibration.json at `path`; `hardware` is the hardware.json that the plan is made with.

    Nothing where there is no such file, or where it holds for other hardware. Raises ConfigError for a broken one.
    """
    if not path.exists():
        return {}
    try:
        found = CalibrationFile.model_validate(json.loads(path.read_text()))
    except (ValueError, ValidationError) as error:
        first = str(error).splitlines()[0]
        rule = "calibration.json has the shape that the probe writes"
        raise ConfigError(f"{path}: {first}", rule, "delete it, and probe again") from None
    return found.workloads if found.hardware_sha256 == hashlib.sha256(hardware).hexdigest() else {}
