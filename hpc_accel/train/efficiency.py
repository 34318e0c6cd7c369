"""What training to a loss took, in steps, time and energy; and how many tokens a sample has."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hpc_accel.record.energy import Energy
from hpc_accel.record.figure import Count, Joules, OwnUnit, Seconds
from hpc_accel.record.parts import Target
from hpc_accel.study.run import Run
from hpc_accel.workloads.stream import spread_over
from hpc_accel.workloads.workload import Workload

NO_TOKENS = "the workload's samples are no sequences of token ids, or of different lengths"
MOST_LOOKED_AT = 8


def tokens_per_sample(workload: Workload) -> int | None:
    """Length of a sequence of ids; None for inputs that are none, such as images, and where lengths differ."""
    numbers = spread_over(workload.dataset, MOST_LOOKED_AT if workload.collate is not None else 1)
    found = {_num_ids(workload.batch_of([number]).inputs[:1]) for number in numbers}
    return found.pop() if len(found) == 1 else None


def _num_ids(inputs: list[torch.Tensor]) -> int | None:
    is_ids = bool(inputs) and inputs[0].dtype in (torch.int64, torch.int32) and inputs[0].dim() == 2
    return inputs[0].shape[1] if is_ids else None


def target(run: Run, losses: Sequence[float], energy: Energy, num_steps: int, *, started_from: str = "") -> Target:
    """Steps, time and energy to the first loss at or below `measure.target_loss`, of a training that began here.

    Time and energy are those of as many timed steps; warm-up steps count as steps like any other.
    """
    wanted = run.measure.target_loss
    if wanted is None:
        return Target.missing("the study names no measure.target_loss")
    if started_from:
        return Target.missing(f"the steps before {started_from} are in another run's record", wanted)
    reached = next((step for step, loss in enumerate(losses, start=1) if loss <= wanted), None)
    if reached is None:
        lowest = min(losses, default=float("nan"))
        return Target.missing(f"not reached in {len(losses)} steps; the lowest loss is {lowest:.4g}", wanted)
    per_step_j = energy.per_step_j
    energy_j = per_step_j.value * reached if per_step_j.value is not None else None
    time_s = reached * energy.window_s / num_steps if energy.window_s is not None else None
    return Target(
        loss=OwnUnit.of(wanted),
        num_steps=Count.of(reached),
        time_s=Seconds.of(time_s, energy.reason or "the window was not timed"),
        energy_j=Joules.of(energy_j, per_step_j.reason, per_step_j.remedy),
    )
