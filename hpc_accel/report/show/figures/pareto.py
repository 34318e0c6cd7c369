"""Time against energy, and time against cost: on the front no other run is better in both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpc_accel.report.judge import ranking, wording
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style

Point = tuple[RunRecord, float, float]
"""Run, milliseconds per sample, and joules or money per million samples."""


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """A chart of energy for each scope and method, and one of cost; nothing where neither was measured."""
    timed = style.fastest_first(runs)
    whole = [run for run in timed if ranking.energy_per_sample_j(run) and not ranking.energy_is_partial(run)]
    bases = dict.fromkeys(ranking.energy_basis(run) for run in whole)
    found = []
    for index, basis in enumerate(bases):
        points = _points([run for run in whole if ranking.energy_basis(run) == basis], ranking.energy_per_sample_j)
        found.append(_chart(f"pareto-energy{index or ''}", f"Time against energy ({basis[0]})", "joules", points))
    priced = _points(timed, _cost)
    if priced:
        found.append(_chart("pareto-cost", "Time against cost", "cost", priced))
    return found


def _cost(run: RunRecord) -> float | None:
    cost = ranking.cost_per_sample(run)
    return cost.value if cost else None


def _points(runs: list[RunRecord], value_of: Callable[[RunRecord], float | None]) -> list[Point]:
    found = []
    for run in runs:
        step, value = ranking.step_time_ms(run), value_of(run)
        if step and value:
            found.append((run, step.value / ranking.global_batch_size(run), value * 1e6))
    return found


def front(points: list[Point]) -> list[Point]:
    """Those that no other point beats in both, from the fastest on."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda each: (each[1], each[2])):
        if not kept or point[2] < kept[-1][2]:
            kept.append(point)
    return kept


def _chart(key: str, title: str, what: str, points: list[Point]) -> style.Figure:
    drawn = style.distinct(
        points, lambda point: point[1:], lambda point: (point[0].kind, bool(style.pattern(point[0])))
    )
    best = front(points)
    line: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "x": [x for _, x, _ in best],
        "y": [y for *_, y in best],
        "line": {"dash": "dash", "width": 1.5, "color": style.color("muted")},
        "hoverinfo": "skip",
    }
    data = [line, *[_marks(kind, [point for point in drawn if point[0].kind == kind], what) for kind in style.KINDS]]
    names = wording.named([run.label for run, *_ in best], most=4)
    caption = f"Left and down is better; logarithmic. On the front: {names}. No other run beats these in both."
    spec = {
        "data": [trace for trace in data if trace["x"]],
        "layout": style.layout(
            "ms per sample",
            f"{what} per million samples",
            xaxis=_axis([x for _, x, _ in points]),
            yaxis=_axis([y for *_, y in points]),
        ),
    }
    caption += style.precision_words([run for run, *_ in drawn]).replace("Hatched", "Open marks")
    return style.Figure(
        key=key,
        title=title,
        caption=caption + style.left_out_words(len(drawn), len(points)),
        spec=spec,
        height_px=360,
    )


def _axis(values: list[float]) -> dict[str, Any]:
    return style.log_axis(min(values) / 1.25, max(values) * 1.25)


def _marks(kind: str, points: list[Point], what: str) -> dict[str, Any]:
    symbol = style.SYMBOLS[kind]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": style.KINDS[kind],
        "x": [x for _, x, _ in points],
        "y": [y for *_, y in points],
        "marker": {
            "size": 10,
            "color": style.color(kind),
            "symbol": [f"{symbol}-open" if style.pattern(run) else symbol for run, *_ in points],
        },
        "hovertext": [
            f"{run.label}\n{wording.short(x)} ms per sample\n{wording.short(y)} {what} per million samples"
            for run, x, y in points
        ],
    }
