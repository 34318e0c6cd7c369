"""Strong scaling of each kind of layout: its best run at each number of ranks, beside the ideal.

The runs of one chart have the same global batch, as all of a workload do, and the same precision.
"""

from __future__ import annotations

import math
from typing import Any

from hpc_accel.report.judge import ranking, wording
from hpc_accel.report.judge.statistics import Interval
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style

Point = tuple[RunRecord, Interval]
Series = dict[str, list[Point]]
"""By kind of layout, its best run at each number of ranks, fewest first."""


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """The chart, only where something was measured at two numbers of ranks."""
    strong, (batch, precision) = _widest(style.fastest_first(runs))
    if not strong:
        return []
    caption = f"Samples per second at a global batch of {batch:g} in {precision}: the best run of each kind at each "
    caption += "number of ranks. The dashed line is the best run of the fewest ranks, scaled."
    return [_chart(strong, caption)]


def _widest(runs: list[RunRecord]) -> tuple[Series, tuple[float, str]]:
    """Of the global batch and precision with the most runs."""
    groups: dict[tuple[float, str], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault((ranking.global_batch_size(run), run.precision), []).append(run)
    best: tuple[Series, tuple[float, str]] = ({}, (0.0, ""))
    for key, group in groups.items():
        series = _series(group)
        if len({run.num_ranks for points in series.values() for run, _ in points}) < 2:
            continue
        if sum(map(len, series.values())) > sum(map(len, best[0].values())):
            best = (series, key)
    return best


def _series(runs: list[RunRecord]) -> Series:
    found: dict[str, dict[int, Point]] = {}
    for run in runs:  # the fastest come first
        rate = ranking.throughput(run)
        if rate:
            found.setdefault(run.kind, {}).setdefault(run.num_ranks, (run, rate))
    return {kind: [found[kind][ranks] for ranks in sorted(found[kind])] for kind in style.KINDS if kind in found}


def _chart(series: Series, caption: str) -> style.Figure:
    points = [point for each in series.values() for point in each]
    counts = sorted({run.num_ranks for run, _ in points})
    start = max(rate.value for run, rate in points if run.num_ranks == counts[0])
    ideal: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "name": "ideal",
        "x": counts,
        "y": [start * count / counts[0] for count in counts],
        "line": {"dash": "dash", "width": 1.5, "color": style.color("muted")},
        "hoverinfo": "skip",
    }
    data = [ideal, *[_trace(kind, [point for point in points if point[0].kind == kind]) for kind in series]]
    low = min(rate.low for _, rate in points)
    high = max([rate.high for _, rate in points] + ideal["y"])
    axis: dict[str, Any] = {"type": "log", "tickvals": counts, "ticktext": [str(count) for count in counts]}
    axis["range"] = [math.log10(counts[0]) - 0.12, math.log10(counts[-1]) + 0.12]
    spec = {
        "data": data,
        "layout": style.layout(
            "ranks", "samples per second", xaxis=axis, yaxis=style.log_axis(low / 1.15, high * 1.15)
        ),
    }
    return style.Figure(
        key="strong-scaling",
        title="Strong scaling",
        caption=f"{caption} Thin lines are 95 % intervals.",
        spec=spec,
        height_px=360,
    )


def _trace(kind: str, points: list[Point]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": style.KINDS[kind],
        "x": [run.num_ranks for run, _ in points],
        "y": [rate.value for _, rate in points],
        "error_y": {
            "array": [rate.high - rate.value for _, rate in points],
            "arrayminus": [rate.value - rate.low for _, rate in points],
        },
        "line": {"width": 2, "color": style.color(kind)},
        "marker": {"size": 9, "color": style.color(kind), "symbol": style.SYMBOLS[kind]},
        "hovertext": [
            f"{run.label}\n{wording.with_interval(rate)} on {wording.counted(run.num_ranks, 'rank')}"
            for run, rate in points
        ],
    }
