"""The reference: what the serial run computes in its first steps, as sketches, and how far its own cuttings differ.

It computes what the user means: the whole global batch, the loss as it is written over all its items. It is cut only to
fit into memory, and only where that changes nothing. A variant has the arithmetic of a recipe, or groups samples as a
layout does, for models in which samples that are computed together act on each other.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from hpc_accel.parallel import planted
from hpc_accel.record.parity import Twin
from hpc_accel.runtime.precision import arithmetic
from hpc_accel.runtime.weight import MeanOver
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Run
from hpc_accel.train.parity.engine import NUM_GRADIENTS, Engine, Trajectory
from hpc_accel.train.parity.facts import Dependence, count_step_flops, least_pieces, measure_facts
from hpc_accel.train.parity.pieces import Cutting, grouped, in_pieces, sampler_of
from hpc_accel.train.parity.room import forget, twins_that_may_fit
from hpc_accel.train.parity.sketch import decoded, encoded, squared

Kind = Literal["whole", "grouped", "recipe", "grouped recipe"]
CUTTINGS = (2, 4)
DOES_NOT_FIT = "the serial run does not fit into memory"


class Reference(BaseModel):
    """The serial run of one digest; without losses for `reason`. Sketches are text (`gradient`, `update_sketch`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str
    kind: Kind
    reason: str = ""
    twin: Twin | None = None
    """The smaller model that stands for the whole, which does not fit on one rank."""
    names: tuple[str, ...] = ()
    weights_digest: int = 0
    mean: MeanOver = MeanOver()
    dependence: Dependence = Dependence()
    draws_data: bool = False
    shared_draws: tuple[str, ...] = ()
    losses: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    gradients: tuple[str, ...] = ()
    update: str = ""
    buffers: dict[str, list[float]] = {}
    samples: tuple[tuple[tuple[int, int], ...], ...] = ()
    totals: tuple[float, ...] = ()
    own_distance: tuple[float, ...] = ()
    """y: of each step the largest distance among its own cuttings, relative to the whole gradient."""
    own_distances: tuple[tuple[float, ...], ...] = ()
    """The same by parameter: absolute distances."""
    own_loss_distance: float = 0.0
    own_update_distance: float = 0.0
    flops_per_step: int | None = None
    flops_reason: str = ""
    duration_s: float | None = None
    """How long it took to compute."""

    def gradient(self, step: int) -> np.ndarray:
        """[parameters, WIDTH]."""
        return decoded(self.gradients[step])

    @property
    def update_sketch(self) -> np.ndarray:
        """[parameters, WIDTH]."""
        return decoded(self.update)


def compute_whole(run: Run, device: torch.device, digest: str) -> Reference:
    """The whole global batch in the model's own type, fp32 at least; of a twin where the model is too large."""
    twins = twins_that_may_fit(run, device)
    with arithmetic("fp32"):
        for twin in twins[:-1]:
            with suppress(torch.OutOfMemoryError):
                return _compute_whole(run, device, digest, twin, is_last=False)
            forget(device)
        return _compute_whole(run, device, digest, twins[-1], is_last=True)


def _compute_whole(run: Run, device: torch.device, digest: str, twin: Twin | None, *, is_last: bool) -> Reference:
    """Raises torch.OutOfMemoryError where a smaller twin can be tried."""
    engine = Engine(run, device, Recipe(), raised=True, twin=twin)
    facts = measure_facts(engine)
    engine.mean = facts["mean"]
    common: dict[str, Any] = {"digest": digest, "kind": "whole", "names": tuple(engine.names), **facts}
    common |= {"twin": twin}
    flops = count_step_flops(engine) if twin is None else (None, f"{DOES_NOT_FIT}, and its twin has others")
    common |= dict(zip(("flops_per_step", "flops_reason"), flops, strict=True))
    if not run.measure.parity_steps:
        return Reference(**common, reason="the study sets parity_steps: 0")
    try:
        return _whole_steps(run, engine, common)
    except torch.OutOfMemoryError as error:
        if not is_last:
            raise
        first = str(error).splitlines()[0]
        why = f"the serial run does not fit into the memory of one {device.type} device: {first}"
        no_flops = {"flops_per_step": None, "flops_reason": DOES_NOT_FIT}
        return Reference(**{**common, **no_flops}, reason=why)


def _whole_steps(run: Run, engine: Engine, common: dict[str, Any]) -> Reference:
    if planted.is_on("out_of_memory"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    least = least_pieces(engine)
    if least > 1 and common["dependence"].is_any:
        return Reference(**common, reason="the whole batch does not fit into memory, and cut it is another one")
    sampler = sampler_of(run, engine.workload.dataset)
    base = engine.trajectory(in_pieces(sampler, least), run.measure.parity_steps, digests=True)
    others = _others(sampler, least, common["dependence"])
    shared = tuple(sorted(engine.still.shared_draws))
    return Reference(**common, **_kept(engine, base, others), shared_draws=shared)


def compute_variant(run: Run, device: torch.device, digest: str, kind: Kind, whole: Reference) -> Reference:
    """The steps of `whole` grouped as the run's layout does, or in the arithmetic of its recipe, or both."""
    recipe = run.recipe if "recipe" in kind else Recipe()
    serial = Recipe(precision=recipe.precision, compression=_on_wire(recipe))
    with arithmetic(serial.precision):
        engine = Engine(run, device, serial, raised="recipe" not in kind, twin=whole.twin)
        engine.mean = whole.mean
        dataset = engine.workload.dataset
        sampler = sampler_of(run, dataset)
        by_layout = "grouped" in kind
        pieces = 1 if by_layout else least_pieces(engine)
        cutting = grouped(run, dataset, run.layout) if by_layout else in_pieces(sampler, pieces)
        base = engine.trajectory(cutting, run.measure.parity_steps, whole.rates, digests=True)
        inside = in_pieces(sampler, pieces, inside=True)
        inside = grouped(run, dataset, run.layout, inside=True) if by_layout else inside
        inside = cutting if whole.dependence.collate else inside
        facts: dict[str, Any] = {
            "mean": whole.mean,
            "dependence": whole.dependence,
            "weights_digest": whole.weights_digest,
        }
        return Reference(digest=digest, kind=kind, names=tuple(engine.names), **facts, **_kept(engine, base, [inside]))


def _on_wire(recipe: Recipe) -> Any:
    return recipe.compression if recipe.compression in ("bf16", "fp16") else "none"


def _others(sampler: Any, least: int, dependence: Dependence) -> list[Cutting]:
    """Cuttings that change nothing but rounding."""
    if dependence.collate:
        return [in_pieces(sampler, 1)]  # in another order others are drawn
    if dependence.is_any:
        return [in_pieces(sampler, 1, inside=True)]
    numbers = [max(least, number) for number in CUTTINGS]
    return [*(in_pieces(sampler, number) for number in numbers), in_pieces(sampler, numbers[-1], backwards=True)]


def _kept(engine: Engine, base: Trajectory, others: list[Cutting]) -> dict[str, Any]:
    """The base trajectory, and the largest distances of the others from it."""
    steps = min(NUM_GRADIENTS, len(base.losses))
    compared = [engine.trajectory(cutting, len(base.losses), base.rates) for cutting in others]
    own, by_parameter = [], []
    for step in range(steps):
        apart = [np.sqrt(squared(other.gradients[step] - base.gradients[step])) for other in compared]
        worst = np.max(apart, axis=0)
        length = math.sqrt(float(squared(base.gradients[step]).sum()))
        own.append(max(float(np.sqrt((each**2).sum())) for each in apart) / (length or 1.0))
        by_parameter.append(tuple(map(float, worst)))
    losses = [abs(a - b) for other in compared for a, b in zip(other.losses, base.losses, strict=True)]
    assert base.update is not None
    moved = [
        float(np.sqrt(squared(other.update - base.update).sum())) for other in compared if other.update is not None
    ]
    length = math.sqrt(float(squared(base.update).sum())) or 1.0
    return {
        "losses": tuple(base.losses),
        "spreads": tuple(base.spreads),
        "rates": tuple(base.rates),
        "gradients": tuple(map(encoded, base.gradients)),
        "update": encoded(base.update),
        "buffers": base.buffers,
        "samples": tuple(tuple(step) for step in base.samples),
        "totals": tuple(base.totals),
        "own_distance": tuple(own),
        "own_distances": tuple(by_parameter),
        "own_loss_distance": max(losses, default=0.0),
        "own_update_distance": max(moved, default=0.0) / length,
    }
