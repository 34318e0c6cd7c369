"""What a training to its end leaves beside the figures of its steps: how it ended, where its time went, what it cost.

`Forecast` is what was expected when it was written, from the run that was measured: forecast.json beside run.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from hpc_accel.record.figure import (
    Count,
    Estimate,
    Fraction,
    Grams,
    Joules,
    Milliseconds,
    Number,
    OwnUnit,
    Part,
    Seconds,
    Whole,
)
from hpc_accel.record.text import Text

FORECAST = "forecast.json"
Ending = Literal["all steps", "target reached", "no better"]
"""Why training ended: its steps were done, the metric was good enough, or it had not become better for long."""


class Factors(Part):
    """The site's, to multiply with; null where the site gives none."""

    currency: Text = ""
    price_per_node_hour: Number | None = None
    carbon_g_per_kwh: Number | None = None


class Forecast(Part):
    """Of a whole training, from the run that was measured in the same layout."""

    format: Literal[1] = 1
    measured_run: Text
    """Its run_id."""
    num_steps: Whole
    num_nodes: Whole
    step_time_ms: Estimate
    """As measured, with its interval."""
    planned_step_time_ms: Milliseconds
    """As the planner predicted it before anything was measured."""
    time_s: Seconds
    """Of the steps alone: starting, evaluating and saving come on top."""
    energy_j: Joules
    cost: OwnUnit
    carbon_g: Grams
    factors: Factors


class LostTime(Part):
    """Allocated time that trained nothing, in seconds."""

    start_s: Number
    """From the first script's begin to the first step."""
    restarts_s: Number
    """The same of later attempts."""
    redone_s: Number
    """After the state that a later attempt went on from: steps that were taken again, saving at a warning, ending."""
    evaluation_s: Number
    checkpoints_s: Number
    weights_s: Number
    """Writing the best and the last ones."""
    other_s: Number
    """What none of these explains: between steps, and after the last one."""


class Production(Part):
    """The end of a training, and the whole of it. Files are named relative to the run's directory."""

    name: Text
    ending: Ending
    num_steps: Whole
    num_evaluations: Whole
    best_step: Count
    best_value: OwnUnit
    weights: dict[Text, Text]
    """Directories of `last` and, where the metric could be computed, `best`."""
    num_attempts: Whole
    allocated_s: Number
    """From begin to end of all attempts together."""
    training_s: Number
    """Of the steps that count, each once."""
    goodput: Fraction
    """The one over the other."""
    losses: LostTime
    queue_s: Seconds
    """Waiting in the queue and between attempts, which is not allocated."""
    cost: OwnUnit
    carbon_g: Grams
    forecast: Forecast | None
    slow: tuple[Text, ...] = ()
    """Periods in which steps took longer than those that were measured, and the rank that was slowest."""


def read_forecast(directory: Path) -> Forecast | None:
    """What was expected of the training in this directory; None where nobody said, or it cannot be read."""
    try:
        return Forecast.model_validate_json((directory / FORECAST).read_bytes())
    except (OSError, ValidationError):
        return None
