"""Is a layout computing the same thing? Its first losses are compared with a serial fp32 run of the same seed.

The reference runs on rank 0 after the timed steps, so that it disturbs neither their time nor their memory. It is the
whole model, unwrapped and uncut, so the FLOPs of a step are counted on it too. A model that is divided because one
device cannot hold it has no reference there: then parity is unknown, and the record says so.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType

import torch

from hpc_accel.measure.flops import count_flops
from hpc_accel.parallel.mesh import rank_coordinates
from hpc_accel.record.parts import Parity
from hpc_accel.runtime.make_stepper import make_stepper
from hpc_accel.runtime.precision import arithmetic
from hpc_accel.runtime.step import Stepper
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Run
from hpc_accel.workloads import entry
from hpc_accel.workloads.workload import Workload

REFERENCE = "serial fp32, same seed and samples"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The serial run: its first losses, and the FLOPs of one step of the global batch, or why they are unknown."""

    losses: list[float]
    flops_per_step: int | None
    losses_reason: str = ""
    flops_reason: str = ""


def make_room(stepper: Stepper, workload: Workload, device: torch.device) -> None:
    """Free what training holds on `device`; no step of `stepper` can follow."""
    for module in [each for stage in stepper.model.modules.values() for each in stage.modules()]:
        if isinstance(reshard := getattr(module, "reshard", None), MethodType):
            reshard()  # FSDP2 keeps the last gathered block for a backward that never comes
    stepper.release()
    shards = [each for each in workload.model.parameters() if hasattr(each, "to_local")]
    for shard in shards:  # the modules' FSDP state refers to them as well, and they have no use outside their group
        storage = shard.to_local().untyped_storage()
        if storage.resizable():  # pinned host memory, where parameters are offloaded to, is not
            storage.resize_(0)
    if not shards:
        workload.model.cpu()
    gc.collect()  # schedules and wrapped stages refer to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()


def serial_reference(run: Run, device: torch.device) -> Reference:
    """The first `parity_steps` steps on one rank in fp32, in micro-batches of the run's size, and a step's FLOPs."""
    if not run.measure.parity_steps:
        why, flops = (
            "the study sets parity_steps: 0",
            "FLOPs are counted on the serial run, which parity_steps: 0 leaves out",
        )
        return Reference(losses=[], flops_per_step=None, losses_reason=why, flops_reason=flops)
    try:
        return _computed(run, device)
    except torch.OutOfMemoryError as error:
        why = f"the serial run does not fit into the memory of one {device.type} device: {str(error).splitlines()[0]}"
        flops = "FLOPs are counted on the serial run, which does not fit into memory"
        return Reference(losses=[], flops_per_step=None, losses_reason=why, flops_reason=flops)


def _computed(run: Run, device: torch.device) -> Reference:
    total = run.workload.global_batch_size
    micro = run.layout.micro_batch_size if total % run.layout.micro_batch_size == 0 else total
    layout = Layout(micro_batch_size=micro, accumulation_steps=total // micro)
    workload, place = entry.build(run.workload, run.seed), rank_coordinates(layout, 0, device.type)
    with arithmetic("fp32"):
        stepper = make_stepper(run, workload, place, device, recipe=Recipe(), split=None)
        losses = [value for _ in range(run.measure.parity_steps) if (value := stepper.step().result().loss) is not None]
    flops, reason = None, "torch counts no FLOPs in this model: it has no matrix product or convolution"
    try:
        flops = count_flops(lambda: _one_micro_batch(stepper, micro))
    except Exception as error:  # a counter that does not know an operation of the user's model must not end the run
        reason = f"torch could not count: {type(error).__name__}: {error}"
    if flops is None:
        return Reference(losses=losses, flops_per_step=None, flops_reason=reason)
    return Reference(losses=losses, flops_per_step=flops * (total // micro))


def _one_micro_batch(stepper: Stepper, size: int) -> None:
    inputs, targets = stepper.next_batch()
    outputs = stepper.model.module(*(each[:size] for each in inputs))
    stepper.loss(outputs, targets[:size]).backward()


def compare(run: Run, losses: Sequence[float], reference: Sequence[float], reason: str = "") -> Parity:
    """The losses beside those of the serial run. Losses that are not finite differ by definition.

    Without reference losses, for `reason`, it has 0 steps: not passed, and not failed.
    """
    tolerance = run.measure.parity_tolerance
    worst, why = None, reason or "no serial run was made"
    if reference and not all(map(math.isfinite, [*losses[: len(reference)], *reference])):
        why = "a loss is not finite"
    elif reference:
        worst = max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(losses, reference, strict=False))
        why = f"losses differ by {worst:.2g} relative to the serial run"
    passed = worst is not None and tolerance is not None and worst <= tolerance
    return Parity(
        max_rel_err=worst,
        tolerance=tolerance,
        steps=len(reference),
        reference=REFERENCE,
        passed=passed,
        reason=None if passed else why,
    )
