"""Samples per second of every layout, fastest first, with the 95 % interval of its median step."""

from __future__ import annotations

from hpc_accel.report.judge import ranking, wording
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """One bar per run that counts."""
    counting = style.fastest_first(runs)
    shown = counting[: style.MAX_BARS]
    title = "Throughput"
    if not shown:
        gap = "Not measured: no run of this workload counts. The section on runs that do not count says why."
        return [style.Figure(key="throughput", title=title, caption="", gap=gap)]
    data = []
    for kind, group in style.by_kind(shown).items():
        rates = [rate for run in group if (rate := ranking.throughput(run))]
        data.append(
            {
                "type": "bar",
                "name": style.KINDS[kind],
                "y": [run.label for run in group],
                "x": [rate.value for rate in rates],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [rate.high - rate.value for rate in rates],
                    "arrayminus": [rate.value - rate.low for rate in rates],
                    "thickness": 1.5,
                    "width": 4,
                    "color": style.color("text"),
                },
                "marker": style.bar_marker(group, kind),
                "hovertext": [
                    f"{r.label}\n{wording.with_interval(rate, 'samples/s')}"
                    for r, rate in zip(group, rates, strict=True)
                ],
            }
        )
    rates = [rate for run in shown if (rate := ranking.throughput(run))]
    ends = [rate.high for rate in rates]
    data.append(style.values_beside([run.label for run in shown], ends, [wording.compact(r.value) for r in rates]))
    spec = {
        "data": data,
        "layout": style.layout(
            "samples per second",
            yaxis=style.bar_axis(shown),
            barmode="overlay",
            bargap=0.25,
        ),
    }
    caption = "Longer is better; the thin line is the 95 % interval. Layouts whose intervals overlap are a tie."
    caption += style.precision_words(shown) + style.only_shown(counting, shown)
    return [
        style.Figure(
            key="throughput", title=title, caption=caption, spec=spec, height_px=style.bar_height_px(len(shown))
        )
    ]
