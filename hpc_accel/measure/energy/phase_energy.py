"""The joules of each phase from sampled power: samples and spans on one clock, without ranks and devices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hpc_accel.measure.energy.power_samples import PowerSeries
from hpc_accel.measure.events import Span


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseEnergy:
    """`energy_j` is None where the samples do not cover the phase.

    `is_resolved`: half of its spans are at least as long as the time between two samples.
    """

    energy_j: float | None
    is_resolved: bool


def by_phase(series: Iterable[PowerSeries], spans: Sequence[Span]) -> dict[str, PhaseEnergy]:
    """Energy of each phase by its name, from power sampled on the spans' clock, all series together.

    A sample interval that several phases share is split by time, so phases much shorter than the interval all show the
    mean power.
    """
    found = [(times, energy) for times, energy in map(_cumulative, series) if len(times) >= 2]
    pieces: dict[str, list[tuple[int, int]]] = {}
    for span in spans:
        pieces.setdefault(span.name, []).append((span.start_ns, span.end_ns))
    return {name: _phase(found, np.array(edges, dtype=np.int64)) for name, edges in pieces.items()}


def _phase(found: Sequence[tuple[np.ndarray, np.ndarray]], edges: np.ndarray) -> PhaseEnergy:
    """Of spans [num_spans, 2] in ns."""
    covered = [reached for times, energy in found if (reached := _reaching(times, energy, edges)) is not None]
    if not covered or len(covered) < len(found):
        return PhaseEnergy(energy_j=None, is_resolved=False)
    energy_j = float(sum(np.diff(np.interp(edges, times, energy), axis=1).sum() for times, energy in covered))
    interval_ns = max(float(np.median(np.diff(times))) for times, _ in covered)
    return PhaseEnergy(energy_j=energy_j, is_resolved=bool(np.median(edges[:, 1] - edges[:, 0]) >= interval_ns))


def _cumulative(series: PowerSeries) -> tuple[np.ndarray, np.ndarray]:
    """Times in ns and joules so far: a sample is the mean power since the one before it."""
    times_ns = np.asarray(series.times_ns, dtype=np.int64)
    energy_j = np.concatenate([[0.0], np.cumsum(np.asarray(series.powers_w)[1:] * np.diff(times_ns) * 1e-9)])
    return times_ns, energy_j


def _reaching(times_ns: np.ndarray, energy_j: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Samples that cover all edges; None where they do not, by more than two of their intervals.

    A counter is read some time before a window begins and last moved some time before it ends: up to two intervals are
    extrapolated with the nearest power.
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
