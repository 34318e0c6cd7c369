"""A batch as the model and the loss take it: samples as people write them, collated, parted into inputs and targets.

sample                      the model gets                     the loss gets
(x, y)                      model(x)                           y
((a, b), y)                 model(a, b)                        y
({"a": ..., "b": ...}, y)   model(a=..., b=...)                y
(a, b, y)                   model(a, b)                        y
{"a": ..., "labels": ...}   model(a=...)                       labels; which keys, says the workload's `target`
anything, with loss None    all of it                          nothing: the model returns its loss
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import default_collate

from hpc_accel.errors import ConfigError
from hpc_accel.workloads import nested

TARGETS = ("target", "label", "labels", "y")
"""Keys of a dict that are taken for the target where the workload names none."""
_RULE = "build() returns model, loss and dataset"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`count` samples: what the model is called with, and what the loss, the metric and the mean's weights get.

    `lists` says that a list with as many elements as samples has one for each, as a collate function of one's own makes
    them; torch's own makes lists of the elements of a tuple.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Any
    count: int
    lists: bool = False

    def call(self, model: Callable[..., Any], **more: Any) -> Any:
        """What `model` makes of the inputs."""
        return model(*self.args, **self.kwargs, **more)

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """Each tensor replaced by what `function` makes of it."""
        args, kwargs, targets = nested.mapped(function, (self.args, self.kwargs, self.targets))
        return replace(self, args=args, kwargs=kwargs, targets=targets)

    def with_inputs(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The same of the inputs alone."""
        args, kwargs = nested.mapped(function, (self.args, self.kwargs))
        return replace(self, args=args, kwargs=kwargs)

    def moved(self, device: torch.device, *, non_blocking: bool = False) -> Batch:
        """On `device`."""
        parts = (self.args, self.kwargs, self.targets)
        args, kwargs, targets = nested.moved(parts, device, non_blocking=non_blocking)
        return replace(self, args=args, kwargs=kwargs, targets=targets)

    def cut(self, part: nested.Part) -> Batch:
        """Some of the samples. Raises ConfigError for what cannot be cut."""
        parts = (self.args, self.kwargs, self.targets)
        args, kwargs, targets = nested.cut(parts, part, self.count, lists=self.lists)
        count = len(range(self.count)[part]) if isinstance(part, slice) else len(part)
        return replace(self, args=args, kwargs=kwargs, targets=targets, count=count)

    def pin_memory(self) -> Batch:
        """In pinned memory; torch's loader asks for it by this name."""
        return self.mapped(torch.Tensor.pin_memory)

    @property
    def inputs(self) -> list[torch.Tensor]:
        """The tensors that the model is called with, in order."""
        return nested.tensors_of((self.args, self.kwargs))

    @property
    def is_plain(self) -> bool:
        """Whether the model gets tensors in order, each with the samples along its first dimension."""
        return not self.kwargs and all(nested.is_cuttable(each, self.count) for each in self.args) and self.args != ()


