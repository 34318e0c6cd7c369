"""What tensor-parallel ranks exchange, as autograd knows it: each operation forward, its transpose backward.

    name          forward                             backward
    copy          as it is                            all-reduce
    total         all-reduce                          as it is
    gather        all-gather along `dim`              reduce-scatter, or the own part
    scatter       reduce-scatter along `dim`          all-gather
    part          the own part along `dim`            all-gather

The first two are f and g of Megatron-LM (arXiv 1909.08053), gather and scatter its sequence parallelism (arXiv
2205.05198). Plain collectives on the local shards, because DTensor's dispatch costs milliseconds per layer on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

Group = dist.ProcessGroup
# torch 2.13 renamed both.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


def copy(states: torch.Tensor, group: Group) -> torch.Tensor:
    """Whole `states`, entering what is divided: the ranks' gradients are parts of one."""
    return _Copy.apply(states, group)


def total(states: torch.Tensor, group: Group) -> torch.Tensor:
    """The sum of the ranks' partial `states`."""
    return _Total.apply(states, group)


def gather(states: torch.Tensor, group: Group, dim: int, *, partial_gradient: bool) -> torch.Tensor:
    """The ranks' `states` side by side along `dim`.

    `partial_gradient` says that each rank uses the result for a part of what follows, so that gradients add up;
    otherwise all compute the same with it, and each keeps its own.
    """
    return _Gather.apply(states, group, dim, partial_gradient)


def scatter(states: torch.Tensor, group: Group, dim: int) -> torch.Tensor:
    """This rank's part along `dim` of the sum of the ranks' partial `states`."""
    return _Scatter.apply(states, group, dim)


def part(states: torch.Tensor, group: Group, dim: int) -> torch.Tensor:
    """This rank's part along `dim` of `states`, which are the same on every rank."""
    return _Part.apply(states, group, dim)


def _all_reduced(states: torch.Tensor, group: Group) -> torch.Tensor:
    result = states.contiguous().clone()
    dist.all_reduce(result, group=group)
    return result


def _all_gathered(states: torch.Tensor, group: Group, dim: int) -> torch.Tensor:
    size = dist.get_world_size(group)
    states = states.contiguous()
    result = states.new_empty((size * states.shape[0], *states.shape[1:]))
    _all_gather(result, states, group=group)
    return torch.cat(result.chunk(size), dim=dim) if dim % states.dim() else result


def _reduce_scattered(states: torch.Tensor, group: Group, dim: int) -> torch.Tensor:
    size = dist.get_world_size(group)
    ordered = torch.cat(states.chunk(size, dim=dim)) if dim % states.dim() else states.contiguous()
    result = ordered.new_empty((ordered.shape[0] // size, *ordered.shape[1:]))
    _reduce_scatter(result, ordered, group=group)
    return result


def _own(states: torch.Tensor, group: Group, dim: int) -> torch.Tensor:
    return states.chunk(dist.get_world_size(group), dim=dim)[dist.get_rank(group)].contiguous()


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, group: Group) -> torch.Tensor:
        ctx.group = group
        return states.view_as(states)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _all_reduced(gradient, ctx.group), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, group: Group) -> torch.Tensor:
        return _all_reduced(states, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, group: Group, dim: int, partial_gradient: bool) -> torch.Tensor:
        ctx.group, ctx.dim, ctx.partial_gradient = group, dim, partial_gradient
        return _all_gathered(states, group, dim)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        back = _reduce_scattered if ctx.partial_gradient else _own
        return back(gradient, ctx.group, ctx.dim), None, None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, group: Group, dim: int) -> torch.Tensor:
        ctx.group, ctx.dim = group, dim
        return _reduce_scattered(states, group, dim)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _all_gathered(gradient, ctx.group, ctx.dim), None, None


class _Part(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, group: Group, dim: int) -> torch.Tensor:
        ctx.group, ctx.dim = group, dim
        return _own(states, group, dim)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _all_gathered(gradient, ctx.group, ctx.dim), None, None
