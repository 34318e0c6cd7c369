"""Numbers as a reader wants them: three significant digits, no exponent, one unit; never a 0 for "not measured"."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpc_accel.report.judge.statistics import Interval

NOT_MEASURED = "not measured"


def short(value: float | None) -> str:
    """Three significant digits, thousands separated; very small values keep an exponent."""
    if value is None:
        return NOT_MEASURED
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def compact(value: float) -> str:
    """`2,995`, `23.5k`, `1.20M`: as narrow as a chart on a phone."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 10_000 and value >= factor:
            return short(value / factor) + unit
    return short(value)


def with_interval(interval: Interval | None, unit: str = "") -> str:
    """`4.21 (4.15 to 4.30) ms`."""
    if interval is None:
        return NOT_MEASURED
    range_text = f" ({short(interval.low)} to {short(interval.high)})" if interval.high > interval.low else ""
    return f"{short(interval.value)}{range_text}{' ' if unit else ''}{unit}"


def percent(fraction: float | None) -> str:
    """`62 %`; one decimal under 10 %, and where no decimal would make it all."""
    if fraction is None:
        return NOT_MEASURED
    nearly_all = 0.99 <= abs(fraction) < 1
    if nearly_all:
        return f"{math.copysign(math.floor(1000 * abs(fraction)) / 10, fraction):.1f} %"
    return f"{100 * fraction:.{0 if abs(fraction) >= 0.1 else 1}f} %"


def signed_percent(fraction: float) -> str:
    """`+3.1 %`."""
    return ("+" if fraction >= 0 else "") + percent(fraction)


def error(value: float) -> str:
    """A relative error: `1.2e-07`, or 0 when two runs are identical."""
    return f"{value:.1e}" if value else "0"


def duration(time_ms: float) -> str:
    """Milliseconds, from 1 s on in seconds."""
    return f"{short(time_ms / 1e3)} s" if time_ms >= 1e3 else f"{short(time_ms)} ms"


def long_duration(time_ms: float) -> str:
    """A training's time: seconds, from 100 s on minutes, from 100 min on hours, from 100 h on days."""
    for unit, length_ms, most in (("s", 1e3, 100), ("min", 6e4, 100), ("h", 3.6e6, 100)):
        if abs(time_ms) < most * length_ms:
            return f"{short(time_ms / length_ms)} {unit}"
    return f"{short(time_ms / 8.64e7)} days"


def memory(num_bytes: float | None) -> str:
    """Binary units, one decimal."""
    if num_bytes is None:
        return NOT_MEASURED
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.{0 if unit == 'B' else 1}f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} TiB"


def named(names: Sequence[str], most: int = 2) -> str:
    """`a and b`, `a, b and 3 more`."""
    if len(names) <= most:
        return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def counted(count: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
