"""How long a training is, in steps, and how often it is evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpc_accel.errors import ConfigError
from hpc_accel.record.parts import Steps
from hpc_accel.study.study_file import ProductionChoice

MOST_EPOCHS = 100
"""Of a training that ends at a target, where nothing else says how long it may take."""
MOST_EVALUATIONS = 100
USUAL_EVALUATIONS = 20


@dataclass(frozen=True, kw_only=True)
class Length:
    """In steps."""

    steps: int
    evaluate_every: int


def length_of(asked: ProductionChoice, measured: Steps, *, keeps_last: bool) -> Length:
    """The length that is asked for, of what was measured in `measured`. Raises ConfigError.

    Evaluations are an epoch apart, but for 20 to 100 of them in all.
    """
    batch, epoch = measured.global_batch_size, measured.samples_per_epoch
    per_epoch = None
    if epoch.value:
        exact = epoch.value / batch
        per_epoch = max(1, math.ceil(exact) if keeps_last else int(exact))
    steps = _steps(asked, measured, per_epoch)
    least, usual = math.ceil(steps / MOST_EVALUATIONS), math.ceil(steps / USUAL_EVALUATIONS)
    every = asked.evaluate_every_steps or max(least, min(per_epoch or usual, usual))
    return Length(steps=steps, evaluate_every=min(every, steps))


def _steps(asked: ProductionChoice, measured: Steps, per_epoch: int | None) -> int:
    if asked.steps is not None:
        return asked.steps
    if asked.tokens is not None:
        each = measured.tokens_per_sample
        if not each.value:
            raise ConfigError(
                f"{asked.tokens} tokens: {each.reason}", "tokens are counted of samples that have some", "give --epochs"
            )
        return math.ceil(asked.tokens / (each.value * measured.global_batch_size))
    if asked.epochs is None and asked.target_metric is None:
        raise ConfigError(
            "a training without an end",
            "it ends after a number of epochs, steps or tokens, or when a metric is good enough",
            "give --epochs N, --steps N, --tokens N or --target-metric X; or the study's section production",
        )
    if per_epoch is None:
        raise ConfigError(
            f"epochs of {measured.samples_per_epoch.reason}", "the length of an epoch is known", "give --steps N"
        )
    return (asked.epochs or MOST_EPOCHS) * per_epoch
