"""Energy per sample, one chart for each scope and method: joules of different sensors never share an axis."""

from __future__ import annotations

from hpc_accel.report.judge import quantities, ranking, wording
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """A bar chart per scope and method; where no run has an energy, the reason and what to do."""
    measured = [run for run in style.fastest_first(runs) if ranking.energy_per_sample_j(run) is not None]
    if not measured:
        counting = [run for run in runs if run.counts]
        if not counting:
            gap = "Not measured: no run of this workload counts."
        else:
            why = quantities.ENERGY.reason(counting[0])
            gap = f"Not measured: {why}. What to do: {quantities.ENERGY.remedy_for(counting[0])}."
        return [style.Figure(key="energy", title="Energy", caption="", gap=gap)]
    bases = dict.fromkeys(ranking.energy_basis(run) for run in measured)
    return [
        _chart(index, basis, [r for r in measured if ranking.energy_basis(r) == basis])
        for index, basis in enumerate(bases)
    ]


def _chart(index: int, basis: tuple[str, str], runs: list[RunRecord]) -> style.Figure:
    shown = sorted(runs, key=lambda run: ranking.energy_per_sample_j(run) or 0)[: style.MAX_BARS]
    data = []
    for kind, group in style.by_kind(shown).items():
        values = [ranking.energy_per_sample_j(run) or 0 for run in group]
        data.append(
            {
                "type": "bar",
                "name": style.KINDS[kind],
                "y": [run.label for run in group],
                "x": values,
                "marker": style.bar_marker(group, kind),
                "hovertext": [_hover(run) for run in group],
            }
        )
    ends = [ranking.energy_per_sample_j(run) or 0 for run in shown]
    texts = [
        wording.compact(value) + (" partial" if ranking.energy_is_partial(run) else "")
        for run, value in zip(shown, ends, strict=True)
    ]
    data.append(style.values_beside([run.label for run in shown], ends, texts))
    caption = f"Shorter is better. Gross energy of the timed steps; scope {basis[0]}, method {basis[1]}."
    partial = sum(ranking.energy_is_partial(run) for run in shown)
    coarse = sum(run.summary.energy.resolution_warning for run in shown)
    if partial:
        caption += f" {wording.counted(partial, 'run')} did not see every device: partial, not ranked."
    if coarse:
        caption += (
            f" In {wording.counted(coarse, 'run')} the window is short for the sensor: take differences with care."
        )
    spec = {
        "data": data,
        "layout": style.layout(
            "joules per sample",
            yaxis=style.bar_axis(shown),
            barmode="overlay",
            bargap=0.25,
        ),
    }
    return style.Figure(
        key=f"energy{index or ''}",
        title=f"Energy ({basis[0]})",
        caption=caption + style.precision_words(shown) + style.only_shown(runs, shown),
        spec=spec,
        height_px=style.bar_height_px(len(shown)),
    )


def _hover(run: RunRecord) -> str:
    total, idle = run.summary.energy.figure.value, run.summary.energy.idle_power_w.positive
    idle_words = f"\nidle power {wording.short(idle)} W, included" if idle else ""
    each = wording.short(ranking.energy_per_sample_j(run))
    return f"{run.label}\n{each} J per sample\n{wording.short(total)} J in all{idle_words}"
