"""What a run takes beside its steps, stacked: imports, MPI, model, the first step, and checkpoints."""

from __future__ import annotations

from hpc_accel.report.judge import wording
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style

PHASES = {
    "imports": ("imports", "phase-data"),
    "mpi_init": ("MPI", "phase-comm-exposed"),
    "model_build": ("model and layout", "phase-forward"),
    "first_step": ("first step", "phase-backward"),
    "checkpoint": ("checkpoints", "phase-pipeline-wait"),
}


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """One stacked bar per run that counts."""
    title = "Start-up and checkpoints"
    known = [run for run in style.fastest_first(runs) if run.summary.startup_ms.first_step.positive]
    shown = known[: style.MAX_BARS]
    if not shown:
        gap = "Not measured: no run that counts left its start-up."
        return [style.Figure(key="startup", title=title, caption="", gap=gap)]
    data = style.stacked_bars(shown, PHASES, phase_s, lambda value: wording.duration(value * 1e3))
    spec = {"data": data, "layout": style.stacked_layout("seconds, once per run", shown)}
    saved = any(phase_s(run, "checkpoint") for run in shown)
    caption = "Outside the timed steps; rank 0, the first step with its warm-up."
    caption += "" if saved else " No run saved a checkpoint."
    return [
        style.Figure(
            key="startup",
            title=title,
            caption=caption + style.only_shown(known, shown),
            spec=spec,
            height_px=style.bar_height_px(len(shown)),
        )
    ]


def phase_s(run: RunRecord, phase: str) -> float | None:
    """Seconds of one phase; of checkpoints, of all that were saved."""
    if phase != "checkpoint":
        value = run.summary.startup_ms.of(phase).positive
        return value / 1e3 if value else None
    saves = run.summary.checkpoints
    return sum(saves.save_ms) / 1e3 or None if saves else None
