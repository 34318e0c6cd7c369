"""Tensor parallelism: the layers a workload's plan names are divided among ranks (Megatron-LM, arXiv 1909.08053).

Every rank's parameters are plain tensors, its own shard, so that DDP, FSDP, optimizers and gradient scalers need not
know. With sequence parallelism (arXiv 2205.05198) what lies between the divided layers works on a part of the
sequence, dimension 1, and the all-reduces become all-gathers and reduce-scatters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from hpc_accel.parallel import exchange
from hpc_accel.parallel.hollow import is_hollow
from hpc_accel.workloads.linears import division, features, product, sections_of, set_features, shares
from hpc_accel.workloads.tensor_plan import Cut

SEQUENCE = 1
"""The dimension of states [samples, sequence, features] that sequence parallelism divides."""
DIVIDED = ("columns", "gather", "rows", "vocabulary")
"""The cuts that divide weights."""


class TensorCut:
    """Divides modules of one stage over `group`. `plan` maps exact module names of the whole model to the cut."""

    def __init__(self, plan: Mapping[str, Cut], group: dist.ProcessGroup, *, sequence_parallel: bool) -> None:
        self.plan = plan
        self.group = group
        self.sequence_parallel = sequence_parallel
        self._shards: dict[tuple[int, int], tuple[nn.Parameter, nn.Parameter]] = {}

    def apply(self, module: nn.Module) -> None:
        """Divide the planned modules that this stage holds, in place; no communication."""
        modules = dict(module.named_modules())
        entrances: dict[str, _Entrance] = {}
        for name, way in self.plan.items():
            if name not in modules or (way in DIVIDED and is_hollow(modules[name])):
                continue
            parent = name.rpartition(".")[0]
            if parent not in entrances:
                entrances[parent] = _Entrance(self._enter, modules[parent])
                self._divide_counts(modules[parent])
            self._cut(modules[name], way, entrances[parent])

    def done(self) -> None:
        """All stages are cut: the whole weights, which ties were found by, are let go of."""
        self._shards.clear()

    def partial_parameters(self, module: nn.Module) -> list[nn.Parameter]:
        """Parameters that each rank used on its part of the sequence, or on its heads: gradients must be added up."""
        found: dict[int, nn.Parameter] = {}
        for name, part in module.named_modules():
            way = self.plan.get(name)
            if way == "partial" or (way == "sequence" and self.sequence_parallel):
                found |= {id(each): each for each in part.parameters() if each.requires_grad}
            elif way == "rows" and self.sequence_parallel and getattr(part, "bias", None) is not None:
                found[id(part.bias)] = part.bias
        return list(found.values())

    def _cut(self, module: nn.Module, way: Cut, entrance: _Entrance) -> None:
        if way in ("columns", "gather"):
            self._cut_columns(module, entrance, gathers=way == "gather")
        elif way == "rows":
            self._cut_rows(module)
        elif way == "vocabulary":
            self._cut_vocabulary(module)
        elif way == "split" and self.sequence_parallel:
            _after(module, lambda states: exchange.part(states, self.group, SEQUENCE))

    def _enter(self, states: torch.Tensor) -> torch.Tensor:
        if self.sequence_parallel:
            return exchange.gather(states, self.group, SEQUENCE, partial_gradient=True)
        return exchange.copy(states, self.group)

    def _leave(self, states: torch.Tensor) -> torch.Tensor:
        if self.sequence_parallel:
            return exchange.scatter(states, self.group, SEQUENCE)
        return exchange.total(states, self.group)

    def _cut_columns(self, linear: Any, entrance: _Entrance, *, gathers: bool) -> None:
        self._shard(linear, "columns")
        count = sum(count for _, count in self._shares(sections_of(linear)))
        set_features(linear, features(linear)[0], count)

        def forward(states: torch.Tensor) -> torch.Tensor:
            results = product(linear, entrance(states), linear.bias)
            return exchange.gather(results, self.group, -1, partial_gradient=False) if gathers else results

        linear.forward = forward

    def _cut_rows(self, linear: Any) -> None:
        self._shard(linear, "rows")
        inputs, outputs = features(linear)
        ((_, count),) = self._shares((inputs,))
        set_features(linear, count, outputs)

        def forward(states: torch.Tensor) -> torch.Tensor:
            results = self._leave(product(linear, states, None))
            return results if linear.bias is None else results + linear.bias.to(results.dtype)

        linear.forward = forward

    def _cut_vocabulary(self, embedding: Any) -> None:
        whole = embedding.num_embeddings
        self._shard(embedding, "vocabulary")
        ((first, count),) = self._shares((whole,))
        padding = None if embedding.padding_idx is None else embedding.padding_idx - first
        padding = padding if padding is not None and 0 <= padding < count else None  # another rank's row

        def forward(ids: torch.Tensor) -> torch.Tensor:
            own = ids - first
            absent = (own < 0) | (own >= count)
            found = nn.functional.embedding(own.masked_fill(absent, 0), embedding.weight, padding)
            return exchange.total(found.masked_fill(absent.unsqueeze(-1), 0.0), self.group)

        embedding.forward = forward

    def _shard(self, module: nn.Module, way: str) -> None:
        for name, (dim, sections) in division(module, way).items():
            parameter = getattr(module, name)
            if parameter is None:
                continue
            # Tied weights stay tied; the whole one is kept until all are cut, or its id might become another's.
            key = id(parameter), dim
            if key not in self._shards:
                own = self._own(parameter.detach(), dim, sections)
                self._shards[key] = parameter, nn.Parameter(own, requires_grad=parameter.requires_grad)
            setattr(module, name, self._shards[key][1])

    def _own(self, whole: torch.Tensor, dim: int, sections: tuple[int, ...]) -> torch.Tensor:
        """A copy of this rank's part of each section, side by side."""
        parts = [whole.narrow(dim, *part) for part in self._shares(sections)]
        return torch.cat(parts, dim) if len(parts) > 1 else parts[0].clone()

    def _shares(self, sections: tuple[int, ...]) -> list[tuple[int, int]]:
        return shares(sections, dist.get_world_size(self.group), dist.get_rank(self.group))

    def _divide_counts(self, parent: Any) -> None:
        """A block that counts its heads or features by attributes counts its own from now on."""
        size = dist.get_world_size(self.group)
        for path in getattr(parent, "divided_counts", ()):
            *owners, name = path.split(".")
            holder = parent
            for owner in owners:  # what is shared, such as a configuration, stays as it is for others
                own = copy(getattr(holder, owner))
                setattr(holder, owner, own)
                holder = own
            setattr(holder, name, getattr(holder, name) // size)


class _Entrance:
    """One exchange for all layers that take the same states: query, key and value share one, gate and up too."""

    def __init__(self, enter: Callable[[torch.Tensor], torch.Tensor], parent: nn.Module) -> None:
        self._enter = enter
        self._last: tuple[torch.Tensor, bool, torch.Tensor] | None = None
        parent.register_forward_hook(self._forget)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        grad = torch.is_grad_enabled()
        if self._last is None or self._last[0] is not states or self._last[1] != grad:
            self._last = (states, grad, self._enter(states))
        return self._last[2]

    def _forget(self, *_: Any) -> None:
        self._last = None


def _after(module: nn.Module, then: Callable[[torch.Tensor], torch.Tensor]) -> None:
    module.register_forward_hook(lambda _module, _inputs, output: then(output))
