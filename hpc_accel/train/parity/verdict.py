"""What a difference means: the first that differs, by how much, and the fault that leaves such a pattern.

In the order of causes: what ranks were given (samples, values), what they weigh, what they hold in common, gradients,
losses, weights, running statistics, the optimizer. The first that differs is told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from hpc_accel.study.layout import Layout
from hpc_accel.train.parity.compare import COPIES, Gradient
from hpc_accel.train.parity.reference import Reference
from hpc_accel.train.parity.steps import Measured

MOST_NAMED = 3
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
NORM = 1e-4
"""How far the norm that gradients are clipped by may be from the whole gradient's, relative."""
EXPLAINED = 0.05
"""A fault of scale explains a difference of which this share is left."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a verdict speaks of."""

    layout: Layout
    names: Sequence[str]
    stages: dict[str, int]
    norms: frozenset[str]
    """Parameters of normalisation layers."""


def norms_of(model: nn.Module) -> frozenset[str]:
    """Names of the parameters of normalisation layers."""
    owners = [(name, module) for name, module in model.named_modules() if isinstance(module, NORMS)]
    return frozenset(f"{name}.{key}" for name, module in owners for key, _ in module.named_parameters())


def norms_differ(measured: Measured) -> str:
    """Gradients that were clipped by another norm than the whole gradient's; "" where they were not."""
    if measured.clip_norms is None:
        return ""
    mine, wanted = measured.clip_norms
    if abs(mine - wanted) <= NORM * wanted:
        return ""
    return (
        f"gradients are clipped by a norm of {mine:.6g}, and the whole model's gradient has {wanted:.6g}: a norm of "
        "what one rank holds, or of elements that count twice"
    )


def inputs_differ(measured: Measured, exact: Reference) -> str:
    """Other samples than the serial run's, or other values of them; "" where all are its own."""
    for step, (rows, wanted) in enumerate(zip(measured.samples, exact.samples, strict=False)):
        values: dict[int, int] = dict(wanted)
        by_rank: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for rank, index, digest in rows:
            by_rank[rank].append((index, digest))
        missing = sorted(set(values) - {index for _, index, _ in rows})
        strangers = sorted({(rank, index) for rank, index, _ in rows if index not in values})
        if missing or strangers:
            told = f"samples {_listed(missing)} were trained on by no rank" if missing else ""
            told = told or f"rank {strangers[0][0]} trains on sample {strangers[0][1]}, which is not of this batch"
            return f"step {step}: {told}: the sampler gives ranks other samples than the global batch has"
        others = {rank: [i for i, digest in found if digest != values[i]] for rank, found in by_rank.items()}
        wrong = {rank: found for rank, found in others.items() if found}
        if wrong and len(wrong) == len(by_rank):
            return (
                f"step {step}: sample {next(iter(wrong.values()))[0]} has other values than in the serial run, on "
                "every rank: the data set draws what no seed fixes, or reads what changes"
            )
        if wrong:
            rank, found = next(iter(wrong.items()))
            return (
                f"step {step}: inputs differ between ranks: sample {found[0]} has other values on rank {rank} than in "
                "the serial run: numbers that are not seeded alike, the order of a set, or other files"
            )
    return ""


def totals_differ(measured: Measured, exact: Reference, layout: Layout) -> str:
    """Other weights of the mean than the serial run's."""
    for step, (totals, wanted) in enumerate(zip(measured.totals, exact.totals, strict=False)):
        for total in totals:
            if abs(total - wanted) > 1e-6 * abs(wanted):
                return (
                    f"step {step}: a rank divides by {total:.6g} items that count, the global batch has {wanted:.6g}: "
                    f"the mean is taken per rank, and not over the {layout.dp} replicas together"
                )
    return ""


def copies_differ(measured: Measured, setting: Setting) -> str:
    """Ranks that hold the same parameter have other gradients of it."""
    for step, apart in enumerate(measured.copies_apart):
        worst = max(range(len(apart)), key=lambda index: apart[index], default=0)
        if apart and apart[worst] > COPIES:
            return (
                f"step {step}: replicas hold different gradients of {setting.names[worst]} (their squared lengths "
                f"differ by {apart[worst]:.2g}): gradients are not averaged over the replicas"
            )
    return ""


