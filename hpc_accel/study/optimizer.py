"""What updates the weights, as a study says it: optimizer, parameter groups, clipping, and the learning rate's course.

Names of classes and their arguments are torch's own, or the user's; they are checked on the model when a run is planned
(`workloads.optimizer_facts`), because this package imports no torch.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from hpc_accel.study.base import StrictModel

ENTRY = re.compile(r"[A-Za-z_][\w]*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""How a function of the user's is named: "package.module:function"."""
KEYWORDS = {"learning_rate": "lr", "weight_decay": "weight_decay", "momentum": "momentum"}
"""Options that have a key of their own, and what torch calls them."""
USUAL = {"sgd": {"learning_rate": 0.01, "weight_decay": 0.0}, "adamw": {"learning_rate": 0.01, "weight_decay": 0.0}}
"""What stands where the study says nothing; other classes have torch's own defaults."""
WITH_MOMENTUM = ("sgd", "rmsprop", "muon")
FUSED = ("sgd", "adam", "adamw", "adagrad")
"""Classes with one kernel for all parameters."""
ELEMENTWISE = ("sgd", "adam", "adamw", "adamax", "nadam", "radam", "adagrad", "adadelta", "rmsprop", "rprop", "asgd")
"""Classes that update each element by its own gradient alone, so that a part of a tensor is updated as in the whole."""
KINDS = ("norm", "bias", "embedding")
"""What `match` and `no_decay` know without a regular expression."""
Kind = Literal["norm", "bias", "embedding"]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def normalised(name: str) -> str:
    """`module:function` as it is, a class of torch in lower case. Raises ValueError for anything else."""
    if ENTRY.fullmatch(name):
        return name
    if not name.isidentifier():
        raise ValueError('an optimizer is a class of torch.optim ("adamw"), or your own "package.module:function"')
    return name.lower()


class Options(StrictModel):
    """Arguments of an optimizer, or what one parameter group has of its own. None: as the class has it."""

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    weight_decay: NonNegative | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    args: dict[str, JsonValue] = {}
    """Further arguments by torch's names."""

    @field_validator("args")
    @classmethod
    def _said_elsewhere(cls, args: dict[str, Any]) -> dict[str, Any]:
        for key, keyword in KEYWORDS.items():
            if keyword in args:
                raise ValueError(f"{keyword} stands beside args, as {key}")
        if "fused" in args:
            raise ValueError("fused is an option of the recipe: fused_optimizer")
        return args

    def check_momentum(self, name: str) -> None:
        """Raise ValueError where an optimizer of that name has no such option."""
        if self.momentum and ":" not in name and name not in WITH_MOMENTUM:
            raise ValueError(f"momentum is an option of {', '.join(WITH_MOMENTUM)}; {name} has its own")

    def _completed(self, name: str) -> Self:
        """With what `name` has here and not in torch. What the study says stays known as such (`model_fields_set`)."""
        self.check_momentum(name)
        if name in USUAL:
            for key, value in USUAL[name].items():
                if getattr(self, key) is None:
                    object.__setattr__(self, key, value)
        if self.momentum == 0 and ":" not in name and name not in WITH_MOMENTUM:
            object.__setattr__(self, "momentum", None)
        return self

    @property
    def keywords(self) -> dict[str, Any]:
        """What torch is called with; lists are tuples there."""
        found = {word: getattr(self, key) for key, word in KEYWORDS.items() if getattr(self, key) is not None}
        return found | {key: tuple(value) if isinstance(value, list) else value for key, value in self.args.items()}


class ParameterGroup(Options):
    """Parameters with options of their own; of several groups that match, the first has them."""

    match: str
    """`norm`, `bias`, `embedding`, or a regular expression that is searched for in the parameter's name."""
    name: str | None = None
    """Another optimizer for these; it takes none of the options of the first one."""

    @field_validator("match")
    @classmethod
    def _expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"match is one of {', '.join(KINDS)} or a regular expression: {error}") from None
        return value

    @field_validator("name")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        return value if value is None else normalised(value)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        return self if self.name is None else self._completed(self.name)


SHAPES = ("constant", "linear", "cosine", "inverse_sqrt", "one_cycle")
"""Courses of the learning rate that are not torch's classes."""
ENDING = ("linear", "cosine", "one_cycle")
"""Those that reach their end after `total_steps`."""


class Schedule(StrictModel):
    """The learning rate's course: a factor of each group's rate that changes with every optimizer step."""

    name: str
    """One of SHAPES, a class of torch.optim.lr_scheduler, or "package.module:function"."""
    warmup_steps: Annotated[int, Field(ge=0, strict=True)] = 0
    total_steps: Annotated[int, Field(gt=0, strict=True)] | None = None
    """None becomes the number of steps that the run takes."""
    min_factor: Annotated[float, Field(ge=0, le=1)] = 0.0
    args: dict[str, JsonValue] = {}

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return normalised(value)

    @model_validator(mode="after")
    def _acts(self) -> Self:
        own = {"warmup_steps": self.warmup_steps, "total_steps": self.total_steps, "min_factor": self.min_factor}
        given = [key for key, value in own.items() if value]
        if self.name not in SHAPES:
            if given:
                raise ValueError(f"{given[0]} is an option of {', '.join(SHAPES)}; {self.name} takes its own in args")
            return self
        if self.args:
            raise ValueError(f"args are those of a class or a function; {self.name} takes {', '.join(own)}")
        if self.total_steps is not None and self.name not in ENDING:
            raise ValueError(f"{self.name} has no end; total_steps is an option of {', '.join(ENDING)}")
        if self.min_factor and self.name == "constant":
            raise ValueError("constant never falls; min_factor is an option of the others")
        if self.total_steps is not None and self.warmup_steps >= self.total_steps:
            raise ValueError("warm-up is a part of total_steps")
        return self

    def ending_after(self, num_steps: int) -> Schedule:
        """The same, with the end that it needs and does not name."""
        if self.name not in ENDING or self.total_steps is not None:
            return self
        return self.model_copy(update={"total_steps": max(num_steps, self.warmup_steps + 1)})

    def lengthened(self, measured_steps: int, num_steps: int) -> Schedule:
        """That of a training of `num_steps`: an end that is only that of the measured run goes, a study's own stays."""
        endless = self.model_copy(update={"total_steps": None})
        return endless.ending_after(num_steps) if self == endless.ending_after(measured_steps) else self


class Optimizer(Options):
    """Which optimizer, on which parameters, and what happens to gradients and the learning rate around it."""

    name: str = "sgd"
    """A class of torch.optim in lower case, or "package.module:function"."""
    no_decay: tuple[Kind, ...] = ()
    """Parameters without weight decay."""
    groups: tuple[ParameterGroup, ...] = ()
    clip_grad_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The largest norm that the gradient of the whole model keeps."""
    schedule: Schedule | None = None

    _name = field_validator("name")(normalised)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for group in self.groups:
            if group.name is None:
                group.check_momentum(self.name)
        return self._completed(self.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Every optimizer that is named."""
        return tuple(dict.fromkeys((self.name, *(each.name for each in self.groups if each.name))))

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """The user's functions that are named, and their arguments."""
        named: list[Optimizer | ParameterGroup | Schedule] = [self, *self.groups]
        named += [self.schedule] if self.schedule is not None else []
        return {each.name: each.args for each in named if each.name and ":" in each.name}
