"""A run whose end is the training's end: how often it is evaluated, when it may end early, what it is called."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from hpc_accel.study.base import PositiveInt, StrictModel, checked_name


class Production(StrictModel):
    """What a run has that trains to its end. How many steps that are stands in `measure.steps`.

    The metric is computed every `evaluate_every_steps`. Training ends early once it is at `target_metric` or better, or
    has not been better than before in `patience` evaluations.
    """

    name: str
    evaluate_every_steps: PositiveInt
    target_metric: Annotated[float, Field(allow_inf_nan=False)] | None = None
    patience: PositiveInt | None = None

    _name = field_validator("name")(checked_name)
