"""What a stage sends has the dtype its neighbour expects, whatever autocast makes of the stage's last operation.

Autocast's lists differ between devices: after a norm or a softmax CUDA goes on in fp32 and the CPU in 16 bits. Stages
are described once, on the CPU, and run elsewhere; a buffer of the wrong dtype would hold half of a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Dtypes = Sequence[torch.dtype | None]
"""Of each value that leaves a stage; None for what is no tensor."""


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """A forward pass inside that only looks at shapes leaves no trace in running statistics and counters."""
    before = [(each, each.detach().clone()) for each in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def own_inputs(module: nn.Module) -> None:
    """Give `module` copies of its inputs, in place: what a neighbour sent is a leaf, which must not be overwritten."""
    forward: Callable[..., Any] = module.forward

    def on_copies(*inputs: Any, **options: Any) -> Any:
        return forward(*(each.clone() if torch.is_tensor(each) else each for each in inputs), **options)

    module.forward = on_copies


def cast_outputs(module: nn.Module, dtypes: Dtypes) -> None:
    """Make `module` return floating-point values of the declared `dtypes`, in place."""
    forward: Callable[..., Any] = module.forward

    def declared(*inputs: Any, **options: Any) -> Any:
        return _cast(forward(*inputs, **options), dtypes)

    module.forward = declared


def _cast(outputs: Any, dtypes: Dtypes) -> Any:
    if isinstance(outputs, tuple | list):
        return tuple(_cast_one(each, dtype) for each, dtype in zip(outputs, dtypes, strict=True))
    return _cast_one(outputs, dtypes[0])


def _cast_one(value: Any, dtype: torch.dtype | None) -> Any:
    is_floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(dtype) if is_floating and dtype is not None and dtype.is_floating_point else value
