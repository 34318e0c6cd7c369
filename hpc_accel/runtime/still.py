"""Randomness held still, so that any cut of a batch computes the same: dropout is identity, draws belong to samples.

Two means. Attributes that say how much is dropped are set to 0 before the model is wrapped: that also reaches compiled
and traced models. And while a step runs, each operation that draws is watched below autograd: a mask of probability p
is replaced by p, which makes inverted dropout the identity; any other draw of as many rows as the micro-batch has
samples is made row by row from (seed, step, sample, module, n-th draw), and any other once from (seed, step, module,
n-th draw).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hpc_accel.parallel.draws import PLACE
from hpc_accel.runtime.randomness import seed_of, states_kept

DROPPED = {"dropout_p": 0.0, "dropout": 0.0}
"""Arguments of fused operations that say how much is dropped."""


def drop_nothing(model: nn.Module) -> None:
    """Set to 0 every float attribute of the modules that names a share to drop, in place."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and "drop" in name.lower() and value:
                setattr(module, name, 0.0)
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif type(module).__name__ in ("DropPath", "StochasticDepth"):
            vars(module).update(p=0.0, drop_prob=0.0)


class Still(TorchDispatchMode):
    """Inside, operations draw by sample. `batch` says which samples come; `kinds` collects what was drawn otherwise."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._step = 0
        self._samples: list[int] = []
        self._path: list[str] = []
        self._count: dict[str, int] = {}
        self.shared_draws: set[str] = set()
        """Modules that drew numbers which belong to no sample."""
        self.sample_draws: set[str] = set()
        """Modules that drew numbers for each sample."""

    def watch(self, model: nn.Module) -> None:
        """Know by name which module of the whole `model` draws, also after it is cut and wrapped."""
        for name, module in model.named_modules():
            module.register_forward_pre_hook(partial(self._enter, name))
            module.register_forward_hook(self._leave, always_call=True)

    def batch(self, step: int, samples: Sequence[int]) -> None:
        """The samples of the micro-batch that is computed next; inside `held_still`, as it seeds generators."""
        self._step, self._samples = step, list(samples)
        self._path, self._count = [], {}
        random.seed(seed_of(self._seed, step, "python"))
        np.random.seed(seed_of(self._seed, step, "numpy") % 2**32)

    def _enter(self, name: str, _module: nn.Module, _inputs: Any) -> None:
        self._path.append(name)
        self._count[name] = 0

    def _leave(self, *_: Any) -> None:
        if self._path:
            self._path.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        named = _dropping(func)
        if named:
            args, kwargs = _with(func, named, args, kwargs)
        if named or torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None:
            kwargs["generator"] = None
        if func is torch.ops.aten.bernoulli_.float:
            return args[0].fill_(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
        return self._draw(func, args, kwargs)

    def _draw(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        path, number = PLACE.get() or self._next()
        rows = len(self._samples)
        if not any(_leads(each, rows) for each in args):
            self.shared_draws.add(path)
            torch.manual_seed(seed_of(self._seed, self._step, path, number))
            return func(*args, **kwargs)
        self.sample_draws.add(path)
        results = []
        for row, sample in enumerate(self._samples):
            torch.manual_seed(seed_of(self._seed, self._step, path, number, sample))
            results.append(func(*(_row(each, row, rows) for each in args), **kwargs))
        return args[0] if func._schema.is_mutable else torch.cat(results)

    def _next(self) -> tuple[str, int]:
        """The module that draws now, and the number of its draw."""
        path = self._path[-1] if self._path else "loss"
        number = self._count[path] = self._count.get(path, 0) + 1
        return path, number


@contextmanager
def held_still(still: Still) -> Iterator[None]:
    """The draws of one step by sample; generators are as before afterwards."""
    with states_kept(), still:
        yield


def _dropping(func: Any) -> dict[str, float]:
    """Arguments by which a fused operation is told how much to drop, each with nothing to drop."""
    if func not in _KNOWN:
        names = {argument.name for argument in func._schema.arguments}
        found = {name: value for name, value in DROPPED.items() if name in names}
        _KNOWN[func] = found | ({"p": 0.0} if func is torch.ops.aten.native_dropout.default else {})
    return _KNOWN[func]


_KNOWN: dict[Any, dict[str, float]] = {}


def _with(
    func: Any, named: dict[str, float], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    names = [argument.name for argument in func._schema.arguments]
    changed = tuple(named.get(name, value) for name, value in zip(names, args, strict=False))
    return changed, kwargs | {name: value for name, value in named.items() if name in kwargs}


def _leads(value: Any, rows: int) -> bool:
    """Whether the first dimension of a tensor, or of a size, is that of the samples."""
    if isinstance(value, torch.Tensor):
        return bool(value.dim()) and value.shape[0] == rows
    return isinstance(value, list | tuple) and len(value) > 0 and value[0] == rows


def _row(value: Any, row: int, rows: int) -> Any:
    if not _leads(value, rows):
        return value
    return value[row : row + 1] if isinstance(value, torch.Tensor) else [1, *value[1:]]


Samples = Callable[[int], list[int]]
"""Of a micro-batch, by its number: which samples it holds."""
