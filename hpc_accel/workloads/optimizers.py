"""Torch's optimizers, or the user's, over named parameters: several where a study names several, as one.

A class of torch gets tensors. A function of the user's is called as such a class is, with the same arguments, but gets
(name, parameter) pairs, so that it may also group them by itself.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.entry import function_of
from hpc_accel.workloads.parameter_groups import Grouping, Part

Named = tuple[str, nn.Parameter]
Groups = list[tuple[list[Named], dict[str, Any]]]
"""Parameters, and what is otherwise for them than for the others of their optimizer."""
Make = Callable[[Part, Groups], list[torch.optim.Optimizer]]
CLASSES = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}


class Together(torch.optim.Optimizer):
    """Several optimizers that step as one, of other parameters each. Their groups are its groups."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__(
            [each for part in parts for group in part.param_groups for each in group["params"]], dict(parts[0].defaults)
        )
        self.parts = tuple(parts)
        self.param_groups = [group for part in parts for group in part.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of each."""
        if closure is not None:
            raise ValueError("a closure would be evaluated once by each optimizer")
        for part in self.parts:
            part.step()


def parts_of(optimizer: torch.optim.Optimizer | None) -> tuple[torch.optim.Optimizer, ...]:
    """The optimizers that step together; none of a rank without parameters."""
    if optimizer is None:
        return ()
    return optimizer.parts if isinstance(optimizer, Together) else (optimizer,)


def build_optimizer(
    grouping: Grouping, named: Iterable[Named], make: Make | None = None
) -> torch.optim.Optimizer | None:
    """The optimizer of `named`, which have the whole model's names; None without parameters.

    `make` makes one part of it, by default as torch does. Groups that are empty here keep their place.
    Raises ConfigError where a name or an argument is wrong.
    """
    held: list[Groups] = [[([], options) for options in part.groups] for part in grouping.parts]
    for name, parameter in named:
        part, group = grouping.where[name]
        held[part][group][0].append((name, parameter))
    made = [
        each
        for part, groups in zip(grouping.parts, held, strict=True)
        if any(members for members, _ in groups)
        for each in (make or _plain)(part, groups)
    ]
    return None if not made else made[0] if len(made) == 1 else Together(made)


def _plain(part: Part, groups: Groups) -> list[torch.optim.Optimizer]:
    return [construct(part, groups)]


def construct(part: Part, groups: Groups, **more: Any) -> torch.optim.Optimizer:
    """One optimizer as `part` says; `more` are further arguments. Raises ConfigError, as `build_optimizer`."""
    kind = factory(part.name)
    said = {key for _, options in groups for key in options}
    try:
        if ":" in part.name:
            made = kind(_for_function(groups), **part.keywords, **more)
        else:
            tensors = [{"params": [each for _, each in members], **options} for members, options in groups]
            made = kind(tensors, **part.keywords, **more)
    except Exception as error:
        raise _refused(part, kind, f"{type(error).__name__}: {error}") from error
    if not isinstance(made, torch.optim.Optimizer):
        raise _refused(part, kind, f"it returned {type(made).__name__}, no torch.optim.Optimizer")
    if unknown := sorted(said - set(made.defaults)):
        raise _refused(part, kind, f"a group sets {unknown[0]}, which this optimizer does not know")
    return made


def _for_function(groups: Groups) -> list[Any]:
    if len(groups) == 1 and groups[0][0] and not groups[0][1]:
        return list(groups[0][0])
    return [{"params": list(members), **options} for members, options in groups if members] or [{"params": []}]


def factory(name: str) -> Callable[..., Any]:
    """The class of torch.optim of that name, or the user's function. Raises ConfigError where there is none."""
    if ":" in name:
        return function_of(name)
    if name == "lbfgs":
        raise ConfigError(
            "optimizer 'lbfgs'",
            "an optimizer updates weights once from the gradient of a global batch; LBFGS computes the loss several "
            "times in a step",
            "use another class of torch.optim, for example adamw",
        )
    if name not in CLASSES:
        near = difflib.get_close_matches(name, CLASSES, n=1, cutoff=0.0)[0]
        known = ", ".join(each for each in sorted(CLASSES) if each != "lbfgs")
        raise ConfigError(
            f"optimizer {name!r}",
            f"an optimizer is a class of torch.optim (torch {torch.__version__}: {known}) or your own",
            f'did you mean {near}? One that torch does not have is named "package.module:Class"',
        )
    return CLASSES[name]


def _refused(part: Part, kind: Callable[..., Any], problem: str) -> ConfigError:
    told = ", ".join(f"{key} {value}" for key, value in part.keywords.items())
    return ConfigError(
        f"optimizer {part.name!r} with {told or 'no arguments'}: {problem}",
        f"its signature is {signature_of(kind, part.name)}",
        NEEDS.get(part.name, "correct the argument, or leave it out for the default"),
    )


def signature_of(kind: Callable[..., Any], name: str) -> str:
    """How `kind` is called, without the types of its arguments."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        return f"{name}(...)"
    shown = [str(each.replace(annotation=inspect.Parameter.empty)) for each in parameters]
    return f"{getattr(kind, '__name__', name)}({', '.join(shown)})"


NEEDS = {
    "muon": "give it matrices only: groups: [{match: 'norm', name: adamw}, ...] takes the others out of it",
    "sparseadam": "give it embeddings with sparse=True only, by a group of their own: {match: ..., name: sparseadam}",
}
"""What some optimizers want of their parameters."""
