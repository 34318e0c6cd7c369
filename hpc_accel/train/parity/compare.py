"""Distances between the run's steps and the reference's, and what is allowed.

Honest cuts of a batch differ by rounding: y, the largest distance among the reference's own cuttings, says by how much
for this model. What is allowed is a multiple of y, and never less than what fp32 can promise for any model:

    loss                 1e-6 max(|L|, its spread over pieces) + 5 y_L
    whole gradient       max(1e-5, 5 y), relative
    one parameter        max(1e-4 ||r_p||, 1e-6 ||r||, 10 y_p): keys' biases have no true gradient, only rounding
    update of plain SGD  max(1e-4, 5 y), relative
    with the recipe      3 max(y, the recipe's own serial distance from fp32)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpc_accel.study.optimizer import Optimizer
from hpc_accel.train.parity.engine import buffer_distance
from hpc_accel.train.parity.reference import Reference
from hpc_accel.train.parity.sketch import NUM_BUCKETS, squared
from hpc_accel.train.parity.steps import Measured

WHOLE, OWN = 1e-5, 5.0
LOSS = 1e-6
ONE_OF_ITSELF, ONE_OF_WHOLE, ONE_OWN = 1e-4, 1e-6, 10.0
UPDATE = 1e-4
RECIPE = 3.0
OPTIMIZER, MUON = 1e-3, 5e-2
"""Of the optimizer's update; Muon multiplies matrices in 16 bits, in another order where they are divided."""
COPIES = 1e-5
BUFFERS = 1e-4
LARGEST_OWN = 0.1
"""A model whose own cuttings differ by more computes noise: nothing can be said of a layout."""


def optimizer_tolerance(spec: Optimizer) -> float:
    """How far the run's update may be from plain torch's on the same gradient, relative to it."""
    return MUON if "muon" in spec.names else OPTIMIZER


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """The gradients of one step compared."""

    distance: float
    tolerance: float
    factor: float
    rest: float
    """Distance of the gradient from the reference's times the factor: what a fault of scale does not explain."""
    outside: tuple[int, ...]
    """Parameters that differ by more than is allowed of one, the farthest first."""
    lengths: tuple[float, float]

    @property
    def passed(self) -> bool:
        """Within the tolerance, each parameter too."""
        return self.distance <= self.tolerance and not self.outside


def own_distance(reference: Reference) -> float:
    """y, of all steps."""
    return max(reference.own_distance, default=0.0)


def recipe_effect(exact: Reference, serial: Reference) -> float:
    """How far a recipe's serial run is from the exact one: the largest distance of a step."""
    found = []
    for step in range(len(exact.gradients)):
        r, g = exact.gradient(step), serial.gradient(step)
        found.append(_length(g - r) / (_length(r) or 1.0))
    return max(found, default=0.0)


def compare_gradient(
    measured: np.ndarray, exact: Reference, step: int, *, tolerance: float, by_parameter: bool
) -> Gradient:
    """One step's gradient, [parameters, WIDTH]. With `by_parameter` each parameter is compared by itself, too."""
    r = exact.gradient(step)
    length, own = _length(r), np.array(exact.own_distances[step])
    buckets_g, buckets_r = measured[:, :NUM_BUCKETS], r[:, :NUM_BUCKETS]
    square = float((buckets_r * buckets_r).sum())
    factor = float((buckets_g * buckets_r).sum()) / square if square else 1.0
    apart = np.sqrt(squared(measured - r))
    outside: list[int] = []
    if by_parameter:
        allowed = np.maximum.reduce([ONE_OF_ITSELF * np.sqrt(squared(r)), 1e-6 * length + 0 * apart, ONE_OWN * own])
        order = np.argsort(-apart / np.maximum(allowed, 1e-300))
        outside = [int(index) for index in order if not apart[index] <= allowed[index]]
    return Gradient(
        distance=_length(measured - r) / length if length else _length(measured),
        tolerance=tolerance,
        factor=factor,
        rest=_length(measured - factor * r) / (length or 1.0),
        outside=tuple(outside),
        lengths=(_length(measured), length),
    )


def layout_tolerance(exact: Reference, given: float | None) -> float:
    """Of the whole gradient in the arithmetic of the proof; `given` is what the study sets."""
    return max(WHOLE, OWN * own_distance(exact), given or 0.0)


def recipe_tolerance(exact: Reference, serial: Reference, given: float | None) -> float:
    """The same in the recipe's arithmetic."""
    own = max(own_distance(exact), own_distance(serial), recipe_effect(exact, serial))
    return max(WHOLE, RECIPE * own, given or 0.0)


def loss_outside(measured: Sequence[float], exact: Reference, allowed_relative: float) -> int | None:
    """The first step whose loss differs by more than is allowed; None if none does."""
    for step, (loss, wanted) in enumerate(zip(measured, exact.losses, strict=False)):
        scale = max(abs(wanted), exact.spreads[step])
        allowed = max(LOSS, allowed_relative) * scale + OWN * exact.own_loss_distance
        if not abs(loss - wanted) <= allowed:
            return step
    return None


def update_distance(measured: Measured, exact: Reference) -> tuple[float, list[int]]:
    """How far the weights moved otherwise, relative; and the parameters by how much they did, the farthest first."""
    r = exact.update_sketch
    apart = np.sqrt(squared(measured.update - r))
    return _length(measured.update - r) / (_length(r) or 1.0), [int(index) for index in np.argsort(-apart)]


def update_effect(exact: Reference, serial: Reference) -> float:
    """How far the weights of a recipe's serial run moved otherwise than the exact one's, relative."""
    r = exact.update_sketch
    return _length(serial.update_sketch - r) / (_length(r) or 1.0)


def still_ones(measured: Measured, exact: Reference) -> list[int]:
    """Parameters that did not move although the reference's did."""
    moved, wanted = np.sqrt(squared(measured.update)), np.sqrt(squared(exact.update_sketch))
    return [int(index) for index in np.flatnonzero((moved == 0) & (wanted > 0))]


def buffers_outside(measured: Mapping[str, Sequence[float]], exact: Reference) -> list[str]:
    """Buffers that differ from those of the reference."""
    allowed = max(BUFFERS, OWN * exact.own_buffers_distance)
    common = [name for name in exact.buffers if name in measured]
    return [name for name in common if not buffer_distance(measured[name], exact.buffers[name]) <= allowed]


def _length(sketches: np.ndarray) -> float:
    return math.sqrt(float(squared(sketches).sum()))
