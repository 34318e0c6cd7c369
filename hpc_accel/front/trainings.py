"""A training to its end as the live view shows it: how far it is, and the curve so far, from the files it writes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from hpc_accel.files import read_json
from hpc_accel.jobs import history

BARS = "▁▂▃▄▅▆▇█"
MOST_BARS = 24
PREFIX = "held_out_"


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Of one in production/<name>/. Losses and metrics are those of its evaluations so far."""

    name: str
    done: int
    total: int
    losses: tuple[float, ...] = ()
    metric: str = ""
    values: tuple[float, ...] = ()
    is_over: bool = False


def trainings_in(results: Path) -> tuple[TrainingState, ...]:
    """Those of a study, by name."""
    return tuple(_state(path.parent) for path in sorted((results / "production").glob("*/run.json")))


def _state(directory: Path) -> TrainingState:
    rows: list[dict[str, str]] = []
    try:
        with (directory / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        pass  # it was not evaluated yet
    metric = next((key for key in (rows[-1] if rows else {}) if key.startswith(PREFIX)), "")
    measure = read_json(directory / "run.json").get("measure")
    steps = measure.get("steps") if isinstance(measure, dict) else 0
    is_over = history.is_finished(directory)
    done = int(_figures(rows, "step")[-1]) if rows else 0
    return TrainingState(
        name=directory.name,
        done=done,
        total=done if is_over else int(steps or 0),
        losses=_figures(rows, "loss"),
        metric=metric.removeprefix(PREFIX),
        values=_figures(rows, metric),
        is_over=is_over,
    )


def _figures(rows: list[dict[str, str]], key: str) -> tuple[float, ...]:
    return tuple(float(row[key]) for row in rows if row.get(key))


def told(training: TrainingState) -> str:
    """How far it is: `step 120 of 400, loss 0.31 ▇▅▂▁, accuracy 0.95 ▁▅▇█`."""
    if not training.done:
        return "starts, or waits"
    words = [f"{'trained: ' if training.is_over else ''}step {training.done} of {training.total}"]
    for name, figures in (("loss", training.losses), (training.metric, training.values)):
        if figures:
            words.append(f"{name} {figures[-1]:.4g} {curve(figures)}")
    return ", ".join(words)


def curve(figures: tuple[float, ...]) -> str:
    """A row of bars, the last ones, from the lowest to the highest."""
    shown = figures[-MOST_BARS:]
    low, high = min(shown), max(shown)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((each - low) * scale)] for each in shown)
