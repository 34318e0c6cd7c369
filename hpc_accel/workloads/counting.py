"""Count what a forward pass costs, piece by piece: FLOPs, operations, activations kept, what tensor cuts divide.

FLOPs come from torch's FlopCounterMode, kept activations from autograd's saved-tensor hooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hpc_accel.workloads.batch_norms import batch_norms_of
from hpc_accel.workloads.linears import features

MATMULS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "scaled_dot_product")


@dataclass(kw_only=True)
class Counts:
    """Of all samples of the batch that ran."""

    flops: float = 0
    saved_elements: int = 0
    cut_flops: float = 0
    allreduced_elements: int = 0
    num_operations: int = 0
    num_matmuls: int = 0
    num_batch_norms: int = 0
    batch_norm_channels: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    def __sub__(self, other: Counts) -> Counts:
        return Counts(**{each.name: getattr(self, each.name) - getattr(other, each.name) for each in fields(self)})


class OperationCounter(TorchDispatchMode):
    """Counts the operations torch dispatches, and among them the matrix products and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.num_operations = 0
        self.num_matmuls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.num_operations += func.namespace != "prim"  # a tensor without values is asked for its device that way
        self.num_matmuls += any(part in name for part in MATMULS)
        return func(*args, **(kwargs or {}))


class Counting:
    """While open, counts what runs. `take` says what has run since it was asked last.

    `plan` names the linear layers that tensor parallelism divides.
    """

    def __init__(self, model: nn.Module, plan: Mapping[str, Literal["columns", "rows"]]) -> None:
        self._model = model
        self._plan = plan
        self._parameters = {storage_of(parameter) for parameter in model.parameters()}
        self._kept: dict[int, set[tuple[int, int]]] = {}
        self._flops, self._operations = FlopCounterMode(display=False), OperationCounter()
        self._counts = Counts()
        self._taken = Counts()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for name, way in self._plan.items():
            handle = self._model.get_submodule(name).register_forward_hook(self._divided(way))
            self._stack.callback(handle.remove)
        for layer in batch_norms_of(self._model).values():
            self._stack.callback(layer.register_forward_hook(self._normalised).remove)
        self._stack.enter_context(self._flops)
        self._stack.enter_context(self._operations)
        self._stack.enter_context(torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self) -> Counts:
        """What has run since the last call."""
        now = self._counts
        now.flops = self._flops.get_total_flops()
        now.num_operations, now.num_matmuls = self._operations.num_operations, self._operations.num_matmuls
        since, self._taken = now - self._taken, now - Counts()
        return since

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count `tensor` once, however many operations keep it; of a tensor kept in parts no more than the whole.

        What autograd keeps stays in memory until backward, so no storage takes the place of an earlier one.
        """
        storage = storage_of(tensor)
        parts = self._kept.setdefault(storage, set())
        part = (int(tensor.storage_offset()), tensor.numel())
        if storage not in self._parameters and part not in parts:
            whole = tensor.untyped_storage().nbytes() // tensor.element_size()
            room = whole - sum(numel for _, numel in parts)
            self._counts.saved_elements += max(0, min(tensor.numel(), room))
            parts.add(part)
        return tensor

    def _normalised(self, layer: nn.Module, _inputs: Any, _output: Any) -> None:
        self._counts.num_batch_norms += 1
        self._counts.batch_norm_channels += int(layer.num_features)  # type: ignore[arg-type]

    def _divided(self, way: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            self._counts.cut_flops += 2.0 * inputs[0].numel() * features(module)[1]
            self._counts.allreduced_elements += output.numel() if way == "rows" else 0

        return hook


def storage_of(tensor: torch.Tensor) -> int:
    """What tensors that share memory have in common, also where there is none behind them."""
    return tensor.untyped_storage()._cdata
