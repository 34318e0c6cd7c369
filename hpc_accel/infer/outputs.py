"""Does a served model answer what the serial fp32 model answers, and what does its recipe cost in accuracy?

Two comparisons of the same samples. Parity: with the serial fp32 model that is pruned alike, since a layout must not
change what is computed; a run that fails it never ranks. Outputs: with the unchanged serial fp32 model, as largest
relative error, share of equal classes (top-1), and the workload's held-out metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hpc_accel.infer.model import Tensors
from hpc_accel.infer.pruning import prune_weights
from hpc_accel.record import parts
from hpc_accel.record.figure import Fraction, OwnUnit
from hpc_accel.record.inference import Outputs
from hpc_accel.record.parts import Parity
from hpc_accel.runtime.precision import arithmetic
from hpc_accel.study.run import Run
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.nested import flattened, floats_of, joined, mapped, moved, tensors_of
from hpc_accel.workloads.stream import spread_over
from hpc_accel.workloads.workload import NO_METRIC, NOT_ASKED, Workload

MAX_SAMPLES = 256
MAX_OUTPUT_ELEMENTS = 1 << 24
Answer = Callable[[Tensors], Any]
"""Inputs of one batch -> outputs, nested as the model returns them, on the host."""


UNCHANGED = "unchanged serial fp32 model, same weights and samples"
NOT_COMPARABLE = "outputs are not finite, or of another shape"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the comparison found, as it stands in the record."""

    parity: Parity
    outputs: Outputs
    metric: parts.Metric


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one model said: of the compared samples, and the metric of the held-out ones."""

    outputs: Any
    count: int
    """Samples whose outputs they are."""
    metric: float | None
    metric_reason: str


def compared_batch(workload: Workload, count: int = MAX_SAMPLES) -> Batch:
    """The first samples of the data set."""
    return workload.batch_of(range(len(spread_over(workload.dataset, count))))


def answers(workload: Workload, answer: Answer, batch_size: int, metric_samples: int) -> Answers:
    """`answer` applied to the compared and to at most `metric_samples` held-out samples."""
    batch = compared_batch(workload)
    start = batch.cut(slice(batch_size))
    first = _answered(start, answer, batch_size)
    # Outputs may be much larger than inputs; what is compared stays small.
    largest = max((each[0].numel() for each in tensors_of(first) if each.dim()), default=1)
    count = min(batch.count, max(batch_size, MAX_OUTPUT_ELEMENTS // max(1, largest)))
    if count > start.count:
        rest = batch.cut(slice(start.count, count))
        first = joined([first, _answered(rest, answer, batch_size)], [start.count, rest.count])
    figure, reason = _figure(workload, answer, batch_size, metric_samples)
    return Answers(outputs=first, count=count, metric=figure, metric_reason=reason)


def _answered(batch: Batch, answer: Answer, batch_size: int) -> Any:
    parts = [batch.cut(slice(begin, begin + batch_size)) for begin in range(0, batch.count, batch_size)]
    outputs = [mapped(_plain, answer(flattened((part.args, part.kwargs))[0])) for part in parts]
    return joined(outputs, [part.count for part in parts])


def _plain(outputs: torch.Tensor) -> torch.Tensor:
    return outputs.float() if outputs.is_floating_point() else outputs


def _figure(workload: Workload, answer: Answer, batch_size: int, most: int) -> tuple[float | None, str]:
    metric = workload.metric
    if metric is None or not most:
        return None, NO_METRIC if metric is None else NOT_ASKED
    held_out = workload.batch_of(metric.chosen(most), metric.dataset)
    return metric.figure(metric.name, _answered(held_out, answer, batch_size), held_out.targets)


def serial_answers(run: Run, workload: Workload, device: torch.device, *, pruned: bool) -> Answers:
    """What the serial fp32 model says, on one rank. `workload` is fresh from `build()`, and used up."""
    model = workload.model.eval().to(device)
    if pruned:
        prune_weights(model, run.recipe)
    batch_size = run.layout.micro_batch_size * run.layout.accumulation_steps
    batch = compared_batch(workload, 1)
    _, form = flattened((batch.args, batch.kwargs))

    def answer(inputs: Tensors) -> Any:
        args, kwargs = form([each.to(device) for each in inputs])
        return moved(model(*args, **kwargs), torch.device("cpu"))

    with torch.no_grad(), arithmetic("fp32"):
        return answers(workload, answer, batch_size, run.measure.metric_samples)


def relative_error(outputs: Any, reference: Any) -> float | None:
    """Largest difference over the largest magnitude of the reference, of each tensor inside that is of samples.

    None where one is not finite, or of another shape.
    """
    pairs = list(zip(_of_samples(outputs), _of_samples(reference), strict=False))
    if not pairs or len(_of_samples(outputs)) != len(_of_samples(reference)):
        return None
    errors = [_relative_error(*pair) for pair in pairs]
    return None if None in errors else max(each for each in errors if each is not None)


def _of_samples(outputs: Any) -> list[torch.Tensor]:
    """Floating tensors but those of a number per batch, a loss for example; of outputs without such, all."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    floats = floats_of(outputs)
    return [each for each in floats if each.dim() > 1] or floats


