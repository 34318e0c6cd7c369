"""The section of the page on trainings to their end: how each ended, and the forecast beside what came of it."""

from __future__ import annotations

from typing import Any

from hpc_accel.record import Figure, Summary
from hpc_accel.record.production import Forecast, Production
from hpc_accel.report.judge import wording
from hpc_accel.report.load.trainings import Training
from hpc_accel.report.show.figures import training as figure


def sections(trainings: tuple[Training, ...]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What each is told as, and the figures under the ids of their places."""
    found, specs = [], {}
    for number, each in enumerate(trainings):
        charts = []
        for chart in figure.figures(each):
            place = f"production-{number}-{chart.key}"
            charts.append({"place": place, "figure": chart})
            if chart.spec is not None:
                specs[place] = {**chart.spec, "height": chart.height_px}
        rows = forecast_rows(each)
        found.append(
            {"name": each.name, "told": told(each), "charts": charts, "rows": rows, "warnings": _warnings(each)}
        )
    return found, specs


def told(training: Training) -> str:
    """How far it is, in a sentence."""
    if training.summary is None or training.summary.production is None:
        done = training.metrics[-1]["step"] if training.metrics else 0
        why = f" Its last attempt: {training.summary.status}." if training.summary is not None else ""
        return f"Step {done:,} of {training.num_steps:,} was evaluated last.{why}"
    found = training.summary.production
    best = found.best_value.value
    words = f"{found.num_steps:,} steps ({found.ending}); weights: {', '.join(sorted(found.weights.values()))}."
    if best is None:
        return f"{words} No best step: {found.best_value.reason}."
    name = training.summary.metric.name or "metric"
    return f"{words} Best {name}: {wording.short(best)} after step {found.best_step.value:,}."


def forecast_rows(training: Training) -> list[tuple[str, str, str, str]]:
    """(what, forecast, came out, difference); empty before the training's end."""
    summary, forecast = training.summary, training.forecast
    if summary is None or summary.production is None:
        return []
    made = summary.production
    rows = [_step_row(forecast, summary)]
    if forecast is not None:
        planned = forecast.planned_step_time_ms
        rows.append(_row("ms per step, as planned", planned, summary.step_time_ms))
        rows.append(_row("energy, J", forecast.energy_j, summary.energy.figure))
        rows.append(_row(f"cost, {forecast.factors.currency}".rstrip(", "), forecast.cost, made.cost))
        rows.append(_row("CO2, g", forecast.carbon_g, made.carbon_g))
        rows.append(_row("time of all steps, s", forecast.time_s, _seconds(made)))
        if made.ending != "all steps":
            # The forecast is of the whole length: what came out beside it is no error of its.
            rows = [rows[0], rows[1], *((what, expected, came, "ended early") for what, expected, came, _ in rows[2:])]
    rows.append(("waiting in the queue and between attempts, s", "", _told(made.queue_s), ""))
    return rows


def _seconds(made: Production) -> Figure:
    return Figure(value=made.training_s, unit="s")


def _step_row(forecast: Forecast | None, summary: Summary) -> tuple[str, str, str, str]:
    missing = Figure(value=None, unit="ms", reason="no forecast was made")
    return _row("ms per step, as measured", forecast.step_time_ms if forecast else missing, summary.step_time_ms)


def _row(what: str, expected: Figure, found: Figure) -> tuple[str, str, str, str]:
    difference = ""
    if expected.positive and found.value is not None:
        difference = wording.signed_percent(found.value / expected.value - 1) if expected.value else ""
    return what, _told(expected), _told(found), difference


def _told(figure: Figure) -> str:
    return wording.short(figure.value) if figure.value is not None else f"{wording.NOT_MEASURED}: {figure.reason}"


def _warnings(training: Training) -> list[str]:
    return list(training.summary.warnings) if training.summary is not None else []
