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
from hpc_accel.train.parity.engine import NUM_GRADIENTS, Engine, Trajectory, buffer_distance
from hpc_accel.train.parity.facts import Dependence, count_step_flops, least_pieces, measure_facts
from hpc_accel.train.parity.pieces import Cutting, grouped, in_pieces, sampler_of
from hpc_accel.train.parity.room import forget, twins_that_may_fit
from hpc_accel.train.parity.sketch import decoded, encoded, squared

Kind = Literal["whole", "grouped", "recipe", "grouped recipe"]
CUTTINGS = (2, 4)
NUDGES = (1, 2)
NOISY = 1e-3
"""A larger y would let faults pass in fp32."""
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
    is_double: bool = False
    """Whether it was computed in fp64 although the model is of another type."""
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
    own_buffers_distance: float = 0.0
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
    kept = _kept(engine, base, others)
    is_noisy = common["dependence"].is_any or max(kept["own_distance"], default=0.0) > NOISY
    if is_noisy and common["twin"] is None:
        kept |= _in_double(run, engine, others, base.rates)
    shared = tuple(sorted(engine.still.shared_draws))
    return Reference(**common, **kept, shared_draws=shared)


def _in_double(run: Run, single: Engine, others: list[Other], rates: list[float]) -> dict[str, Any]:
    """The same steps in fp64; nothing where the model or its loss cannot be, or memory is short."""
    if single.is_double:
        return {}
    try:
        engine = Engine(run, single.device, Recipe(), raised=True, double=True)
        if least_pieces(engine) > 1:
            return {}
        engine.mean = single.mean
        whole = in_pieces(sampler_of(run, engine.workload.dataset), 1)
        base = engine.trajectory(whole, run.measure.parity_steps, rates, digests=True)
        return {**_kept(engine, base, others), "is_double": True}
    except Exception:  # tensors of fp32 in the user's code: they meet fp64 in as many ways as there are operations
        return {}


def compute_variant(run: Run, device: torch.device, digest: str, kind: Kind, whole: Reference) -> Reference:
    """The steps of `whole` grouped as the run's layout does, or in the arithmetic of its recipe, or both."""
    recipe = run.recipe if "recipe" in kind else Recipe()
    serial = Recipe(precision=recipe.precision, compression=_on_wire(recipe))
    with arithmetic(serial.precision):
        is_double = whole.is_double and kind == "grouped"
        raised = "recipe" not in kind
        engine = Engine(run, device, serial, raised=raised, twin=whole.twin, double=is_double)
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
        others: list[Other] = [(inside, 0), *_nudged(cutting if kind == "grouped" else None)]
        facts: dict[str, Any] = {
            "mean": whole.mean,
            "dependence": whole.dependence,
            "weights_digest": whole.weights_digest,
            "is_double": is_double,
        }
        return Reference(digest=digest, kind=kind, names=tuple(engine.names), **facts, **_kept(engine, base, others))


def _on_wire(recipe: Recipe) -> Any:
    return recipe.compression if recipe.compression in ("bf16", "fp16") else "none"


Other = tuple[Cutting, int]
"""A cutting, and the nudge of the first weights."""


def _others(sampler: Any, least: int, dependence: Dependence) -> list[Other]:
    """What changes nothing but rounding."""
    if dependence.collate:
        return [(in_pieces(sampler, 1), 0)]  # in another order others are drawn
    if dependence.is_any:
        return [(in_pieces(sampler, 1, inside=True), 0), *_nudged(in_pieces(sampler, 1))]
    numbers = [max(least, number) for number in CUTTINGS]
    cuttings = [*(in_pieces(sampler, number) for number in numbers), in_pieces(sampler, numbers[-1], backwards=True)]
    return [(cutting, 0) for cutting in cuttings]


def _nudged(cutting: Cutting | None) -> list[Other]:
    """For models that no cut leaves as they are: other orders of samples inside a batch round nearly alike, other
    batch sizes and orders of sums do not.
    """
    return [(cutting, nudge) for nudge in NUDGES] if cutting is not None else []


def _kept(engine: Engine, base: Trajectory, others: list[Other]) -> dict[str, Any]:
    """The base trajectory, and the largest distances of the others from it."""
    steps = min(NUM_GRADIENTS, len(base.losses))
    compared = [engine.trajectory(cutting, len(base.losses), base.rates, nudge=nudge) for cutting, nudge in others]
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
        "own_buffers_distance": max(
            (buffer_distance(other.buffers[name], base.buffers[name]) for other in compared for name in base.buffers),
            default=0.0,
        ),
    }
