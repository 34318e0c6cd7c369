"""Where a step's time goes, stacked by phase, in the order of the throughput chart."""

from __future__ import annotations

from hpc_accel.report.judge import quantities, ranking, why, wording
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style

PHASES = {
    "data": ("data", "phase-data"),
    "forward": ("forward", "phase-forward"),
    "backward": ("backward", "phase-backward"),
    "comm_exposed": ("exposed communication", "phase-comm-exposed"),
    "pipeline_wait": ("pipeline wait", "phase-pipeline-wait"),
    "optimizer": ("optimizer", "phase-optimizer"),
    "other": ("other", "phase-other"),
    "rest": ("rest of the step", "phase-rest"),
}


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """One stacked bar per run that counts and left phases."""
    title = "Time by phase"
    counting = [run for run in style.fastest_first(runs) if run.summary.phases_ms.forward.positive]
    shown = counting[: style.MAX_BARS]
    if not shown:
        return [
            style.Figure(key="phases", title=title, caption="", gap="Not measured: no run that counts left its phases.")
        ]
    data = style.stacked_bars(
        shown,
        PHASES,
        phase_ms,
        lambda value: f"{wording.short(value)} ms",
    )
    spec = {"data": data, "layout": style.stacked_layout("ms per step", shown)}
    caption = (
        "Shorter is better. A bar is as long as the median step of the slowest rank; its phases are medians of the "
        "mean over ranks, and the rest of the step is what they do not explain: waiting for the slowest rank, mostly."
    )
    longer = [run for run in shown if _is_longer(run)]
    if longer:
        caption += f" In {wording.counted(len(longer), 'run')} the phases add up to more than the median step."
    unknown = [run for run in shown if quantities.COMMUNICATION.is_gap(run)]
    if unknown:
        reason = quantities.COMMUNICATION.reason(unknown[0])
        caption += f" Exposed communication was not measured in {wording.counted(len(unknown), 'run')}: {reason}."
    caption += style.only_shown(counting, shown)
    return [
        style.Figure(key="phases", title=title, caption=caption, spec=spec, height_px=style.bar_height_px(len(shown)))
    ]


def phase_ms(run: RunRecord, phase: str) -> float | None:
    """Milliseconds of one phase, or of what the phases leave over."""
    return why.rest_ms(run) if phase == "rest" else run.summary.phases_ms.of(phase).positive


def _is_longer(run: RunRecord) -> bool:
    step = ranking.step_time_ms(run)
    return (
        step is not None and sum(run.summary.phases_ms.of(name).value or 0 for name in why.PHASES) > 1.02 * step.value
    )
