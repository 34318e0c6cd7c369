"""How far each run is from the serial run in the parity steps, beside what it is allowed."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style
from hpc_accel.study.references import RECORD

FLOOR = 1e-9
"""Where an exact 0 stands on the logarithmic axis."""


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """A mark per compared run, and a tick at its tolerance."""
    title = "Parity with the serial run"
    compared = [run for run in runs if run.summary.parity.max_rel_err is not None]
    wrong = [run for run in compared if run.status == "wrong"]
    shown = [*wrong, *[run for run in style.fastest_first(compared) if run not in wrong]][: style.MAX_BARS]
    if not shown:
        why = next((run.summary.parity.reason for run in runs if run.summary.parity.reason), "no run left a comparison")
        gap = f"Not measured: no run was compared with the serial run: {why}."
        return [style.Figure(key="parity", title=title, caption="", gap=gap)]
    errors = {run.run_id: run.summary.parity.max_rel_err or 0.0 for run in shown}
    data = []
    for passed, name, colour, symbol in ((True, "same losses", "good", "circle"), (False, "wrong", "bad", "x")):
        group = [run for run in shown if (run.status != "wrong") is passed]
        if group:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "y": [run.label for run in group],
                    "x": [max(FLOOR, errors[run.run_id]) for run in group],
                    "marker": {"size": 10, "color": style.color(colour), "symbol": symbol},
                    "hovertext": [f"{run.label}\n{_words(errors[run.run_id])}" for run in group],
                }
            )
    limited = [(run, limit) for run in shown if (limit := run.summary.parity.tolerance)]
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "allowed",
            "y": [run.label for run, _ in limited],
            "x": [limit for _, limit in limited],
            "marker": {"size": 14, "symbol": "line-ns-open", "color": style.color("muted"), "line": {"width": 2}},
            "hovertext": [f"{run.label}\nallowed: {limit:.2g}" for run, limit in limited],
        }
    )
    powers = range(-9, math.ceil(math.log10(max([*errors.values(), *[limit for _, limit in limited], 1e-3]))) + 1)
    ticks = [power for power in powers if power % 3 == 0]
    axis = {
        "type": "log",
        "range": [-9.4, powers[-1] + 0.4],
        "tickvals": [10.0**power for power in ticks],
        "ticktext": ["0" if power == -9 else "1" if power == 0 else f"1e{power}" for power in ticks],
    }
    spec = {
        "data": data,
        "layout": style.layout(
            "distance from the serial run",
            xaxis=axis,
            yaxis={**style.bar_axis(shown), "showgrid": True},
        ),
    }
    caption = "Further left is closer to the serial run of the same seed; right of its tick a run is wrong."
    caption = " ".join(filter(None, (caption, _twins(compared), _cost(compared))))
    return [
        style.Figure(key="parity", title=title, caption=caption, spec=spec, height_px=style.bar_height_px(len(shown)))
    ]


def _twins(runs: list[RunRecord]) -> str:
    """Runs whose model was too large for one rank."""
    told = [
        f"{run.label} is {twin.told}" for run in runs if (found := run.summary.parity.found) and (twin := found.twin)
    ]
    return "; ".join([*told[:3], *([f"{len(told) - 3} more"] if len(told) > 3 else [])]) + "." if told else ""


def _cost(runs: list[RunRecord]) -> str:
    """What the serial runs cost: each once, whatever the number of runs that are compared with it."""
    jobs = {path for run in runs for path in run.directory.parent.parent.glob(f"references/*/{RECORD}")}
    computed = [safe_json.mapping(safe_json.read_json(path)[0], "references") for path in sorted(jobs)]
    known = [seconds for job in computed if (seconds := _seconds(job)) is not None]
    if not known:
        return ""
    steps = median([value for run in runs if (value := run.summary.startup_ms.parity.value) is not None] or [0.0])
    return (
        f"One reference job per workload, seed and batch: {len(known)} in {sum(known):.3g} s together, before the "
        f"runs; then {steps / 1e3:.3g} s of each run (median) for its own compared steps, none of it timed."
    )


def _seconds(job: dict[str, Any]) -> float | None:
    """How long all serial runs of a reference job took; None where one does not say."""
    times = [safe_json.number(job, name, "duration_s") for name in job]
    return sum(each for each in times if each is not None) if times and None not in times else None


def _words(error: float) -> str:
    return "identical" if error == 0 else f"{error:.2g}" + (" (drawn at the left edge)" if error < FLOOR else "")
