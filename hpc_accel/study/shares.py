"""Samples of the global batch in proportion to speed, exactly: largest remainders (Hamilton's method)."""

from __future__ import annotations

from collections.abc import Sequence

ROUNDING = 1e-9
"""Of quotas, so that equal speeds give equal shares."""


def proportional(total: int, speeds: Sequence[float], multiple: int = 1) -> tuple[int, ...]:
    """`total` samples divided over replicas in proportion to `speeds`, each share at least one `multiple`.

    Each replica gets the whole multiples of its quota, and the largest remainders one more; of equal ones the first.
    Raises ValueError when `multiple` does not divide `total`, or there are fewer multiples than replicas.
    """
    units, rest = divmod(total, multiple)
    if rest or units < len(speeds):
        raise ValueError(f"{total} samples in multiples of {multiple} for {len(speeds)} replicas")
    quotas = [units * speed / sum(speeds) for speed in speeds]
    # Slow replicas get the one that is their least first; what is left is divided among the others alone.
    least: set[int] = set()
    while slow := {index for index, quota in enumerate(quotas) if quota < 1 - ROUNDING}:
        least |= slow
        left, fast = units - len(least), sum(speed for index, speed in enumerate(speeds) if index not in least)
        quotas = [1.0 if index in least else left * speed / fast for index, speed in enumerate(speeds)]
    whole = [int(quota + ROUNDING) for quota in quotas]
    by_remainder = sorted(range(len(speeds)), key=lambda index: (whole[index] - quotas[index], index))
    for index in by_remainder[: units - sum(whole)]:
        whole[index] += 1
    return tuple(count * multiple for count in whole)
