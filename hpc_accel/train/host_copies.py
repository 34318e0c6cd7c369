"""The state of a moment, copied into host memory that is used again for each checkpoint: training goes on meanwhile.

It takes as much host memory as the rank writes, page-locked on a GPU, so that the copy runs at the bus's speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from hpc_accel.train.tensor_file import Slice


class HostCopies:
    """Buffers by file and key; those of a checkpoint must not be asked for again before it is written."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], torch.Tensor] = {}

    def take(self, file: str, slices: Mapping[str, Slice]) -> dict[str, Slice]:
        """`slices` as they are now."""
        found = {key: replace(each, values=self._copied(file, key, each.values)) for key, each in slices.items()}
        if any(each.values.is_cuda for each in slices.values()):
            torch.cuda.synchronize()
        return found

    def _copied(self, file: str, key: str, values: torch.Tensor) -> torch.Tensor:
        buffer = self._buffers.get((file, key))
        if buffer is None or buffer.shape != values.shape or buffer.dtype != values.dtype:
            buffer = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
            self._buffers[file, key] = buffer
        return buffer.copy_(values, non_blocking=True)
