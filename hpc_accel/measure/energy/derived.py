"""What follows from an energy figure: per sample, money, carbon, by phase; and estimates, which are no figures.

None in, None out: nothing is divided by what was not measured. Estimates have names of their own, so that no
table can mix them with measurements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hpc_accel.measure.energy.power_samples import PowerSeries
from hpc_accel.measure.events import Span

JOULES_PER_KWH = 3.6e6


def per(energy_j: float | None, count: float | None) -> float | None:
    """Joules per sample, token, epoch or step."""
    return None if energy_j is None or not count or count < 0 else energy_j / count


def energy_delay_product_js(energy_j: float | None, time_s: float | None) -> float | None:
    """Joule-seconds: smaller is better at both."""
    return None if energy_j is None or time_s is None else energy_j * time_s


def carbon_g(energy_j: float | None, carbon_g_per_kwh: float | None) -> float | None:
    """Grams of CO2 equivalent by the site's factor; None where the site gives none."""
    return None if energy_j is None or carbon_g_per_kwh is None else energy_j / JOULES_PER_KWH * carbon_g_per_kwh


def electricity_cost(energy_j: float | None, price_per_kwh: float | None) -> float | None:
    """Money for the electricity in the site's currency; None where the site gives no price."""
    return None if energy_j is None or price_per_kwh is None else energy_j / JOULES_PER_KWH * price_per_kwh


def estimate(power_w: float, num_devices: int, window_s: float) -> dict[str, Any]:
    """What devices of a given power would use at full load: only when the study asks, under names of its own."""
    return {
        "estimated_energy_j": power_w * num_devices * window_s,
        "estimated_method": f"estimated: {num_devices} x {power_w:g} W for {window_s:g} s, not measured",
    }


def _cumulative(series: PowerSeries) -> tuple[np.ndarray, np.ndarray]:
    """Times in ns and joules so far: a sample is the mean power since the one before it."""
    times_ns = np.asarray(series.times_ns, dtype=np.int64)
    energy_j = np.concatenate([[0.0], np.cumsum(np.asarray(series.powers_w)[1:] * np.diff(times_ns) * 1e-9)])
    return times_ns, energy_j


def _reaching(times_ns: np.ndarray, energy_j: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Samples that cover all edges; None where they do not, by more than two of their intervals.

    A counter is looked at some time before a window begins and last moved some time before it ends: for that little,
    the power beside it goes on.
    """
    reach_ns = 2 * float(np.median(np.diff(times_ns)))
    start_ns, end_ns = int(edges.min()), int(edges.max())
    if start_ns < times_ns[0] - reach_ns or end_ns > times_ns[-1] + reach_ns:
        return None
    if start_ns < times_ns[0]:
        slope = (energy_j[1] - energy_j[0]) / (times_ns[1] - times_ns[0])
        energy_j = np.concatenate([[energy_j[0] - slope * (times_ns[0] - start_ns)], energy_j])
        times_ns = np.concatenate([[start_ns], times_ns])
    if end_ns > times_ns[-1]:
        slope = (energy_j[-1] - energy_j[-2]) / (times_ns[-1] - times_ns[-2])
        energy_j = np.concatenate([energy_j, [energy_j[-1] + slope * (end_ns - times_ns[-1])]])
        times_ns = np.concatenate([times_ns, [end_ns]])
    return times_ns, energy_j


def by_phase(series: Iterable[PowerSeries], spans: Sequence[Span]) -> dict[str, dict[str, Any]]:
    """Energy, time and mean power of each phase by its name, from power sampled on the spans' clock.

    A sample interval that several phases share is split by time. So phases much shorter than the interval all
    show the mean power, and `is_resolved` says whether the phase's spans are at least one interval long.
    Spans outside the samples have no figure.
    """
    found = [(times, energy) for times, energy in map(_cumulative, series) if len(times) >= 2]
    phases: dict[str, dict[str, Any]] = {}
    by_name: dict[str, list[tuple[int, int]]] = {}
    for span in spans:
        by_name.setdefault(span.name, []).append((span.start_ns, span.end_ns))
    for name, pieces in by_name.items():
        edges = np.array(pieces, dtype=np.int64)
        covered = [reached for t, e in found if (reached := _reaching(t, e, edges)) is not None]
        time_s = float((edges[:, 1] - edges[:, 0]).sum()) * 1e-9
        energy_j = None
        is_resolved = False
        if covered and len(covered) == len(found):
            energy_j = float(sum(np.diff(np.interp(edges, t, e), axis=1).sum() for t, e in covered))
            interval_ns = max(float(np.median(np.diff(t))) for t, _ in covered)
            is_resolved = bool(np.median(edges[:, 1] - edges[:, 0]) >= interval_ns)
        power_w = energy_j / time_s if energy_j is not None and time_s > 0 else None
        phases[name] = {"energy_j": energy_j, "time_s": time_s, "mean_power_w": power_w, "is_resolved": is_resolved}
    return phases
