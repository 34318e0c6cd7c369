"""How much arithmetic a step is, and what share of the machine's peak it reached (model FLOP utilisation).

torch counts the operations of matrix products and convolutions as they are dispatched; elementwise work is not
counted. Count on the serial model: a wrapped or split one would count a part. torch is imported when called.
"""

from __future__ import annotations

from collections.abc import Callable


def count_flops(step: Callable[[], object]) -> int | None:
    """Floating-point operations of one call of `step`, forward and backward; None when torch counts none."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return int(counter.get_total_flops()) or None


def utilisation(
    flops_per_step: float | None, step_time_s: float | None, peak_flops_per_s: float | None, num_devices: int
) -> float | None:
    """Share of the probed peak of `num_devices` like one, 0 to 1; None where a part is unknown."""
    if not flops_per_step or not step_time_s or not peak_flops_per_s or num_devices < 1:
        return None
    return flops_per_step / step_time_s / (peak_flops_per_s * num_devices)
