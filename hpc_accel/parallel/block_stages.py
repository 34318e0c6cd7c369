"""Pipeline stages of a model whose blocks run one after the other: each stage runs the model's own forward code.

A stage is a copy of the model's structure that shares the parameters it uses. Its blocks are real; the other blocks,
and what only other stages need of embeddings and heads, are hollow: without parameters, they return zeros of the shape
seen once. So positions, masks and whatever else the model computes from its inputs is there on every stage. What the
stage before made is put in as the first own block begins, and the stage ends where the next stage's first block is
called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
from torch import nn

from hpc_accel.parallel.hollow import Zeros, emptied, shell, zeros_like
from hpc_accel.parallel.seen import Given, Seen, beside
from hpc_accel.workloads.block_chain import BlockChain, first_tensor
from hpc_accel.workloads.nested import tensors_alone

Result = Callable[[Any], torch.Tensor | tuple[torch.Tensor, ...]]
"""What leaves the last stage, of the model's outputs."""


class _Left(Exception):
    """The stage is done: the next stage's first block was called with these states.

    No error, but an Exception all the same: torch runs the hooks that it always calls for no other kind.
    """

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states


def boundaries_of(
    chain: BlockChain, sizes: Sequence[int], seen: Seen, result: Result = tensors_alone
) -> list[tuple[torch.Tensor, ...]]:
    """What enters each stage but the first, which gets the model's inputs, and what leaves the last: no values."""
    starts = [sum(sizes[:stage]) for stage in range(1, len(sizes))]
    last = result(seen.outputs)
    entering = [(_without_values(seen.entered[chain.names[start]]),) for start in starts]
    return [(), *entering, tuple(map(_without_values, last if isinstance(last, tuple) else (last,)))]


def block_stage(
    model: nn.Module, chain: BlockChain, seen: Seen, blocks: range, result: Result = tensors_alone
) -> nn.Module:
    """The stage that runs `blocks` (numbers of the chain), called as stage(states, given=...).

    What is outside of blocks belongs to the stage that uses it, see `BlockChain`. The last stage returns the `result`
    of the model's outputs, or with `whole` all of them.
    """
    return _Stage(model, chain, seen, blocks, result).build()


