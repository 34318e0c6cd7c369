"""Where and in which order tensors lie: channels last, and activations kept on the host until backward.

torch.autograd.graph.save_on_cpu moves everything that backward needs, weights included, and forgets the order of
channels; what is moved here is what moving makes room for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

MIN_OFFLOAD_BYTES = 1 << 20
"""Smaller tensors stay: starting two copies takes longer than their room on the device is worth."""
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def set_channels_last(module: nn.Module) -> None:
    """Store the weights of 2-D and 3-D convolutions with channels innermost, as their fastest kernels want them."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() in CHANNELS_LAST:
                parameter.data = parameter.data.contiguous(memory_format=CHANNELS_LAST[parameter.dim()])


def channels_last(inputs: torch.Tensor) -> torch.Tensor:
    """Images or volumes with channels innermost; anything else as it is."""
    form = CHANNELS_LAST.get(inputs.dim())
    return inputs if form is None else inputs.contiguous(memory_format=form)


def offload_activations(module: nn.Module) -> None:
    """Keep the activations that backward needs in pinned host memory instead of the device's, in place."""
    forward: Callable[..., Any] = module.forward
    # A compiled model calls them between its kernels; the compiler cannot read what asks for storages.
    pack, unpack = torch.compiler.disable(_pack), torch.compiler.disable(_unpack)

    def offloaded(*inputs: Any, **named: Any) -> Any:
        buffers = frozenset(map(id, module.buffers()))
        with torch.autograd.graph.saved_tensors_hooks(partial(pack, buffers), unpack):
            return forward(*inputs, **named)

    module.forward = offloaded


def _pack(buffers: frozenset[int], tensor: torch.Tensor) -> tuple[torch.device, torch.Tensor]:
    """What autograd keeps of a tensor: (where it was, a copy on the host), or itself where moving it frees nothing.

    Both copies run on the stream that computes. The host does not wait for them, and the order of that stream alone
    makes them right: the copy precedes whatever reuses the tensor's memory, and backward runs a layer on the stream
    of its forward. A stream of their own would hide them behind computation, but would have to keep every tensor
    alive until its copy is done, which is the memory that this is to free.
    """
    if _stays(buffers, tensor):
        return tensor.device, tensor
    # empty_like keeps the order of channels; pinned memory is kept by torch and handed out again after the copies.
    host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False)
    return tensor.device, host.copy_(tensor.detach(), non_blocking=True)


def _unpack(packed: tuple[torch.device, torch.Tensor]) -> torch.Tensor:
    device, tensor = packed
    return tensor.to(device, non_blocking=True)


def _stays(buffers: frozenset[int], tensor: torch.Tensor) -> bool:
    """Weights and buffers, and views of them, stay on the device anyway; so do tensors spread over little memory.

    A subclass (a DTensor, a float8 tensor) is more than its values, and stays too.
    """
    owner = tensor if tensor._base is None else tensor._base
    if isinstance(owner, nn.Parameter) or id(owner) in buffers or _is_cast_weight(owner):
        return True
    if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided:
        return True
    num_bytes = tensor.numel() * tensor.element_size()
    return num_bytes < MIN_OFFLOAD_BYTES or tensor.untyped_storage().nbytes() < num_bytes


def _is_cast_weight(tensor: torch.Tensor) -> bool:
    """Autocast's 16-bit copy of a weight: all of a model's weights to the host and back in each micro-batch cost more
    time than their room is worth, which is known beforehand and grows with no batch.
    """
    node = tensor.grad_fn
    if node is None or not node.name().startswith("ToCopyBackward"):
        return False
    return isinstance(getattr(node.next_functions[0][0], "variable", None), nn.Parameter)