def gradient_differs(
    step: int, found: Gradient, losses: tuple[float, float], measured: Measured, setting: Setting, still: Sequence[int]
) -> str:
    """The pattern of one step's gradient, in words."""
    told = f"step {step}: the gradient differs by {found.distance:.2g} (allowed {found.tolerance:.2g})"
    if found.distance != found.distance:
        return f"step {step}: the gradient is not finite, that of the serial run is"
    if abs(found.factor - 1) > 10 * found.tolerance and found.rest <= EXPLAINED * found.distance:
        return f"{told}: every gradient is {found.factor:.2f} times the serial one: {_of_scale(found.factor, setting)}"
    worst = max(range(len(measured.updates_apart)), key=measured.updates_apart.__getitem__, default=0)
    if step and measured.updates_apart and measured.updates_apart[worst] > 0.01:
        return f"{told} although that of step 0 did not: replicas hold different weights of {setting.names[worst]}"
    if step and still:
        return f"{told} although that of step 0 did not: {_of_still(still, measured, setting)}"
    dropped = _of_missing(losses, setting.layout)
    if dropped and abs(found.lengths[0] - found.lengths[1]) > found.tolerance * found.lengths[1]:
        return f"{told}: {dropped}"
    where = _where(found.outside, setting)
    return f"{told}: {where}" if where else told


def updates_differ(
    distance: float, order: Sequence[int], still: Sequence[int], measured: Measured, setting: Setting
) -> str:
    """The weights after the steps, in words."""
    told = f"gradients agree, and the weights moved otherwise by {distance:.2g}"
    if still:
        return f"{told}: {_of_still(still, measured, setting)}"
    return f"{told}, most in {setting.names[order[0]]}"


def statistics_differ(names: Sequence[str], measured: dict[str, Any], exact: dict[str, Any]) -> str:
    """Running statistics, in words; a counter tells how often they were updated."""
    for name in exact:
        if name.endswith("num_batches_tracked") and name in measured and exact[name][0]:
            times = measured[name][0] / exact[name][0]
            if times != 1:
                return (
                    f"running statistics were updated {times:.2f} times as often as in the serial run ({name}): "
                    "forward runs more than once for a micro-batch"
                )
    return f"running statistics differ from the serial run's: {_listed(names)}"


def _of_scale(factor: float, setting: Setting) -> str:
    layout = setting.layout
    times = (
        (layout.dp, f"a sum over the {layout.dp} replicas where a mean belongs"),
        (layout.accumulation_steps, f"a sum over the {layout.accumulation_steps} micro-batches where a mean belongs"),
        (layout.tp, f"a sum over the {layout.tp} tensor-parallel ranks, each of which has it whole"),
        (layout.dp * layout.accumulation_steps, "a sum over all micro-batches where a mean belongs"),
    )
    for number, words in times:
        if number > 1 and abs(factor - number) < 0.02 * number:
            return f"{words}, or a gradient added twice" if number == 2 else words
        if number > 1 and abs(factor * number - 1) < 0.02:
            what = "replicas" if number == layout.dp else "micro-batches"
            return f"a mean taken twice: the loss is divided by the {number} {what} once more"
    if abs(factor - 2) < 0.04:
        return "a gradient added twice"
    return "a mean taken twice, or not at all"


def _of_still(still: Sequence[int], measured: Measured, setting: Setting) -> str:
    stages = {setting.stages[setting.names[index]] for index in still if setting.names[index] in setting.stages}
    if stages:
        return f"the weights of stage {_listed(sorted(stages))} are not updated: forward runs on stale weights"
    if not np.any(measured.update):
        return "no weight is updated: forward runs on stale weights"
    return f"the weights of {_listed([setting.names[index] for index in still])} are not updated"


def _of_missing(losses: tuple[float, float], layout: Layout) -> str:
    """Whether the loss fell by about the share of one micro-batch."""
    mine, wanted = losses
    if not wanted or mine == wanted:
        return ""
    number = layout.accumulation_steps
    missing = 1 - mine / wanted
    if number > 1 and 0.4 / number < missing < 2.5 / number:
        return f"the loss is {mine / wanted:.2f} of the serial one, as if 1 of {number} micro-batches was left out"
    return ""


def _where(outside: Sequence[int], setting: Setting) -> str:
    names = [setting.names[index] for index in outside]
    if not names or len(names) == len(setting.names):
        return "all parameters differ" if names else ""
    if len(names) == 1:
        return f"only {names[0]}, all other parameters agree"
    if set(names) <= setting.norms:
        return f"only normalisation layers ({_listed(names)}): the parts they are computed from are not added up"
    stages = {setting.stages.get(name) for name in names}
    if len(stages) == 1 and None not in stages and len(set(setting.stages.values())) > 1:
        return f"only parameters of stage {stages.pop()}"
    return f"{len(names)} of {len(setting.names)} parameters, most in {_listed(names)}"


def _listed(values: Sequence[Any]) -> str:
    shown = ", ".join(map(str, values[:MOST_NAMED]))
    return shown + (f" and {len(values) - MOST_NAMED} more" if len(values) > MOST_NAMED else "")