class _Stage:
    def __init__(self, model: nn.Module, chain: BlockChain, seen: Seen, blocks: range, result: Result) -> None:
        self.model, self.chain, self.seen, self.blocks, self.result = model, chain, seen, blocks, result
        self.is_first, self.is_last = blocks.start == 0, blocks.stop == len(chain.names)
        parts = chain.used[blocks.start + 1 : blocks.stop + 1]
        needed = frozenset().union(*parts, chain.used[0] if self.is_first else ())
        first_names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.needed = {key for key, name in first_names.items() if name in needed}
        anywhere = frozenset().union(*chain.used)
        self.unused = {key for key, name in first_names.items() if name not in anywhere}
        self.states: tuple[torch.Tensor, ...] = ()
        self.trains = self.trains_before = False
        """Whether gradients are wanted; whether there are parameters that this stage uses after its blocks only, and
        that the model uses before them."""
        self.first: nn.Module | None = None
        self.elsewhere: list[tuple[nn.Module, str]] = []
        """Zeros in place of parameters of other stages, by owner and name."""

    def build(self) -> nn.Module:
        kept = self._kept()
        own = {self.chain.names[index] for index in self.blocks}
        early = [name for name in kept if _is_among(name, self.chain.before)]
        self.trains_before = not self.is_first and any(
            _has_parameters(self.model.get_submodule(name)) for name in early
        )
        stage = self._copied("", own | kept, set(beside(self.model, self.chain)) - kept)
        forward = _forward_of(self.model, stage)

        def run(*states: torch.Tensor, given: Given, whole: bool = False) -> Any:
            args, kwargs = given
            self.states = states
            self.trains = torch.is_grad_enabled()
            self._place(args, kwargs)
            try:
                with torch.set_grad_enabled(self.trains and not self.trains_before):
                    outputs = forward(*args, **kwargs)
                    return outputs if whole else self.result(outputs)
            except _Left as left:
                return left.states
            finally:
                self.states = ()

        stage.forward = run
        stage.enter_first = self._enter_first  # type: ignore[assignment]
        return stage

    def _kept(self) -> set[str]:
        """Of the modules beside blocks and above none, those that this stage needs."""
        others = beside(self.model, self.chain)
        found = {name for name in others if not _has_parameters(self.model.get_submodule(name))}
        for name in others:
            ran_before, ran_after = (_is_among(name, names) for names in (self.chain.before, self.chain.after))
            if (self.is_first and ran_before) or (self.is_last and (ran_after or self._is_unused(name))):
                found.add(name)
        holders = [self.model.get_submodule(name) for name in found]
        holders += [self.model.get_submodule(self.chain.names[index]) for index in self.blocks]
        missing = self.needed - {id(each) for holder in holders for each in holder.parameters()}
        for name in others:  # a weight that is used without its module being called, or between blocks
            if missing & {id(each) for each in self.model.get_submodule(name).parameters()}:
                found.add(name)
        return found

    def _is_unused(self, name: str) -> bool:
        return all(id(each) in self.unused for each in self.model.get_submodule(name).parameters())

    def _copied(self, path: str, real: set[str], hollow: set[str]) -> nn.Module:
        """The module at `path` of the whole model, which holds blocks, with its children in their places."""
        clone = shell(self.model.get_submodule(path))
        self._without_others(clone)
        for key, child in list(clone._modules.items()):
            name = f"{path}.{key}" if path else key
            if child is None:
                continue
            if name in real:
                clone._modules[key] = self._entrance(child, name)
            elif name in hollow or name in self.chain.names:
                clone._modules[key] = self._hollow(child, name)
            else:
                clone._modules[key] = self._copied(name, real, hollow)
        return clone

    def _without_others(self, clone: nn.Module) -> None:
        """Of the parameters of a module above blocks, keep what this stage uses; zeros stand for the others."""
        for key, parameter in list(clone._parameters.items()):
            if parameter is None or not parameter.requires_grad or id(parameter) in self.needed:
                self.trains_before |= parameter is not None and parameter.requires_grad and not self.is_first
                continue
            if self.is_last and id(parameter) in self.unused:
                continue
            del clone._parameters[key]
            clone.__dict__[key] = zeros_like(parameter)
            self.elsewhere.append((clone, key))

    def _entrance(self, block: nn.Module, name: str) -> nn.Module:
        """The first own block is a copy, so that the hook of one stage is not another's; others are as they are."""
        if self.is_first or name != self.chain.names[self.blocks.start]:
            return block
        self.first = shell(block)
        return self.first

    def _enter_first(self) -> None:
        """Make the first own block begin with what the stage received; before all other hooks, FSDP's for example.

        The received values are written into the tensor that the model has made so far, as it may use it beside the
        block too, for a residual; gradients go back to what was received.
        """
        if self.first is None:
            return

        def put(_module: nn.Module, args: Any, kwargs: Any) -> None:
            torch.set_grad_enabled(self.trains)
            states = first_tensor(args, kwargs)
            assert states is not None
            states.copy_(self.states[0])

        self.first.register_forward_pre_hook(put, with_kwargs=True, prepend=True)

    def _hollow(self, module: nn.Module, name: str) -> nn.Module:
        """Without parameters; attributes that the model reads are there."""
        clone = emptied(module)
        if not self.is_last and name == self.chain.names[self.blocks.stop]:
            clone.forward = _leave
        else:
            clone.forward = Zeros(self.seen.returned.get(name), self._batch)
        return clone

    def _batch(self) -> tuple[int, torch.device]:
        return self.size, self.device

    def _place(self, args: Any, kwargs: Any) -> None:
        """Zeros follow the inputs to their device and their number of samples."""
        inputs = self.states[0] if self.states else first_tensor([*args, *kwargs.values()], {})
        assert inputs is not None
        self.size, self.device = inputs.shape[0], inputs.device
        for owner, key in self.elsewhere:
            value = owner.__dict__[key]
            if value.device != self.device:
                owner.__dict__[key] = torch.zeros((), dtype=value.dtype, device=self.device).expand(value.shape)


def _leave(*args: Any, **kwargs: Any) -> Any:
    states = first_tensor(args, kwargs)
    assert states is not None
    raise _Left(states)


def _is_among(name: str, ran: frozenset[str]) -> bool:
    return any(each == name or each.startswith(f"{name}.") for each in ran)


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _forward_of(model: nn.Module, stage: nn.Module) -> Callable[..., Any]:
    """The model's own forward, for the stage."""
    own = vars(model).get("forward")
    return own if own is not None and not isinstance(own, MethodType) else MethodType(type(model).forward, stage)


def _without_values(state: torch.Tensor) -> torch.Tensor:
    floating = state.is_floating_point()
    return torch.empty(state.shape, dtype=state.dtype, device="meta", requires_grad=floating)
