"""Measured steps into a calibration: passes by layer, samples, optimizer, and what replicas and stages took more."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import geometric_mean, median

from hpc_accel.calibrate.measure import Steps
from hpc_accel.calibrate.shorten import facts_of_kept
from hpc_accel.calibrate.wanted import PASSES, REPLICAS, STAGES, Wanted
from hpc_accel.plan.calibration import Calibration, Linear, MeasuredPass, Replicated, Staged, layer_digest
from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.software import torch_amp
from hpc_accel.probe.hardware import Hardware
from hpc_accel.study.layout import Shard
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.recipe import Precision

Measured = Sequence[tuple[Wanted, Steps]]
LEAST_S = 1e-9
"""A layer that does nothing is still a positive time."""
BISECTIONS = 30


def fit(measured: Measured, facts: ModelFacts, hardware: Hardware, known: Calibration) -> Calibration:
    """`known` with what was measured. Passes first, because the rest is what layouts took more than they compose."""
    of = {what: [each for each in measured if each[0].what == what] for what in (PASSES, REPLICAS, STAGES)}
    passes = [one for wanted, steps in of[PASSES] for one in _passes(wanted, steps, facts, hardware)]
    fitted = known.model_copy(update={"passes": (*known.passes, *passes)})
    if of[PASSES]:
        fitted = fitted.model_copy(update=_beside(of[PASSES], facts, hardware, known))
    more = _replicated(of[REPLICAS], facts, hardware, fitted)
    staged = _staged(of[STAGES], facts, hardware, fitted)
    return fitted.model_copy(
        update={
            "replicated": (*known.replicated, *more),
            "staged": staged or known.staged,
        }
    )


def model_of(wanted: Wanted, facts: ModelFacts, hardware: Hardware, calibration: Calibration | None) -> StepModel:
    """What predicts the steps of `wanted`."""
    run = wanted.run
    software = torch_amp(run.workload.optimizer, run.recipe, run.backend, facts.optimizer)
    return StepModel(facts, hardware, run.recipe.precision, software, run.backend, calibration)


def _passes(wanted: Wanted, steps: Steps, facts: ModelFacts, hardware: Hardware) -> list[MeasuredPass]:
    """Of each different layer, so that all add up to the forward and backward phases of the steps.

    What layers take alone says how much of them each takes; without that, what is predicted of each.
    """
    layout, recipe = wanted.run.layout, wanted.run.recipe
    kept = facts_of_kept(facts, steps.kept_layers)
    times = steps.layers
    if times is None or len(times) != len(kept.layers):
        times = _predicted(wanted, kept, hardware)
    whole = [steps.phases_s[name] / layout.accumulation_steps for name in ("forward", "backward")]
    scale = [took / max(LEAST_S, sum(each[part] for each in times)) for part, took in enumerate(whole)]
    found: dict[str, list[tuple[float, float]]] = {}
    names: dict[str, str] = {}
    for layer, each in zip(kept.layers, times, strict=True):
        digest = layer_digest(layer)
        names.setdefault(digest, layer.name)
        found.setdefault(digest, []).append((each[0] * scale[0], each[1] * scale[1]))
    return [
        MeasuredPass(
            layer=digest,
            name=names[digest],
            precision=recipe.precision,
            recompute=recipe.recompute,
            tp=layout.tp,
            micro_batch_size=layout.micro_batch_size,
            sequence_parallel=layout.sequence_parallel,
            ranks=wanted.at_once,
            forward_s=max(LEAST_S, sum(one[0] for one in each) / len(each)),
            backward_s=max(LEAST_S, sum(one[1] for one in each) / len(each)),
            options=recipe.calibrated,
            spread=steps.spread,
            power_w=steps.power_w,
        )
        for digest, each in found.items()
    ]


def _predicted(wanted: Wanted, facts: ModelFacts, hardware: Hardware) -> list[tuple[float, float]]:
    model = model_of(wanted, facts, hardware, None)
    return model.stage_times.layers_alone_s(wanted.run.layout, wanted.run.resources)


def _beside(measured: Measured, facts: ModelFacts, hardware: Hardware, known: Calibration) -> dict[str, object]:
    """Samples, optimizer, and what is in no phase."""
    points, rest, ratios = [], [], []
    fused = {wanted.run.recipe.fused_optimizer for wanted, _ in measured}
    for wanted, steps in measured:
        layout = wanted.run.layout
        points.append((layout.micro_batch_size, steps.phases_s["data"] / layout.accumulation_steps))
        rest.append(max(0.0, steps.step_s - sum(steps.phases_s.values())))
        model = model_of(wanted, facts_of_kept(facts, steps.kept_layers), hardware, None)
        predicted = model.parts_s(layout, wanted.run.resources)["optimizer"]
        if predicted > 0 and steps.phases_s["optimizer"] > 0:
            ratios.append((wanted.run.recipe.fused_optimizer, steps.phases_s["optimizer"] / predicted))
    by_kind = {
        "fused" if kind else "plain": geometric_mean([ratio for of, ratio in ratios if of is kind])
        for kind in fused
        if any(of is kind for of, _ in ratios)
    }
    return {
        "micro_batch_s": 0.0,  # in the passes, which add up to the phases
        "samples": known.samples or line(points),
        "step_s": known.step_s if known.step_s is not None else median(rest),
        "optimizer_ratios": by_kind | known.optimizer_ratios,
    }


def line(points: Sequence[tuple[float, float]]) -> Linear:
    """Through (count, seconds), by the median of the slopes between them (Theil, 1950), and never below nothing."""
    slopes = [(b - a) / (y - x) for number, (x, a) in enumerate(points) for y, b in points[number + 1 :] if x != y]
    each = max(0.0, median(slopes)) if slopes else 0.0
    if not slopes:
        each = median(seconds / count for count, seconds in points)
    return Linear(fixed_s=max(0.0, median(seconds - each * count for count, seconds in points)), each_s=each)


def _replicated(measured: Measured, facts: ModelFacts, hardware: Hardware, fitted: Calibration) -> list[Replicated]:
    """What replicas took more than composed: in each micro-batch, and once a step."""
    found = []
    for shard, precision in dict.fromkeys(_kind(wanted) for wanted, _ in measured):
        differences, spread = {}, 0.0
        for wanted, steps in measured:
            if _kind(wanted) == (shard, precision):
                composed = _composed_s(wanted, steps, facts, hardware, fitted)
                differences[wanted.run.layout.accumulation_steps] = steps.step_s - composed
                spread = max(spread, steps.spread)
        few, many = min(differences), max(differences)
        each = (differences[many] - differences[few]) / (many - few) if many > few else 0.0
        step = {"micro_batch_s": each, "step_s": differences[few] - few * each}
        found.append(Replicated(shard=shard, precision=precision, **step, spread=spread))
    return found


def _kind(wanted: Wanted) -> tuple[Shard, Precision]:
    return wanted.run.layout.shard, wanted.run.recipe.precision


def _staged(measured: Measured, facts: ModelFacts, hardware: Hardware, fitted: Calibration) -> Staged | None:
    """What each pass through a stage takes more than its layers, for the simulated step to take as long as measured."""
    if not measured:
        return None
    wanted, steps = min(measured, key=lambda each: each[1].spread)
    low, high = 0.0, steps.step_s
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        tried = fitted.model_copy(update={"staged": Staged(pass_s=middle)})
        low, high = (
            (middle, high) if _composed_s(wanted, steps, facts, hardware, tried) < steps.step_s else (low, middle)
        )
    return Staged(pass_s=low, spread=steps.spread)


def _composed_s(wanted: Wanted, steps: Steps, facts: ModelFacts, hardware: Hardware, fitted: Calibration) -> float:
    model = model_of(wanted, facts_of_kept(facts, steps.kept_layers), hardware, fitted)
    return sum(model.parts_s(wanted.run.layout, wanted.run.resources).values())
