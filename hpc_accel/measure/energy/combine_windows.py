"""Several windows of one run as one figure: the run paused between them to save, or stopped and went on later.

What was measured is added; what was not is not guessed, so one unknown part makes the whole unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from hpc_accel.measure.energy.aggregate import UPDATES_WANTED
from hpc_accel.measure.energy.attribution import combine_phases
from hpc_accel.measure.energy.figure import EnergyFigure, SensorRow, added


def combine(windows: Sequence[EnergyFigure]) -> EnergyFigure:
    """The figure of windows that follow each other; the last one tells what is the same."""
    last = windows[-1]
    if len(windows) == 1:
        return last
    whole = replace(
        last,
        window_s=added(window.window_s for window in windows),
        num_windows=len(windows),
        unused_gpus_j=added(window.unused_gpus_j for window in windows),
        phases=combine_phases([window.phases for window in windows]),
    )
    reason = _why_not(windows)
    return _unknown(whole, windows, reason) if reason else _known(whole, windows)


def _known(whole: EnergyFigure, windows: Sequence[EnergyFigure]) -> EnergyFigure:
    energy_j = added(window.energy_j for window in windows)
    # Each window may miss an update at either end, so several windows need several times the length.
    resolution_s = max((window.resolution_s or 0.0 for window in windows), default=0.0) or None
    window_s, wanted_s = whole.window_s or 0.0, UPDATES_WANTED * (resolution_s or 0.0) * len(windows)
    idle_j = whole.idle_power_w * window_s if whole.idle_power_w is not None else None
    return replace(
        whole,
        energy_j=energy_j,
        is_partial=any(window.is_partial for window in windows),
        sensors=_sensors(windows),
        resolution_s=resolution_s,
        resolution_warning=window_s < wanted_s,
        energy_above_idle_j=energy_j - idle_j if energy_j is not None and idle_j is not None else None,
    )


def _unknown(whole: EnergyFigure, windows: Sequence[EnergyFigure], reason: str) -> EnergyFigure:
    nothing = EnergyFigure.missing(reason, _first(window.remedy for window in windows), window_s=whole.window_s)
    phases = whole.phases and replace(
        whole.phases, by_phase_j=None, phases_resolved=None, phases_method="none", phases_note="", phases_reason=reason
    )
    return replace(
        nothing,
        window=whole.window,
        num_windows=whole.num_windows,
        is_partial=whole.is_partial,
        unused_gpus_j=whole.unused_gpus_j,
        sensors=whole.sensors,
        coverage=whole.coverage,
        resolution_s=whole.resolution_s,
        resolution_warning=whole.resolution_warning,
        phases=phases,
    )


def _why_not(windows: Sequence[EnergyFigure]) -> str:
    unknown = [window for window in windows if window.energy_j is None]
    if unknown:
        first = _first(window.reason for window in unknown)
        return first if len(unknown) == len(windows) else f"{len(unknown)} of {len(windows)} windows: {first}"
    kinds = {(window.scope, window.method) for window in windows}
    if len(kinds) > 1:
        told = " and ".join(sorted(f"{scope} by {method}" for scope, method in kinds))
        return f"the run's parts were measured over different scopes: {told}"
    return ""


def _sensors(windows: Sequence[EnergyFigure]) -> tuple[SensorRow, ...]:
    """Each sensor once, with what it counted in all windows; None where one of them lacks it."""
    rows: dict[tuple[tuple[str, str, str], int], list[SensorRow]] = {}
    for window in windows:
        seen: Counter[tuple[str, str, str]] = Counter()
        for row in window.sensors:
            # Two nodes of one name have equal identities; all windows list the nodes in one order.
            rows.setdefault((row.identity, seen[row.identity]), []).append(row)
            seen[row.identity] += 1
    found = []
    for same in rows.values():
        in_all = len(same) == len(windows)
        energy_j = added(row.energy_j for row in same) if in_all else None
        window_s = added(row.window_s for row in same) if in_all else None
        found.append(replace(same[-1], energy_j=energy_j, window_s=window_s))
    return tuple(found)


def _first(texts: Iterable[str]) -> str:
    return next((text for text in texts if text), "")
