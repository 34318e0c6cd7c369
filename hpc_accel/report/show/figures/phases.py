"""Where a step's time goes, stacked by phase, in the order of the throughput chart."""

from __future__ import annotations

from hpc_accel.report.judge import reasons, wording
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style

PHASES = {
    "data": "data",
    "forward": "forward",
    "backward": "backward",
    "comm_exposed": "exposed communication",
    "pipeline_wait": "pipeline wait",
    "optimizer": "optimizer",
    "other": "other",
}


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """One stacked bar per run that counts and left phases."""
    title = "Time by phase"
    counting = [run for run in style.fastest_first(runs) if safe_json.mapping(run.summary, "phases_ms")]
    shown = counting[: style.MAX_BARS]
    if not shown:
        return [
            style.Figure(key="phases", title=title, caption="", gap="Not measured: no run that counts left its phases.")
        ]
    data = []
    for phase, name in PHASES.items():
        timed = [(run, value) for run in shown if (value := safe_json.positive(run.summary, "phases_ms", phase))]
        if timed:
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": name,
                    "y": [style.label(run.label) for run, _ in timed],
                    "x": [value for _, value in timed],
                    "marker": {"color": style.color(f"phase-{phase.replace('_', '-')}")},
                    "hovertext": [
                        f"{style.label(run.label)}<br>{name}: {wording.short(value)} ms" for run, value in timed
                    ],
                    "hoverinfo": "text",
                }
            )
    spec = {
        "data": data,
        "layout": style.layout("ms per step", yaxis=style.bar_axis(shown), barmode="stack", bargap=0.25),
    }
    caption = (
        "Shorter is better; medians over the timed steps, mean over ranks, so a bar's length is close to the step time."
    )
    unknown = [run for run in shown if run.num_ranks > 1 and reasons.communication_reason(run)]
    if unknown:
        reason = reasons.communication_reason(unknown[0])
        caption += f" Exposed communication was not measured in {wording.counted(len(unknown), 'run')}: {reason}."
    caption += style.only_shown(counting, shown)
    return [
        style.Figure(key="phases", title=title, caption=caption, spec=spec, height_px=style.bar_height_px(len(shown)))
    ]
