"""Latency against arrival rate: p99 of each configuration and its p50 below it, with the deadline and the limit."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import inference
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style

MAX_RUNS = 6
COLORS = ("data", "tensor", "pipeline", "hybrid", "phase-pipeline-wait", "serial")
Point = tuple[float, float]


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """One chart for the inference runs of a workload."""
    title = "Latency under open-loop load"
    counting = [run for run in runs if run.counts and inference.rates(run)]
    if not counting:
        gap = "Not measured: no inference run of this workload counts. The section on runs that do not count says why."
        return [style.Figure(key="latency", title=title, caption="", gap=gap)]
    shown = _most_telling(counting)
    data: list[dict[str, Any]] = []
    drawn: list[Point] = []
    for run, color in zip(shown, COLORS, strict=False):
        for key, dash, width in (("p99", "solid", 2.5), ("p50", "dot", 1.5)):
            points = _points(run, key)
            if points:
                data.append(_trace(run, key, points, color, dash, width))
                drawn += points
    if not drawn:
        gap = "Too few requests for a p50: raise infer.num_requests."
        return [style.Figure(key="latency", title=title, caption="", gap=gap)]
    ends = (min(rate for rate, _ in drawn) / 1.3, max(rate for rate, _ in drawn) * 1.3)
    lines = _lines(shown, ends)
    values = [value for _, value in drawn] + [line["y"][0] for line in lines]
    spec = {
        "data": data + lines,
        "layout": style.layout(
            "arrival rate, requests per second",
            "latency, ms",
            xaxis=style.log_axis(*ends),
            yaxis=style.log_axis(min(values) / 1.5, max(values) * 1.5),
        ),
    }
    caption = "Counted from the scheduled arrival, so waiting is part of it. Thick: p99; dotted: p50."
    caption += " Below and to the right is better." + style.only_shown(counting, shown)
    return [style.Figure(key="latency", title=title, caption=caption, spec=spec, height_px=380)]


def _most_telling(runs: list[RunRecord]) -> list[RunRecord]:
    """Those of the highest rates within the limit, else in the study's order."""
    return sorted(runs, key=lambda run: -(rate.value if (rate := inference.max_rate(run)) else 0.0))[:MAX_RUNS]


def _points(run: RunRecord, key: str) -> list[Point]:
    """(rate, latency) at the listed rates."""
    found = []
    for rate in inference.rates(run):
        value = rate.latency_ms.percentile(key).positive
        if value is not None:
            found.append((rate.rate_per_s, value))
    return found


def _trace(run: RunRecord, key: str, points: list[Point], color: str, dash: str, width: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": run.label,
        "showlegend": key == "p99" or not _points(run, "p99"),
        "x": [rate for rate, _ in points],
        "y": [value for _, value in points],
        "line": {"width": width, "dash": dash, "color": style.color(color)},
        "marker": {"symbol": "circle", "size": 7, "color": style.color(color)},
        "hovertext": [f"{run.label}\n{key} {value:.4g} ms at {rate:g}/s" for rate, value in points],
    }


def _lines(runs: list[RunRecord], ends: Point) -> list[dict[str, Any]]:
    """The deadline and the limit, where the study names them."""
    deadlines = {rate.deadline.deadline_ms.value for run in runs for rate in inference.rates(run)}
    limits = {inference.latency_limit_ms(run) for run in runs}
    found = []
    for name, values, color in (("deadline", deadlines, "bad"), ("latency limit", limits, "muted")):
        for value in sorted(each for each in values if each is not None):
            found.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": f"{name} {value:g} ms",
                    "x": list(ends),
                    "y": [value, value],
                    "line": {"width": 1.5, "dash": "dash", "color": style.color(color)},
                    "hoverinfo": "skip",
                }
            )
    return found
