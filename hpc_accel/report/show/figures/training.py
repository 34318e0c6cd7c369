"""The curve of a training to its end, and where its time went: one bar of goodput and losses."""

from __future__ import annotations

from typing import Any

from hpc_accel.report.judge import wording
from hpc_accel.report.load.trainings import Training
from hpc_accel.report.show.figures import style

PARTS = {
    "training_s": ("training", "data"),
    "start_s": ("start", "serial"),
    "restarts_s": ("restarts", "tensor"),
    "redone_s": ("after the last checkpoint", "bad"),
    "evaluation_s": ("evaluation", "pipeline"),
    "checkpoints_s": ("checkpoints", "hybrid"),
    "weights_s": ("writing weights", "serial"),
    "other_s": ("other", "tensor"),
}
"""Name and colour of what allocated time was spent on."""


def figures(training: Training) -> list[style.Figure]:
    """Loss and metric over steps, and the bar."""
    return [_curve(training), _goodput(training)]


def _curve(training: Training) -> style.Figure:
    rows = [row for row in training.metrics if row["loss"] is not None]
    if not rows:
        return style.Figure(key="curve", title="Loss and metric", caption="", gap="Not available: no evaluation yet.")
    data = [_line("loss", [(row["step"], row["loss"]) for row in rows], "data", "y")]
    more: dict[str, Any] = {}
    metric = training.metric
    known = [(row["step"], row[metric]) for row in training.metrics if metric and row[metric] is not None]
    if metric and known:
        name = metric.removeprefix("held_out_")
        data.append(_line(name, known, "pipeline", "y2"))
        more["yaxis2"] = {"title": {"text": name}}
    caption = "Loss: the mean over the steps since the evaluation before. Metric: on held-out samples."
    spec = {"data": data, "layout": style.layout("step", "loss", **more)}
    return style.Figure(key="curve", title="Loss and metric", caption=caption, spec=spec)


def _line(name: str, points: list[tuple[int, float]], color: str, axis: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines" if len(points) > 1 else "markers",
        "name": name,
        "x": [step for step, _ in points],
        "y": [value for _, value in points],
        "yaxis": axis,
        "line": {"width": 2, "color": style.color(color)},
        "marker": {"symbol": "circle", "color": style.color(color)},
        "hovertext": [f"{name}\nstep {step}: {value:.4g}" for step, value in points],
    }


def _goodput(training: Training) -> style.Figure:
    found = training.summary.production if training.summary is not None else None
    if found is None:
        gap = "Not available before the training has come to its end."
        return style.Figure(key="goodput", title="Goodput", caption="", gap=gap)
    seconds = {"training_s": found.training_s, **dict(found.losses)}
    whole = sum(seconds.values()) or 1.0
    data = [
        {
            "type": "bar",
            "name": name,
            "x": [seconds[key]],
            "y": ["allocated"],
            "marker": {"color": style.color(color)},
            "hovertext": [f"{name}: {wording.duration(seconds[key] * 1e3)}, {wording.percent(seconds[key] / whole)}"],
        }
        for key, (name, color) in PARTS.items()
        if seconds[key] > 0
    ]
    share = wording.percent(found.goodput.value)
    caption = (
        f"{share} of the time that was allocated trained steps that count, in {found.num_attempts} attempt(s). "
        "Waiting in the queue is not allocated time and stands in the table."
    )
    layout = style.layout("seconds", barmode="stack")
    return style.Figure(
        key="goodput", title="Goodput", caption=caption, spec={"data": data, "layout": layout}, height_px=160
    )
