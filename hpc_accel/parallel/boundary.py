"""Where parts of a model meet: a stage sends the dtype its neighbour expects, and what a part is given is its own.

Autocast's lists differ between devices: after a norm or a softmax CUDA goes on in fp32 and the CPU in 16 bits. Stages
are described once, on the CPU, and run elsewhere; a buffer of the wrong dtype would hold half of a message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

Dtypes = Sequence[torch.dtype | None]
"""Of each value that leaves a stage; None for what is no tensor."""


def own_inputs(module: nn.Module) -> None:
    """Give `module` copies of its inputs, in place: what a neighbour sent is a leaf, which must not be overwritten."""
    forward: Callable[..., Any] = module.forward

    def owned(*inputs: Any, **options: Any) -> Any:
        return forward(*map(_copy, inputs), **options)

    module.forward = owned


def own_written_inputs(module: nn.Module) -> None:
    """Make `module` run on copies of its inputs, in place, until a call shows that it does not write into them."""
    forward: Callable[..., Any] = module.forward
    writes = [True]

    def owned(*inputs: Any, **named: Any) -> Any:
        return (on_copies(forward, writes) if may_write(writes) else forward)(*inputs, **named)

    module.forward = owned


def on_copies(forward: Callable[..., Any], writes: list[bool]) -> Callable[..., Any]:
    """`forward` on copies of its inputs; `writes` then holds whether it wrote into them."""

    def call(*inputs: Any, **named: Any) -> Any:
        values = [_copy(each) for each in inputs]
        options = {name: _copy(each) for name, each in named.items()}
        copies = [each for each in (*values, *options.values()) if torch.is_tensor(each)]
        before = [each._version for each in copies]
        results = forward(*values, **options)
        writes[0] = before != [each._version for each in copies]
        return results

    return call


def may_write(writes: list[bool]) -> bool:
    """Whether copies are needed still. A compiler follows writes itself, and cannot read version counters."""
    return writes[0] and not torch.compiler.is_compiling()


def _copy(value: Any) -> Any:
    return value.clone() if torch.is_tensor(value) else value


def cast_outputs(module: nn.Module, dtypes: Dtypes) -> None:
    """Make `module` return floating-point values of the declared `dtypes`, in place."""
    forward: Callable[..., Any] = module.forward

    def declared(*inputs: Any, **options: Any) -> Any:
        return _cast(forward(*inputs, **options), dtypes)

    module.forward = declared


def _cast(outputs: Any, dtypes: Dtypes) -> Any:
    if isinstance(outputs, tuple | list) and len(outputs) == len(dtypes):
        return tuple(_cast_one(each, dtype) for each, dtype in zip(outputs, dtypes, strict=True))
    return _cast_one(outputs, dtypes[0])  # outputs that the loss does not take stay as they are


def _cast_one(value: Any, dtype: torch.dtype | None) -> Any:
    is_floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(dtype) if is_floating and dtype is not None and dtype.is_floating_point else value
