"""The planner judged by measurement: predicted against measured step time, with mean error and rank correlation."""

from __future__ import annotations

from hpc_accel.measure.statistics import spearman
from hpc_accel.report.judge import quantities, ranking, statistics, wording
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style


def pairs(runs: list[RunRecord]) -> list[tuple[RunRecord, float, float]]:
    """Run, predicted and measured step time in ms, of the runs that have both."""
    found = []
    for run in style.fastest_first(runs):
        predicted = safe_json.positive(run.candidate, "prediction", "step_time_ms")
        measured = ranking.step_time_ms(run)
        if predicted and measured:
            found.append((run, predicted, measured.value))
    return found


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """A scatter around the identity line."""
    found = pairs(runs)
    title = "Predicted against measured"
    if not found:
        reason = (
            next((quantities.PREDICTION.reason(run) for run in runs if run.counts), None)
            or "no run of this workload counts"
        )
        return [style.Figure(key="predicted", title=title, caption="", gap=f"Not available: {reason}.")]
    drawn = style.distinct(found, lambda pair: (pair[2], pair[1]), lambda pair: _look(pair[0]))
    every = [value for _, *both in found for value in both]
    low, high = min(every) / 1.3, max(every) * 1.3
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "exact",
            "x": [low, high],
            "y": [low, high],
            "line": {"dash": "dash", "width": 1.5, "color": style.color("muted")},
            "hoverinfo": "skip",
        }
    ]
    for kind in style.by_kind(run for run, *_ in drawn):
        mine = [(run, p, m) for run, p, m in drawn if run.kind == kind]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": style.KINDS[kind],
                "x": [measured for *_, measured in mine],
                "y": [predicted for _, predicted, _ in mine],
                "marker": {
                    "size": 10,
                    "color": style.color(kind),
                    "line": {"width": 1.5, "color": style.color(kind)},
                    "symbol": [style.SYMBOLS[kind] + ("-open" if style.pattern(run) else "") for run, *_ in mine],
                },
                "hovertext": [
                    f"{run.label}\npredicted {wording.short(p)} ms, measured {wording.short(m)} ms"
                    f" ({wording.signed_percent((p - m) / m)})"
                    for run, p, m in mine
                ],
            }
        )
    axis = style.log_axis(low, high)
    spec = {
        "data": data,
        "layout": style.layout("measured ms per step", "predicted ms per step", xaxis=axis, yaxis=axis),
    }
    caption = accuracy_words(found) + style.left_out_words(len(drawn), len(found))
    return [style.Figure(key="predicted", title=title, caption=caption, spec=spec, height_px=380)]


def _look(run: RunRecord) -> tuple[str, bool]:
    """What marks differ by: colour and shape, filled or open."""
    return run.kind, bool(style.pattern(run))


def accuracy_words(found: list[tuple[RunRecord, float, float]]) -> str:
    """MAPE and Spearman in a sentence, with the number of runs they rest on."""
    predicted, measured = [p for _, p, _ in found], [m for *_, m in found]
    mape = statistics.mean_absolute_percentage_error(predicted, measured)
    rho = spearman(predicted, measured) if len(found) >= 3 else None
    order = (
        f"rank correlation (Spearman) {rho:.2f}" if rho is not None else "rank correlation n/a (needs 3 different runs)"
    )
    return (
        f"Mean absolute percentage error (MAPE) {wording.percent(mape)}, {order}, "
        f"over {wording.counted(len(found), 'run')}. "
        "On the line the prediction was exact; below it the planner was too optimistic."
    )
