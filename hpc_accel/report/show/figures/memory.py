"""Peak memory of the largest rank by who holds it, with what the plan predicted and what the device has."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import wording
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style

MIB = 2**20
PARTS = {
    "allocated": ("peak of the run", "phase-forward"),
    "reserved": ("held by torch beside", "phase-pipeline-wait"),
    "others": ("on the card beside torch", "phase-comm-exposed"),
}


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """One stacked bar per run that counts and knows its peak."""
    title = "Peak memory of the largest rank"
    known = [run for run in style.fastest_first(runs) if run.summary.memory.peak_memory_bytes.positive]
    if not known:
        gap = "Not measured: no run that counts left its peak memory."
        return [style.Figure(key="memory", title=title, caption="", gap=gap)]
    shown = known[: style.MAX_BARS]
    data = style.stacked_bars(shown, PARTS, part_mib, lambda value: f"{wording.short(value)} MiB")
    for name, key, symbol in (
        ("predicted", "peak_memory_bytes", "diamond-open"),
        ("limit", "memory_limit_bytes", "line-ns"),
    ):
        marks = [(run, value) for run in shown if (value := _planned_mib(run, key))]
        if marks and (key != "memory_limit_bytes" or _is_near(marks, shown)):
            data.append(_marks(name, symbol, marks))
    scopes = list(dict.fromkeys(run.summary.memory.scope for run in shown if run.summary.memory.scope))
    caption = f"What is counted: {wording.named(scopes)}." if scopes else "Shorter leaves more room."
    spec = {"data": data, "layout": style.stacked_layout("MiB", shown)}
    return [
        style.Figure(
            key="memory",
            title=title,
            caption=caption + style.only_shown(known, shown),
            spec=spec,
            height_px=style.bar_height_px(len(shown)),
        )
    ]


def part_mib(run: RunRecord, part: str) -> float | None:
    """MiB of one part; the parts add up to what the run's device held at most."""
    memory = run.summary.memory
    peak, reserved = memory.peak_memory_bytes.positive or 0.0, memory.reserved_bytes.positive
    used = memory.device_used_bytes.positive
    found = {
        "allocated": peak,
        "reserved": max(0.0, reserved - peak) if reserved else 0.0,
        "others": max(0.0, used - max(reserved or 0.0, peak)) if used else 0.0,
    }[part]
    return found / MIB or None


def _planned_mib(run: RunRecord, key: str) -> float | None:
    value = safe_json.positive(run.candidate, "prediction", key)
    return value / MIB if value else None


def _is_near(limits: list[tuple[RunRecord, float]], shown: list[RunRecord]) -> bool:
    """Whether a limit is near enough to be drawn without pressing the bars flat."""
    longest = max(sum(part_mib(run, part) or 0.0 for part in PARTS) for run in shown)
    return max(value for _, value in limits) < 3 * longest


def _marks(name: str, symbol: str, marks: list[tuple[RunRecord, float]]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [value for _, value in marks],
        "y": [run.label for run, _ in marks],
        "marker": {"size": 11, "symbol": symbol, "color": style.color("text")},
        "hovertext": [f"{run.label}\n{name}: {wording.short(value)} MiB" for run, value in marks],
    }
