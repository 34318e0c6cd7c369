"""Host memory for tensors MPI cannot take as they are: strided ones, and those on a device.

A strided tensor is copied. A device tensor goes through pinned memory on streams of its own, in chunks where the
operation allows it, so that three things overlap:

    copy in    chunk 0 | chunk 1 | chunk 2 |
    MPI                | chunk 0 | chunk 1 | chunk 2 |
    copy out                     | chunk 0 | chunk 1 | chunk 2

Reads begin after the work queued on the caller's stream at the time of the call (`ready`); the caller's stream
waits for the last copy out in wait(), as with NCCL. Buffers come from torch's cache of pinned memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 4 * 2**20
Call = Callable[[list[Tensor], list[Tensor]], None]


def direct(tensors: Sequence[Tensor]) -> bool:
    """Whether MPI can take all of them as they are."""
    for tensor in tensors:  # noqa: SIM110  # a generator costs microseconds, on every call
        if not (tensor.is_cpu and tensor.is_contiguous()):
            return False
    return True


def on_device(tensors: Sequence[Tensor]) -> torch.device | None:
    """The accelerator the tensors are on, or None for host memory; a mixture is refused."""
    kinds = {tensor.device for tensor in tensors}
    if len(kinds) > 1:
        raise ValueError(f"tensors on {sorted(map(str, kinds))}: rule: one call, one device; remedy: move them first")
    device = next(iter(kinds), None)
    if device is None or device.type == "cpu":
        return None
    if device.type not in {"cuda", "xpu"}:
        raise ValueError(f"a tensor on {device}: rule: MPI reaches cpu, cuda (ROCm too) and xpu; remedy: move it first")
    return device


def through_contiguous(call: Call, reads: Sequence[Tensor], writes: Sequence[Tensor]) -> None:
    """Run `call` on contiguous stand-ins for strided host tensors."""
    written = {id(tensor) for tensor in writes}
    stand_in: dict[int, Tensor] = {}
    for tensor in reads:
        stand_in[id(tensor)] = tensor.contiguous()
    for tensor in writes:
        if id(tensor) not in stand_in:
            fits = tensor.is_contiguous()
            stand_in[id(tensor)] = tensor if fits else torch.empty(tensor.shape, dtype=tensor.dtype)
    call([stand_in[id(tensor)] for tensor in reads], [stand_in[id(tensor)] for tensor in writes])
    for tensor in writes:
        if id(tensor) in written and stand_in[id(tensor)] is not tensor:
            tensor.copy_(stand_in[id(tensor)])


@lru_cache(maxsize=64)
def _streams(device: torch.device) -> tuple[torch.Stream, torch.Stream]:
    """The copy-in and copy-out streams of a device."""
    return torch.Stream(device=device), torch.Stream(device=device)


class DeviceCall:
    """One operation on device tensors. Made in the calling thread, run where the collective runs."""

    def __init__(self, device: torch.device, reads: Sequence[Tensor], writes: Sequence[Tensor]) -> None:
        self.device, self.reads, self.writes = device, list(reads), list(writes)
        self.copy_in, self.copy_out = _streams(device)
        self.ready = torch.accelerator.current_stream(device).record_event()
        for tensor in {id(t): t for t in (*self.reads, *self.writes)}.values():
            # The allocator must not hand the memory out again before our streams are done with it.
            tensor.record_stream(self.copy_in)
            tensor.record_stream(self.copy_out)

    def run(self, call: Call, *, elementwise: bool) -> torch.Event:
        """Execute and return the event after which the results are on the device.

        `elementwise`: `call` may be applied to corresponding pieces of its one tensor, one after the other.
        """
        with torch.accelerator.device_index(self.device.index):
            self.copy_in.wait_event(self.ready)
            self.copy_out.wait_event(self.ready)
            if elementwise and len(self.reads) == 1 and self.reads[0].is_contiguous():
                self._run_chunks(call)
            else:
                self._run_whole(call)
            return self.copy_out.record_event()

    def _run_whole(self, call: Call) -> None:
        host: dict[int, Tensor] = {}
        with self.copy_in:
            for tensor in self.reads:
                host[id(tensor)] = pinned(tensor).copy_(tensor, non_blocking=True)
        for tensor in self.writes:
            if id(tensor) not in host:
                host[id(tensor)] = pinned(tensor)
        self.copy_in.record_event().synchronize()
        call([host[id(tensor)] for tensor in self.reads], [host[id(tensor)] for tensor in self.writes])
        with self.copy_out:
            for tensor in self.writes:
                tensor.copy_(host[id(tensor)], non_blocking=True)

    def _run_chunks(self, call: Call) -> None:
        source = self.reads[0].view(-1)
        per_chunk = max(1, CHUNK_BYTES // source.element_size())
        chunks = list(source.split(per_chunk))
        hosts = list(pinned(source).split(per_chunk))
        landed = []
        with self.copy_in:
            for chunk, host in zip(chunks, hosts, strict=True):
                host.copy_(chunk, non_blocking=True)
                landed.append(self.copy_in.record_event())
        for chunk, host, event in zip(chunks, hosts, landed, strict=True):
            event.synchronize()
            call([host], [host] if self.writes else [])
            if self.writes:
                with self.copy_out:
                    chunk.copy_(host, non_blocking=True)

    def run_on_device(self, call: Call) -> torch.Event:
        """For a GPU-aware MPI: device memory straight in, when the producer has finished."""
        with torch.accelerator.device_index(self.device.index):
            self.copy_out.wait_event(self.ready)
            self.copy_out.synchronize()
            with self.copy_out:
                call(self.reads, self.writes)
            return self.copy_out.record_event()


def pinned(like: Tensor) -> Tensor:
    """Pinned host memory of the same shape and dtype. Torch's allocator caches it and knows pending copies."""
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)


class DeviceMessage:
    """The host side of one message: copied in before a send, copied out after a receive."""

    def __init__(self, tensor: Tensor) -> None:
        self.call = DeviceCall(tensor.device, [tensor], [tensor])
        self.tensor = tensor
        self.host = pinned(tensor)

    def to_host(self) -> Tensor:
        """Wait for the producer and copy. Blocks the host: MPI needs the bytes."""
        stream = self.call.copy_in
        stream.wait_event(self.call.ready)
        with stream:
            self.host.copy_(self.tensor, non_blocking=True)
        stream.record_event().synchronize()
        return self.host

    def to_device(self) -> Any:
        """Copy what came; the event after which it is there."""
        stream = self.call.copy_out
        stream.wait_event(self.call.ready)
        with stream:
            self.tensor.copy_(self.host, non_blocking=True)
        return stream.record_event()
