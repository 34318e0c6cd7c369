"""Batches to the device: from pinned memory on a stream of their own, while the step before still computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hpc_accel.workloads.batch import Batch


class Copies:
    """Copies tensors to one device. `pinned` says whether they lie in pinned host memory, which the device reads."""

    def __init__(self, device: torch.device, *, pinned: bool) -> None:
        self._device = device
        self._pinned = pinned
        self._stream = torch.cuda.Stream(device) if pinned and device.type == "cuda" else None

    def __call__(self, batches: Sequence[Batch]) -> list[Batch]:
        """Each batch on the device, ready for the current stream."""
        if self._stream is None:
            return [each.moved(self._device, non_blocking=self._pinned) for each in batches]
        with torch.cuda.stream(self._stream):
            found = [each.moved(self._device, non_blocking=True) for each in batches]
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for each in found:
            each.mapped(lambda tensor: _recorded(tensor, current))  # or the next copy might be put where this is read
        return found


def _recorded(tensor: torch.Tensor, stream: torch.cuda.Stream) -> torch.Tensor:
    tensor.record_stream(stream)
    return tensor
