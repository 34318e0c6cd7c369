"""Which blocks of a model run one after the other, so that stages can be cut between them: found by running it once.

A cut before a block is allowed where the block's first tensor is all that crosses it. Autograd knows: of what is
computed afterwards, nothing but parameters may have been made before. So skips over blocks, shared conditions and
branches are found wherever they are, and each parameter is known to belong to the part that uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.blocks import blocks_of
from hpc_accel.workloads.nested import tensors_of

Call = Callable[[nn.Module], Any]
"""Runs the model on a batch."""


@dataclass(frozen=True, kw_only=True)
class BlockChain:
    """Blocks by name, in the order they run, and which parameters each part uses.

    `used` has one part more than there are blocks: what runs before the first block, then each block with what runs
    between it and the next one; what runs after the last block belongs to that. Names are those under which
    `named_parameters` lists a parameter first. `before` and `after` are modules outside blocks that run before the
    first block, and after the last.
    """

    names: tuple[str, ...]
    used: tuple[frozenset[str], ...]
    before: frozenset[str]
    after: frozenset[str]

    @property
    def layers(self) -> list[frozenset[str]]:
        """The parameters of each block, those used before the first among the first's."""
        first, second, *rest = self.used
        return [first | second, *rest]

    @property
    def tied(self) -> list[tuple[int, int]]:
        """First and last block that use a parameter, for each that several use."""
        users: dict[str, list[int]] = {}
        for index, names in enumerate(self.layers):
            for name in names:
                users.setdefault(name, []).append(index)
        return sorted({(each[0], each[-1]) for each in users.values() if len(each) > 1})

    def parameters(self, model: nn.Module) -> list[dict[str, nn.Parameter]]:
        """The trainable parameters of each block, each once; those that nothing uses are the last block's."""
        found: list[dict[str, nn.Parameter]] = [{} for _ in self.names]
        layers = self.layers
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                block = next((index for index, names in enumerate(layers) if name in names), len(layers) - 1)
                found[block][name] = parameter
        return found


def lists_of_blocks(model: nn.Module) -> list[list[str]]:
    """The outermost lists of modules, as names of their items: all of them together, then those of one class each, the
    longest first.
    """
    names = [name for name, _ in blocks_of(model) if name]
    by_list: dict[str, list[str]] = {}
    for name in names:
        by_list.setdefault(name.rpartition(".")[0], []).append(name)
    alike = [each for each in by_list.values() if len({type(model.get_submodule(name)) for name in each}) == 1]
    longest = sorted((each for each in alike if len(each) > 1), key=len, reverse=True)
    return [names, *(each for each in longest if each != names)]


def named_blocks(model: nn.Module, path: str) -> list[str]:
    """Names of the items of the list of modules at `path`. Raises ConfigError where there is none."""
    found = dict(model.named_modules()).get(path)
    if not isinstance(found, nn.ModuleList | nn.Sequential) or not len(found):
        lists = [name for name, each in model.named_modules() if name and isinstance(each, nn.ModuleList)]
        raise ConfigError(
            f"blocks {path!r} of the workload",
            "it is the name of a torch.nn.ModuleList or Sequential in the model",
            f"lists there: {', '.join(lists) or 'none'}",
        )
    return [f"{path}.{key}" for key in found._modules]


def find_chain(model: nn.Module, call: Call, blocks: str = "") -> BlockChain | None:
    """The blocks that stages can be cut between; None where something else crosses them, or they run out of order.

    `blocks` names their list; otherwise the model's lists are tried. Raises what the model raises, and ConfigError for
    a name that is none.
    """
    choices = [named_blocks(model, blocks)] if blocks else lists_of_blocks(model)
    chains = (_Run(model, names).chain(call) for names in choices if len(names) > 1)
    return next((chain for chain in chains if chain is not None), None)


class _Run:
    """One forward pass in which it is noted when blocks begin, and what runs outside of them."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.model, self.names = model, tuple(names)
        self.entered: list[str] = []
        self.states: list[Any] = []
        self.before: set[str] = set()
        self.after: set[str] = set()
        self.inside = 0

    def chain(self, call: Call) -> BlockChain | None:
        handles = list(self._watch())
        try:
            with torch.enable_grad():
                outputs = call(self.model)
        finally:
            for handle in handles:
                handle.remove()
        if tuple(self.entered) != self.names or any(state is None for state in self.states):
            return None
        used = self._parts(outputs)
        if used is None:
            return None
        return BlockChain(
            names=self.names, used=tuple(used), before=frozenset(self.before), after=frozenset(self.after)
        )

    def _watch(self) -> Iterator[Any]:
        blocks = set(self.names)
        for name, module in self.model.named_modules():
            if name in blocks:
                yield module.register_forward_pre_hook(self._enter(name), with_kwargs=True)
                yield module.register_forward_hook(self._leave, always_call=True)
            elif name:
                yield module.register_forward_pre_hook(self._other(name))

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            self.inside += 1
            self.entered.append(name)
            state = first_tensor(args, kwargs)
            self.states.append(None if state is None else (state, state.grad_fn))

        return hook

    def _leave(self, *_: Any) -> None:
        self.inside -= 1

    def _other(self, name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if not self.inside and not self.entered:
                self.before.add(name)
            elif not self.inside and len(self.entered) == len(self.names):
                self.after.add(name)

        return hook

    def _parts(self, outputs: Any) -> list[frozenset[str]] | None:
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        nodes = [node for _, node in self.states]
        ends = [*([node] if node is not None else [] for node in nodes), [each.grad_fn for each in tensors_of(outputs)]]
        parts: list[frozenset[str]] = []
        for index, roots in enumerate(ends):
            stop = nodes[index - 1] if index else None
            oldest, parameters = _reached([root for root in roots if root is not None], stop)
            cuts = [node._sequence_nr() for node in nodes[1:index] if node is not None]
            if cuts and oldest is not None and oldest < max(cuts):
                return None
            parts.append(frozenset(names[each] for each in parameters if each in names))
        return parts


def _reached(roots: Iterable[Any], stop: Any) -> tuple[int | None, set[int]]:
    """Of the graph behind `roots`, up to `stop`: the sequence number of the oldest operation, and the parameters."""
    seen: set[Any] = {stop}
    oldest: int | None = None
    parameters: set[int] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            parameters.add(id(variable))
            continue
        number = node._sequence_nr()
        oldest = number if oldest is None else min(oldest, number)
        waiting += [each for each, _ in node.next_functions]
    return oldest, parameters


def first_tensor(args: Sequence[Any], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """What a block works on: its first argument, by position or by name, if that is a tensor."""
    first = args[0] if args else next(iter(kwargs.values()), None)
    return first if isinstance(first, torch.Tensor) else None
