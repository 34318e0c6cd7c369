"""Where the joules of a sample went, stacked by what the ranks were doing, one chart for each scope and method."""

from __future__ import annotations

from hpc_accel.report.judge import quantities, ranking, wording
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style

PHASES = {
    "compute": ("compute", "phase-forward"),
    "comm_exposed": ("exposed communication", "phase-comm-exposed"),
    "pipeline_wait": ("pipeline bubble", "phase-pipeline-wait"),
    "idle": ("idle", "phase-other"),
}


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """Nothing where there is no energy at all: the chart of energy says why."""
    measured = [run for run in runs if run.counts and ranking.energy_per_sample_j(run) is not None]
    measured.sort(key=lambda run: ranking.energy_per_sample_j(run) or 0)  # as in the chart of energy beside it
    if not measured:
        return []
    split = [run for run in measured if run.summary.energy.phases.by_phase_j]
    title = "Where the joules go"
    if not split:
        why = quantities.ENERGY_PHASES.reason(measured[0]) or "no run left its phases"
        return [style.Figure(key="energy-phases", title=title, caption="", gap=f"Not measured: {why}.")]
    bases = dict.fromkeys(ranking.energy_basis(run) for run in split)
    return [
        _chart(index, basis, [run for run in split if ranking.energy_basis(run) == basis])
        for index, basis in enumerate(bases)
    ]


def _chart(index: int, basis: tuple[str, str], runs: list[RunRecord]) -> style.Figure:
    shown = runs[: style.MAX_BARS]
    data = style.stacked_bars(shown, PHASES, _per_sample_j, lambda value: f"{wording.short(value)} J per sample")
    coarse = [run for run in shown if run.summary.energy.phases.is_resolved is False]
    caption = f"Sampled power ({basis[0]}, {basis[1]}), shared among ranks by what each was doing."
    if coarse:
        caption += (
            f" In {wording.counted(len(coarse), 'run')} phases are shorter than the time between power samples: "
            "each phase shows the mean power, so the shares are those of time."
        )
    spec = {"data": data, "layout": style.stacked_layout("joules per sample", shown)}
    return style.Figure(
        key=f"energy-phases{index or ''}",
        title=f"Where the joules go ({basis[0]})",
        caption=caption + style.only_shown(runs, shown),
        spec=spec,
        height_px=style.bar_height_px(len(shown)),
    )


def _per_sample_j(run: RunRecord, phase: str) -> float | None:
    energy_j, steps = run.summary.energy.phases.by_phase_j.get(phase), run.summary.steps
    return energy_j / steps.num_samples if energy_j and steps else None
