"""Speed-up and efficiency against the number of ranks, over the fastest serial run of the same precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hpc_accel.report.judge import ranking, wording
from hpc_accel.report.judge.statistics import Interval
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style

Gains = list[tuple[RunRecord, Interval, float]]
"""Run, speed-up, and where its point stands on the rank axis."""


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """Two charts of the same points: times faster, and share of the ideal."""
    ordered = style.fastest_first(runs)
    serial = ranking.baselines(runs)
    gained = [(run, gain) for run in ordered if (gain := ranking.speed_up(run, serial)) is not None]
    caption = "Against the fastest serial run of the same precision."
    if not any(run.kind != "serial" for run, _ in gained):
        gap = f"Not measured: {_why_none(runs, bool(gained))}."
        return [style.Figure(key="speedup", title="Speed-up", caption="", gap=gap)]
    drawn = style.distinct(
        gained,
        lambda pair: (pair[0].num_ranks, pair[1].value),
        lambda pair: (pair[0].kind, pair[0].num_ranks, bool(style.pattern(pair[0]))),
    )
    points = _dodged(drawn)
    more = style.left_out_words(len(drawn), len(gained))
    counts = sorted({run.num_ranks for run, _ in gained} | {1})
    ideal = {
        "type": "scatter",
        "mode": "lines",
        "name": "ideal",
        "line": {"dash": "dash", "width": 1.5, "color": style.color("muted")},
        "hoverinfo": "skip",
    }
    speed = [{**ideal, "x": counts, "y": counts}, *_traces(points, lambda run: 1.0, "x")]
    share = [{**ideal, "x": counts, "y": [100] * len(counts)}, *_traces(points, lambda run: 100 / run.num_ranks, " %")]
    axis = {"type": "log", "tickvals": counts, "ticktext": [str(count) for count in counts], "range": _range(counts)}
    filled = style.precision_words(ordered).replace("Hatched", "Open marks")
    return [
        style.Figure(
            key="speedup",
            title="Speed-up",
            caption=f"{caption} Marks of the same number of ranks stand side by side.{filled}{more}",
            spec={
                "data": speed,
                "layout": style.layout("ranks", "times faster", xaxis=axis, yaxis=_speed_axis(points, counts[-1])),
            },
            height_px=380,
        ),
        style.Figure(
            key="efficiency",
            title="Efficiency",
            caption="Speed-up divided by ranks; 100 % is ideal. More: ranks gained cache, or something slowed the "
            "serial run." + filled + more,
            spec={
                "data": share,
                "layout": style.layout("ranks", "% of ideal", xaxis=axis, yaxis={"rangemode": "tozero"}),
            },
            height_px=380,
        ),
    ]


def _why_none(runs: list[RunRecord], has_serial: bool) -> str:
    """What is missing for a comparison, and what to do."""
    missing = [run for run in runs if (run.kind == "serial") is not has_serial and not run.counts]
    kind = "parallel" if has_serial else "serial"
    if has_serial and any(run.kind != "serial" and run.counts for run in runs):
        return "no parallel run has a serial run of its precision. What to do: add `- {}` with that precision"
    if missing:
        return f"no {kind} run counts ({missing[0].label} is {missing[0].status}); see the runs that do not count"
    return f"the study has no {kind} layout. What to do: add `{'- {dp: 2}' if has_serial else '- {}'}` to its layouts"


def _range(counts: list[int]) -> list[float]:
    """Room for the outermost group of marks on a logarithmic axis."""
    return [math.log10(counts[0]) - 0.12, math.log10(counts[-1]) + 0.12]


def _speed_axis(points: Gains, most_ranks: int) -> dict[str, Any]:
    """Logarithmic like the ranks, so that the ideal is a straight line; ticks at powers of two."""
    low = min(1.0, *[gain.low for _, gain, _ in points])
    high = max(float(most_ranks), *[gain.high for _, gain, _ in points])
    ticks = [2.0**power for power in range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)]
    return {
        "type": "log",
        "range": [math.log10(low) - 0.06, math.log10(high) + 0.06],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _dodged(gained: list[tuple[RunRecord, Interval]]) -> Gains:
    """Spread the runs of one number of ranks over up to half an octave, so that marks and intervals stay apart."""
    points: Gains = []
    for ranks in sorted({run.num_ranks for run, _ in gained}):
        group = sorted(
            (pair for pair in gained if pair[0].num_ranks == ranks),
            key=lambda p: (list(style.KINDS).index(p[0].kind), p[0].precision != "fp32"),
        )
        for position, (run, gain) in enumerate(group):
            offset = (position - (len(group) - 1) / 2) / max(len(group), 6) * 0.5
            points.append((run, gain, ranks * 2**offset))
    return points


def _traces(points: Gains, factor: Callable[[RunRecord], float], unit: str) -> list[dict[str, Any]]:
    traces = []
    for kind in style.KINDS:
        group = [(run, gain.scaled(factor(run)), x) for run, gain, x in points if run.kind == kind]
        if not group:
            continue
        symbol = style.SYMBOLS[kind]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": style.KINDS[kind],
                "x": [x for *_, x in group],
                "y": [gain.value for _, gain, _ in group],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [gain.high - gain.value for _, gain, _ in group],
                    "arrayminus": [gain.value - gain.low for _, gain, _ in group],
                    "thickness": 1.5,
                    "width": 3,
                },
                "marker": {
                    "size": 10,
                    "color": style.color(kind),
                    "line": {"width": 1.5, "color": style.color(kind)},
                    "symbol": [f"{symbol}-open" if style.pattern(run) else symbol for run, *_ in group],
                },
                "hovertext": [
                    f"{run.label}\n{wording.with_interval(gain)}{unit} on {run.num_ranks} ranks"
                    for run, gain, _ in group
                ],
            }
        )
    return traces