@dataclass(frozen=True, kw_only=True)
class BatchRules:
    """How samples of one workload become a batch: what of `Workload` a process that loads data needs.

    `dtype`: what floating-point values are turned into; None leaves them as they are.
    """

    collate: Callable[[list[Any]], Any] | None
    target: tuple[str, ...]
    has_loss: bool
    dtype: torch.dtype | None = None

    def __call__(self, samples: Sequence[Any], indices: Sequence[int] | None = None) -> Batch:
        """`samples` as one batch. `indices` say in an error which ones they are.

        Raises ConfigError for samples that do not fit together, and for a batch whose target is not known.
        """
        if self.collate is not None:
            return self.parted(self.collate(list(samples)), len(samples))
        try:
            whole = default_collate(list(samples))
        except (RuntimeError, TypeError, KeyError, ValueError) as error:
            raise _misfit(samples, indices, error) from error
        return self.parted(whole, len(samples))

    def parted(self, whole: Any, count: int) -> Batch:
        """A collated batch in inputs and targets, by the rules of this file's first lines."""
        if isinstance(whole, Mapping):
            args, kwargs, targets = self._of_dict(dict(whole))
        elif isinstance(whole, tuple | list) and not self.has_loss:
            args, kwargs, targets = tuple(whole), {}, whole[-1] if whole else None
        elif isinstance(whole, tuple | list):
            args, kwargs, targets = _of_tuple(whole)
        elif not self.has_loss:
            args, kwargs, targets = (whole,), {}, whole
        else:
            raise ConfigError(
                f"a sample is {type(whole).__name__}, without a target",
                _RULE,
                "return (input, target) or a dict for each index, or loss None from a model that returns its loss",
            )
        batch = Batch(args=args, kwargs=kwargs, targets=targets, count=count, lists=self.collate is not None)
        dtype = self.dtype
        if dtype is None:
            return batch
        return batch.mapped(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)

    def _of_dict(self, whole: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        missing = [key for key in self.target if key not in whole]
        keys = ", ".join(map(str, whole))
        if missing:
            value = f"target {missing[0]!r} of a sample with keys {keys}"
            raise ConfigError(value, "target names keys of the batch", "name keys that the batch has")
        found = self.target or tuple(key for key in TARGETS if key in whole)
        targets = whole[found[0]] if len(found) == 1 else {key: whole[key] for key in found}
        if not self.has_loss:
            return (), whole, targets if found else whole
        if not self.target and len(found) != 1:
            raise ConfigError(
                f"a sample with keys {keys}",
                f"one of them is the target: the only one of {', '.join(TARGETS)}, or what Workload(target=...) names",
                'return Workload(..., target="key") or target=("one", "other") from build(); or loss None, if the '
                "model returns its loss",
            )
        return (), {key: value for key, value in whole.items() if key not in found}, targets


def _of_tuple(whole: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    *inputs, targets = whole
    if not inputs:
        raise ConfigError("a sample of one element", _RULE, "return (input, target) for each index")
    if len(inputs) > 1:
        return tuple(inputs), {}, targets
    (only,) = inputs
    if isinstance(only, Mapping):
        return (), dict(only), targets
    if isinstance(only, tuple | list) and not len(only):
        raise ConfigError("the input is an empty tuple", _RULE, "return one tensor, or a tuple of tensors")
    return (tuple(only) if isinstance(only, tuple | list) else (only,)), {}, targets


def own_loss(outputs: Any) -> torch.Tensor:
    """The loss that a model returns: of a dict or of Hugging Face's outputs `loss`, of a tuple the first.

    Raises ConfigError where there is none.
    """
    found = outputs
    if isinstance(outputs, Mapping):
        found = outputs.get("loss")
    elif isinstance(outputs, tuple | list):
        found = outputs[0] if outputs else None
    elif not isinstance(outputs, torch.Tensor):
        found = getattr(outputs, "loss", None)
    if isinstance(found, torch.Tensor) and found.numel() == 1:
        return found.reshape(())
    told = f"of shape {list(found.shape)}" if isinstance(found, torch.Tensor) else "without a loss"
    raise ConfigError(
        f"the model returns {type(outputs).__name__} {told}",
        "with loss None the model returns its loss: .loss, the key 'loss', or the first of a tuple, one number",
        "give the model its labels, or return a loss function from build()",
    )


def _misfit(samples: Sequence[Any], indices: Sequence[int] | None, error: Exception) -> ConfigError:
    shapes = [nested.shapes_of(sample) for sample in samples]
    for number, shape in enumerate(shapes):
        if shape != shapes[0]:
            return different_shapes(shapes[0], shape, *((indices[0], indices[number]) if indices else (0, number)))
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return ConfigError(
        f"samples cannot be put into one batch: {first}",
        "torch's default_collate takes tensors, numbers and texts, nested in tuples, lists and dicts",
        "return such from the dataset, or Workload(..., collate=function) from build()",
    )


def different_shapes(one: list[list[int]], other: list[list[int]], index: int, where: int) -> ConfigError:
    """The refusal of two samples that no batch can hold as they are."""
    differing = next((pair for pair in zip(one, other, strict=False) if pair[0] != pair[1]), None)
    told = " and ".join(map(_shape, differing)) if differing else f"{len(one)} and {len(other)} tensors"
    return ConfigError(
        f"samples of different shapes ({told}) at indices {index} and {where}",
        "samples of one batch are stacked",
        "pad them or give a collate function: Workload(..., collate=function)",
    )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "none"
