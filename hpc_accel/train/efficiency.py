"""What follows from a run's energy: per step, sample, token and epoch, to the target loss, and times the time it took.

Everything is None where the energy is, for the energy's own reason; what needs more has a reason of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hpc_accel.measure.energy import derived
from hpc_accel.study.run import Run

NO_TOKENS = "the workload's samples are no sequences of token ids"


def tokens_per_sample(sample: Any) -> int | None:
    """Length of a sequence of ids; None for inputs that are none, such as images."""
    is_ids = isinstance(sample, torch.Tensor) and sample.dtype in (torch.int64, torch.int32) and sample.dim() == 1
    return sample.numel() if is_ids else None


def energy_figures(
    energy: dict[str, Any], *, num_steps: int, global_batch_size: int, samples_per_epoch: int, tokens: int | None
) -> dict[str, Any]:
    """Fields that stand beside `energy_j`. An epoch is the samples that it trains on, the dropped ones left out."""
    energy_j, window_s = energy["energy_j"], energy["window_s"]
    per_step_j = derived.per(energy_j, num_steps)
    per_sample_j = derived.per(energy_j, num_steps * global_batch_size)
    return {
        "per_step_j": per_step_j,
        "per_sample_j": per_sample_j,
        "per_token_j": derived.per(per_sample_j, tokens),
        "per_token_reason": energy["reason"] if energy_j is None else "" if tokens else NO_TOKENS,
        "per_epoch_j": per_sample_j * samples_per_epoch if per_sample_j is not None else None,
        # Of one step, so that runs of different length can be compared.
        "energy_delay_product_js": derived.energy_delay_product_js(per_step_j, window_s / num_steps),
    }


def target(run: Run, losses: Sequence[float], energy: dict[str, Any], num_steps: int) -> dict[str, Any]:
    """The `target` object of summary.json: steps, time and energy to the first loss at or below `measure.target_loss`.

    Time and energy are those of as many timed steps; warm-up steps count as steps like any other.
    """
    wanted = run.measure.target_loss
    found: dict[str, Any] = {"loss": wanted, "num_steps": None, "time_s": None, "energy_j": None, "reason": ""}
    if wanted is None:
        return found | {"reason": "the study names no measure.target_loss"}
    reached = next((step for step, loss in enumerate(losses, start=1) if loss <= wanted), None)
    if reached is None:
        lowest = min(losses, default=float("nan"))
        return found | {"reason": f"not reached in {len(losses)} steps; the lowest loss is {lowest:.4g}"}
    per_step_j = derived.per(energy["energy_j"], num_steps)
    energy_j = per_step_j * reached if per_step_j is not None else None
    time_s = reached * energy["window_s"] / num_steps
    reason = energy["reason"] if energy_j is None else ""
    return found | {"num_steps": reached, "time_s": time_s, "energy_j": energy_j, "reason": reason}
