"""Batches to the device: from pinned memory on a stream of their own, while the step before still computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Copies:
    """Copies tensors to one device. `pinned` says whether they lie in pinned host memory, which the device reads."""

    def __init__(self, device: torch.device, *, pinned: bool) -> None:
        self._device = device
        self._pinned = pinned
        self._stream = torch.cuda.Stream(device) if pinned and device.type == "cuda" else None

    def __call__(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each tensor on the device, ready for the current stream."""
        if self._stream is None:
            return [each.to(self._device, non_blocking=self._pinned) for each in tensors]
        with torch.cuda.stream(self._stream):
            found = [each.to(self._device, non_blocking=True) for each in tensors]
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for each in found:
            each.record_stream(current)  # or the next copy might be put where this one is still read
        return found
