"""Several windows of one run as one figure: the run paused between them to save, or stopped and went on later.

A window is what EnergyMeter found, and where the joules went (attribution.py).

What was measured is added; what was not is not guessed, so one unknown part makes the whole unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpc_accel.measure.energy import attribution
from hpc_accel.measure.energy.aggregate import UPDATES_WANTED


def combine(windows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The energy object of summary.json for windows that follow each other; the last one tells what is the same."""
    last = windows[-1]
    if len(windows) == 1:
        return last
    window_s = sum(window["window_s"] for window in windows)
    unused_j = [window.get("unused_gpus_j") for window in windows]  # windows of an older checkpoint have no such key
    whole = {**last, **attribution.combine(windows), "window_s": window_s, "num_windows": len(windows)}
    whole["unused_gpus_j"] = None if None in unused_j else sum(unused_j)
    reason = _why_not(windows)
    if reason:
        nothing = {"energy_j": None, "scope": None, "method": "none", "energy_above_idle_j": None}
        nothing |= {"idle_power_w": None, "idle_window_s": None, "idle_reason": reason}
        nothing |= attribution.unknown(reason, whole["by_device"])
        return whole | nothing | {"reason": reason, "remedy": _first(windows, "remedy")}
    energy_j = sum(window["energy_j"] for window in windows)
    # Each window may miss an update at either end, so several windows need several times the length.
    resolution_s = max((window["resolution_s"] or 0.0 for window in windows), default=0.0) or None
    wanted_s = UPDATES_WANTED * (resolution_s or 0.0) * len(windows)
    idle_w = last["idle_power_w"]
    return whole | {
        "energy_j": energy_j,
        "is_partial": any(window["is_partial"] for window in windows),
        "sensors": _sensors(windows),
        "resolution_s": resolution_s,
        "resolution_warning": window_s < wanted_s,
        "energy_above_idle_j": energy_j - idle_w * window_s if idle_w is not None else None,
    }


def _why_not(windows: Sequence[dict[str, Any]]) -> str:
    unknown = [window for window in windows if window["energy_j"] is None]
    if unknown:
        first = _first(unknown, "reason")
        return first if len(unknown) == len(windows) else f"{len(unknown)} of {len(windows)} windows: {first}"
    kinds = {(window["scope"], window["method"]) for window in windows}
    if len(kinds) > 1:
        told = " and ".join(sorted(f"{scope} by {method}" for scope, method in kinds))
        return f"the run's parts were measured over different scopes: {told}"
    return ""


def _sensors(windows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each sensor once, with what it counted in all windows; None where one of them lacks it."""
    rows: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for window in windows:
        for row in window["sensors"]:
            rows.setdefault((row["node"], row["source"], row["key"]), []).append(row)

    def total(same: list[dict[str, Any]], key: str) -> float | None:
        values = [row[key] for row in same]
        return None if None in values or len(values) < len(windows) else sum(values)

    return [same[-1] | {key: total(same, key) for key in ("energy_j", "window_s")} for same in rows.values()]


def _first(windows: Sequence[dict[str, Any]], key: str) -> str:
    return next((window[key] for window in windows if window[key]), "")
