"""What follows from an energy figure. None in, None out: nothing is divided by what was not measured."""

from __future__ import annotations

JOULES_PER_KWH = 3.6e6


def per(energy_j: float | None, count: float | None) -> float | None:
    """Joules per sample, token, epoch or step."""
    return None if energy_j is None or not count or count < 0 else energy_j / count


def energy_delay_product_js(energy_j: float | None, time_s: float | None) -> float | None:
    """Joule-seconds: smaller is better at both."""
    return None if energy_j is None or time_s is None else energy_j * time_s
