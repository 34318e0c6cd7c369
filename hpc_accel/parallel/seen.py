"""A model whose blocks run one after the other, looked at without computing: what enters and leaves its modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.block_chain import BlockChain, find_chain, first_tensor
from hpc_accel.workloads.deferred import NOT_FOLLOWED, needs_values, without_values
from hpc_accel.workloads.workload import Workload

Given = tuple[tuple[Any, ...], dict[str, Any]]
"""What the whole model is called with: by position and by name."""


@dataclass(kw_only=True)
class Seen:
    """Of one forward pass, without values: what enters each block, what blocks and others return, and the outputs."""

    entered: dict[str, torch.Tensor] = field(default_factory=dict)
    returned: dict[str, Any] = field(default_factory=dict)
    outputs: Any = None


def see(model: nn.Module, chain: BlockChain, given: Given, autocast_dtype: torch.dtype | None) -> Seen:
    """The shapes and dtypes of one micro-batch's forward pass."""
    seen = Seen()
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            states = first_tensor(args, kwargs)
            assert states is not None
            seen.entered[name] = states

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
            seen.returned.setdefault(name, outputs)

        return hook

    for name in chain.names:
        handles.append(model.get_submodule(name).register_forward_pre_hook(enter(name), with_kwargs=True))
    for name in (*chain.names, *beside(model, chain)):
        handles.append(model.get_submodule(name).register_forward_hook(leave(name)))
    autocast = torch.autocast("cpu", dtype=autocast_dtype, enabled=autocast_dtype is not None)

    def run(copied: Callable[[torch.Tensor], torch.Tensor]) -> None:
        args, kwargs = _mapped(copied, given)
        with torch.no_grad(), autocast:
            seen.outputs = model(*args, **kwargs)

    try:
        try:
            with without_values(model) as mode:
                run(mode.from_tensor)
        except Exception:  # it looks at values, or has operations that torch cannot run without
            needs_values(model, NOT_FOLLOWED)
            seen.returned.clear()
            with torch.random.fork_rng(devices=[]):
                run(torch.clone)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def chain_without_values(workload: Workload, batch: Batch) -> BlockChain | None:
    """The chain of blocks that the planner found as well, here without computing anything where torch can."""

    def found(batch: Batch) -> BlockChain | None:
        return find_chain(workload.model, lambda model: workload.result_of(batch.call(model)), workload.blocks)

    try:
        with without_values(workload.model) as mode:
            return found(batch.mapped(mode.from_tensor))
    except ConfigError:
        raise
    except Exception:  # it looks at values, or has operations that torch cannot run without
        needs_values(workload.model, NOT_FOLLOWED)
        with torch.random.fork_rng(devices=[]):
            return found(batch)


def beside(model: nn.Module, chain: BlockChain) -> list[str]:
    """The outermost modules that neither are blocks nor hold any."""
    above = {"".join(name[: index + 1]) for name in chain.names for index in range(len(name)) if _ends(name, index)}
    found: list[str] = []
    for name, _ in model.named_modules(remove_duplicate=False):
        if name and name not in above and name not in chain.names and name.rpartition(".")[0] in above | {""}:
            found.append(name)
    return found


def _ends(name: str, index: int) -> bool:
    return name[index + 1 : index + 2] == "."


def _mapped(function: Callable[[torch.Tensor], torch.Tensor], given: Given) -> Given:
    found: Given = tree_map(lambda each: function(each) if isinstance(each, torch.Tensor) else each, given)
    return found
