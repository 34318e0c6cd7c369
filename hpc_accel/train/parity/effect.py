"""What PowerSGD and local SGD change, which have no serial twin: the same layout takes the same steps without them.

PowerSGD (Vogels et al., arXiv 1905.13727) begins after two steps with whole gradients, so the first gradient that it
changes comes from weights that are equal: its distance is that of the compression. Local SGD (Stich, arXiv 1805.09767)
lets replicas drift apart over a period: how far, and what is left of it when they are averaged. Both move the weights
otherwise. Nothing of this makes a run wrong: it belongs to the recipe.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.parallel.powersgd import POWERSGD_START
from hpc_accel.record.parity import Effect
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Run
from hpc_accel.train.parity.reference import Reference
from hpc_accel.train.parity.sketch import squared
from hpc_accel.train.parity.steps import Measured, take_steps

MOST_STEPS = 32
"""Steps of a period that are taken; of a longer one its beginning, and the average after it."""


def effects_without_a_twin(
    run: Run,
    comm: Any,
    place: RankCoordinates,
    device: torch.device,
    *,
    split: tuple[int, ...] | None,
    reference: Reference,
    plain: Recipe,
) -> tuple[Effect, ...]:
    """The effects of the run's recipe that no serial run has, in the arithmetic of `plain`. Collective over all ranks.

    Whole on rank 0.
    """
    common: dict[str, Any] = {"split": split, "reference": reference, "raised": True, "checks_optimizer": False}
    found = []
    for name, changed in _changed(run, plain):
        steps = _num_steps(run, name, changed)
        taken = changed.model_copy(update={"average_every": min(steps, changed.average_every)})
        without = take_steps(run, comm, place, device, recipe=plain, num_steps=steps, **common)
        with_it = take_steps(run, comm, place, device, recipe=taken, num_steps=steps, **common)
        if comm.Get_rank() == 0:
            found.append(_effect(name, steps, run.recipe.average_every, with_it, without))
    return tuple(found)


def _changed(run: Run, plain: Recipe) -> list[tuple[str, Recipe]]:
    """Each effect alone."""
    recipe, found = run.recipe, []
    if recipe.compression == "powersgd" and run.layout.dp > 1:
        found.append(("PowerSGD", plain.model_copy(update={"compression": "powersgd"})))
    if recipe.average_every > 1 and run.layout.dp > 1:
        found.append(("local SGD", plain.model_copy(update={"average_every": recipe.average_every})))
    return found


def _num_steps(run: Run, name: str, changed: Recipe) -> int:
    """Whole gradients and one that is compressed at least; or the period."""
    if name == "PowerSGD":
        return max(run.measure.parity_steps, POWERSGD_START + 1)
    return min(changed.average_every, MOST_STEPS)


def _effect(name: str, steps: int, period: int, with_it: Measured, without: Measured) -> Effect:
    moved = _relative(with_it.update, without.update)
    if name == "PowerSGD":
        gradient = _relative(with_it.gradients[POWERSGD_START], without.gradients[POWERSGD_START])
        told = (
            f"the first gradient that it compresses by {_words(gradient)}, and the weights' change over {steps} steps"
        )
        return Effect(
            of=name,
            num_steps=steps,
            gradient_distance=gradient,
            update_distance=moved,
            told=f"PowerSGD changes {told} by {_words(moved)}, beside the same layout with whole gradients",
        )
    part = f"{steps} steps" if steps == period else f"the first {steps} of {period} steps"
    return Effect(
        of=name,
        num_steps=steps,
        update_distance=moved,
        replica_drift=with_it.drift,
        told=(
            f"local SGD lets replicas drift apart by {_words(with_it.drift)} of the weights' change over {part}; "
            f"averaged, that change differs by {_words(moved)} from the same layout with every gradient averaged"
        ),
    )


def _relative(found: np.ndarray, wanted: np.ndarray) -> float | None:
    length = math.sqrt(float(squared(wanted).sum()))
    value = math.sqrt(float(squared(found - wanted).sum())) / (length or 1.0)
    return value if math.isfinite(value) else None


def _words(value: float | None) -> str:
    return "more than can be told" if value is None else f"{value:.2g}"
