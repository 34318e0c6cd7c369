"""Strong and weak scaling of each kind of layout: its best run at each number of ranks, beside the ideal.

Strong: the same global batch on more ranks. Weak: as many samples a rank, so that the batch grows with the ranks.
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
    """Each chart only where something was measured at two numbers of ranks."""
    ordered = style.fastest_first(runs)
    strong, batch = _strong(ordered)
    weak, load = _weak(ordered)
    found = []
    if strong:
        caption = (
            f"Samples per second at a global batch of {batch:g}: the best run of each kind at each number of ranks."
        )
        caption += " The dashed line is the best run of the fewest ranks, scaled." + (
            "" if weak else " Weak scaling was not measured: no two runs have as many samples a rank on more ranks."
        )
        found.append(_chart("strong-scaling", "Strong scaling", strong, caption, per_rank=False))
    if weak:
        caption = (
            f"Samples per second of each rank at {load:g} samples a rank and step, the batch growing with the ranks."
        )
        found.append(_chart("weak-scaling", "Weak scaling", weak, caption, per_rank=True))
    return found


def _strong(runs: list[RunRecord]) -> tuple[Series, float]:
    """Of the global batch with the most runs."""
    return _widest(runs, ranking.global_batch_size)


def _weak(runs: list[RunRecord]) -> tuple[Series, float]:
    """Of the samples a rank that were measured with the most runs, the batch being another at each number of ranks."""
    series, load = _widest(runs, lambda run: ranking.global_batch_size(run) / run.num_ranks)
    batches = {ranking.global_batch_size(run) for points in series.values() for run, _ in points}
    return (series, load) if len(batches) > 1 else ({}, 0.0)


def _widest(runs: list[RunRecord], key: Any) -> tuple[Series, float]:
    groups: dict[float, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    best: tuple[Series, float] = ({}, 0.0)
    for value, group in groups.items():
        series = _series(group)
        if len({run.num_ranks for points in series.values() for run, _ in points}) < 2:
            continue
        if sum(map(len, series.values())) > sum(map(len, best[0].values())):
            best = (series, value)
    return best


def _series(runs: list[RunRecord]) -> Series:
    found: dict[str, dict[int, Point]] = {}
    for run in runs:  # the fastest come first
        rate = ranking.throughput(run)
        if rate:
            found.setdefault(run.kind, {}).setdefault(run.num_ranks, (run, rate))
    return {kind: [found[kind][ranks] for ranks in sorted(found[kind])] for kind in style.KINDS if kind in found}


def _chart(key: str, title: str, series: Series, caption: str, *, per_rank: bool) -> style.Figure:
    points = [point for each in series.values() for point in each]
    counts = sorted({run.num_ranks for run, _ in points})
    shown = [(run, rate.scaled(1 / run.num_ranks) if per_rank else rate) for run, rate in points]
    start = max(rate.value for run, rate in shown if run.num_ranks == counts[0])
    ideal: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "name": "ideal",
        "x": counts,
        "y": [start if per_rank else start * count / counts[0] for count in counts],
        "line": {"dash": "dash", "width": 1.5, "color": style.color("muted")},
        "hoverinfo": "skip",
    }
    data = [ideal, *[_trace(kind, [point for point in shown if point[0].kind == kind]) for kind in series]]
    low = min(rate.low for _, rate in shown)
    high = max([rate.high for _, rate in shown] + ideal["y"])
    axis: dict[str, Any] = {"type": "log", "tickvals": counts, "ticktext": [str(count) for count in counts]}
    axis["range"] = [math.log10(counts[0]) - 0.12, math.log10(counts[-1]) + 0.12]
    unit = "samples per second and rank" if per_rank else "samples per second"
    spec = {
        "data": data,
        "layout": style.layout("ranks", unit, xaxis=axis, yaxis=style.log_axis(low / 1.15, high * 1.15)),
    }
    return style.Figure(
        key=key, title=title, caption=f"{caption} Thin lines are 95 % intervals.", spec=spec, height_px=360
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