def _relative_error(outputs: torch.Tensor, reference: torch.Tensor) -> float | None:
    if outputs.shape != reference.shape or not (outputs.isfinite().all() and reference.isfinite().all()):
        return None
    scale = float(reference.abs().max())
    return float((outputs - reference).abs().max()) / max(scale, 1e-12)


def top1_agreement(all_outputs: Any, all_reference: Any, targets: Any) -> float | None:
    """Share of positions whose largest output, of the first tensor, is of the same class; None where targets are not
    classes.
    """
    outputs, reference = (next(iter(_of_samples(each)), None) for each in (all_outputs, all_reference))
    if outputs is None or reference is None or not isinstance(targets, torch.Tensor):
        return None
    if targets.is_floating_point() or outputs.dim() != targets.dim() + 1:
        return None
    last = outputs.shape[1:-1] == targets.shape[1:]
    dimension = -1 if last else 1
    if outputs.shape[dimension] < 2 or (not last and outputs.shape[2:] != targets.shape[1:]):
        return None
    return float((outputs.argmax(dimension) == reference.argmax(dimension)).float().mean())


def spread(comm: Any, mine: Answers | None) -> float | None:
    """Largest relative difference of any replica's outputs from the first one's; None if some are not finite.

    Collective over `comm`, whose rank 0 leads the first replica; `mine` is None on ranks that lead none.
    """
    leaders = comm.Split(0 if mine is not None else 1, comm.Get_rank())
    error: float | None = 0.0
    if mine is not None and leaders.Get_size() > 1:
        error = relative_error(mine.outputs, leaders.bcast(mine.outputs))
    leaders.Free()
    errors = comm.allgather(error)
    return None if None in errors else max(errors)


def compare(
    run: Run, served: Answers, apart: float | None, alike: Answers, plain: Answers, workload: Workload
) -> Compared:
    """The first replica's answers beside the serial ones, and how far others are `apart` from them."""
    assert run.infer is not None
    error = relative_error(served.outputs, alike.outputs)
    worst = error + apart if error is not None and apart is not None else None
    targets = compared_batch(workload).cut(slice(plain.count)).targets
    agreement = top1_agreement(served.outputs, plain.outputs, targets)
    tolerance, wanted = run.measure.parity_tolerance, run.infer.min_top1_agreement
    reason = None
    if worst is None or not math.isfinite(worst):
        worst = None  # two finite outputs can be further apart than any number
        reason = NOT_COMPARABLE
    elif tolerance is None or worst > tolerance:
        reason = f"outputs differ by {worst:.2g} relative to the serial model"
    elif agreement is not None and agreement < wanted:
        reason = f"{agreement:.1%} of the classes are those of the unchanged fp32 model, "
        reason += f"infer.min_top1_agreement is {wanted:.1%}"
    outputs = Outputs(
        reference=UNCHANGED,
        num_samples=plain.count,
        max_rel_err=Fraction.of(relative_error(served.outputs, plain.outputs), NOT_COMPARABLE),
        top1_agreement=Fraction.of(agreement, "the targets are not classes"),
        metric_of_reference=OwnUnit.of(plain.metric, plain.metric_reason),
    )
    return Compared(
        parity=_parity(run, worst, alike.count, reason), outputs=outputs, metric=_metric(run, workload, served)
    )


def unknown(run: Run, served: Answers, workload: Workload, reason: str) -> Compared:
    """Where there was nothing to compare with: no sample compared, and why."""
    outputs = Outputs(
        reference=UNCHANGED,
        num_samples=0,
        max_rel_err=Fraction.missing(reason),
        top1_agreement=Fraction.missing(reason),
        metric_of_reference=OwnUnit.missing(reason),
    )
    return Compared(parity=_parity(run, None, 0, reason), outputs=outputs, metric=_metric(run, workload, served))


def _parity(run: Run, worst: float | None, num_samples: int, reason: str | None) -> Parity:
    return Parity(
        max_rel_err=worst,
        tolerance=run.measure.parity_tolerance,
        steps=num_samples,
        reference="serial fp32 model, same weights and samples" + (", pruned alike" * (run.recipe.prune != "none")),
        passed=reason is None,
        reason=reason,
    )


def _metric(run: Run, workload: Workload, served: Answers) -> parts.Metric:
    metric = workload.metric
    return parts.Metric(
        name=metric.name if metric else None,
        value=served.metric,
        higher_is_better=metric.higher_is_better if metric else None,
        num_samples=len(metric.chosen(run.measure.metric_samples)) if metric else 0,
        reason=served.metric_reason,
    )
