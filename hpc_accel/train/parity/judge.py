"""One phase judged: every comparison in the order of causes, the first that fails named."""

from __future__ import annotations

import math
from typing import Literal, cast

from hpc_accel.record.parity import Phase
from hpc_accel.study.run import Run
from hpc_accel.train.parity import compare, verdict
from hpc_accel.train.parity.reference import Reference
from hpc_accel.train.parity.steps import Measured

COMPARED_WITH = {
    "whole": "the serial run of the whole global batch, same seed and samples",
    "grouped": "a serial run whose samples are grouped as the layout's micro-batches",
}


def judge(
    run: Run,
    name: str,
    arithmetic: str,
    measured: Measured,
    exact: Reference,
    serial: Reference | None,
    setting: verdict.Setting,
) -> Phase:
    """What `measured` says beside `exact`; with `serial`, the recipe's own serial run, as much as that may differ."""
    given = run.measure.parity_tolerance
    given = given if given != run.recipe.parity_tolerance else None
    if serial is None:
        tolerance = compare.layout_tolerance(exact, given)
        loss_tolerance = 0.0
    else:
        tolerance = compare.recipe_tolerance(exact, serial, given)
        loss_tolerance = max(tolerance, compare.RECIPE * _loss_effect(exact, serial))
    gradients = [
        compare.compare_gradient(each, exact, step, tolerance=tolerance, by_parameter=serial is None)
        for step, each in enumerate(measured.gradients)
    ]
    moved, order = compare.update_distance(measured, exact)
    cause = verdict.inputs_differ(measured, exact) or _cause(measured, exact, gradients, setting, proves=serial is None)
    cause = cause or _loss_cause(measured, exact, loss_tolerance)
    own_update = compare.OWN * exact.own_update_distance
    if serial is not None:  # weights of 16 bits round each update
        own_update = max(tolerance, compare.RECIPE * compare.update_effect(exact, serial))
    allowed = max(compare.UPDATE, own_update)
    still = compare.still_ones(measured, exact)
    if not cause and not moved <= allowed:
        cause = verdict.updates_differ(moved, order, still, measured, setting)
    num_passes = run.layout.accumulation_steps * (1 if run.recipe.sync_batch_norm else run.layout.dp)
    is_alike = exact.kind == "grouped" or num_passes == 1
    if not cause and serial is None and is_alike:
        outside = compare.buffers_outside(measured.buffers, exact)
        cause = verdict.statistics_differ(outside, measured.buffers, exact.buffers) if outside else ""
    cause = cause or verdict.norms_differ(measured)
    apart = measured.optimizer_apart
    if not cause and apart is not None and not apart <= compare.optimizer_tolerance(run.workload.optimizer):
        cause = f"the optimizer's update differs by {apart:.2g} from plain torch's on the same gradient"
    return Phase(
        name=cast("Literal['layout', 'recipe']", name),
        arithmetic=arithmetic,
        compared_with=COMPARED_WITH["grouped" if exact.kind == "grouped" else "whole"],
        gradient_distances=tuple(finite(each.distance) for each in gradients),
        gradient_tolerances=tuple(each.tolerance for each in gradients),
        gradient_factors=tuple(finite(each.factor) for each in gradients),
        losses=tuple(map(finite, measured.losses)),
        reference_losses=tuple(map(finite, exact.losses)),
        update_distance=finite(moved),
        optimizer_distance=apart if apart is None else finite(apart),
        passed=not cause,
        cause=cause,
    )


def _cause(
    measured: Measured, exact: Reference, gradients: list[compare.Gradient], setting: verdict.Setting, *, proves: bool
) -> str:
    cause = verdict.totals_differ(measured, exact, setting.layout)
    if cause:
        return cause
    if proves and (cause := verdict.copies_differ(measured, setting)):
        return cause
    still = compare.still_ones(measured, exact)
    for step, found in enumerate(gradients):
        if not found.passed:
            losses = measured.losses[step], exact.losses[step]
            return verdict.gradient_differs(step, found, losses, measured, setting, still)
    return ""


def _loss_cause(measured: Measured, exact: Reference, tolerance: float) -> str:
    step = compare.loss_outside(measured.losses, exact, tolerance)
    if step is None:
        return ""
    mine, wanted = measured.losses[step], exact.losses[step]
    return f"step {step}: gradients agree, the loss is {mine:.6g} and that of the serial run {wanted:.6g}"


def _loss_effect(exact: Reference, serial: Reference) -> float:
    pairs = zip(exact.losses, serial.losses, exact.spreads, strict=False)
    return max((abs(a - b) / (max(abs(a), spread) or 1.0) for a, b, spread in pairs), default=0.0)


def finite(value: float) -> float | None:
    """The value, or None: a record has no NaN."""
    return float(value) if math.isfinite(value) else None
