"""The learning rate's course: a class of torch.optim.lr_scheduler, the user's function, or a factor of the step.

Step k, from 0, has the factor of k. Warm-up rises evenly and reaches 1 with its last step: (k + 1) / warmup_steps.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.optim import lr_scheduler

from hpc_accel.errors import ConfigError
from hpc_accel.study.optimizer import SHAPES, Schedule
from hpc_accel.workloads.entry import function_of
from hpc_accel.workloads.optimizers import signature_of

FIRST_OF_CYCLE = 1 / 25
"""Where one_cycle begins (Smith and Topin, arXiv 1708.07120; torch's OneCycleLR)."""
WARM_SHARE = 0.3
"""Of one_cycle's steps, those that rise, where the study names none."""
CLASSES = {
    name.lower(): kind
    for name, kind in vars(lr_scheduler).items()
    if isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler) and not name.startswith("_")
}
UNFIT = {
    "lrscheduler": "it is the base of the others",
    "lambdalr": "its factor is a function, which a study cannot hold",
    "multiplicativelr": "its factor is a function, which a study cannot hold",
    "sequentiallr": "it takes other schedulers, which a study cannot hold",
    "chainedscheduler": "it takes other schedulers, which a study cannot hold",
    "reducelronplateau": "it waits for a metric, and layouts are compared step by step",
}


class Course:
    """A scheduler that is stepped once after each step of the optimizer. A step that was skipped does not count."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.num_steps = 0

    def step(self) -> None:
        """The next step's learning rate. One that has an end stays there."""
        total = getattr(self.scheduler, "total_steps", None)
        if total is None or self.num_steps + 1 < total:
            self.scheduler.step()
        self.num_steps += 1

    def go_to(self, num_steps: int) -> None:
        """As after so many steps, taken again from the first: a scheduler's rate may follow from the one before."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer has not stepped
            for _ in range(num_steps):
                self.step()


def build_schedule(spec: Schedule | None, optimizer: torch.optim.Optimizer | None) -> Course | None:
    """The course of `optimizer`; None without either. Raises ConfigError where a name or an argument is wrong."""
    if spec is None or optimizer is None:
        return None
    if spec.name in SHAPES:
        return Course(lr_scheduler.LambdaLR(optimizer, partial(factor, spec)))
    kind = _kind(spec.name)
    try:
        made = kind(optimizer, **spec.args)
    except Exception as error:
        raise ConfigError(
            f"schedule {spec.name!r}: {type(error).__name__}: {error}",
            f"its signature is {signature_of(kind, spec.name)}",
            "give its arguments under schedule.args; the optimizer is not one of them",
        ) from error
    if not callable(getattr(made, "step", None)):
        raise ConfigError(
            f"schedule {spec.name!r} returned {type(made).__name__}",
            "a schedule has a method step(), as torch.optim.lr_scheduler's classes",
            "return a scheduler of the optimizer that is given",
        )
    return Course(made)


def factor(spec: Schedule, step: int) -> float:
    """What the learning rate is multiplied with in `step`, from 0."""
    warm, least, total = spec.warmup_steps, spec.min_factor, spec.total_steps or 1
    if spec.name == "one_cycle":
        warm = warm or max(1, round(WARM_SHARE * total))
        rising = FIRST_OF_CYCLE + (1 - FIRST_OF_CYCLE) * _half_cosine(step / warm)
    else:
        rising = (step + 1) / max(1, warm)
    over = min(1.0, (step - warm) / max(1, total - warm))
    falling = {
        "constant": 1.0,
        "linear": 1 - (1 - least) * over,
        "cosine": 1 - (1 - least) * _half_cosine(over),
        "one_cycle": 1 - (1 - least) * _half_cosine(over),
        "inverse_sqrt": max(least, math.sqrt(max(1, warm) / (step + 1))),
    }
    return rising if step < warm else falling[spec.name]


def _half_cosine(share: float) -> float:
    return (1 - math.cos(math.pi * share)) / 2


def _kind(name: str) -> Callable[..., Any]:
    if ":" in name:
        return function_of(name)
    known = [*SHAPES, *(each for each in sorted(CLASSES) if each not in UNFIT)]
    if name in CLASSES and name not in UNFIT:
        return CLASSES[name]
    if name in UNFIT:
        rule, remedy = UNFIT[name], f'use one of {", ".join(known)}, or your own "package.module:function"'
    else:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        rule = f"a schedule is one of {', '.join(SHAPES)}, a class of torch.optim.lr_scheduler, or your own"
        remedy = f'did you mean {near}? Your own is named "package.module:function"'
    raise ConfigError(f"schedule {name!r}", rule, remedy)
