"""Host memory for tensors MPI cannot take as they are: strided ones, and those on a device.

A strided tensor is copied. A device tensor goes through pinned memory on streams of its group, in chunks where the
operation allows it, so that three things overlap:

    copy in    chunk 0 | chunk 1 | chunk 2 |
    MPI                | chunk 0 | chunk 1 | chunk 2 |
    copy out                     | chunk 0 | chunk 1 | chunk 2

Reads begin after the work queued on the caller's stream at the time of the call (`ready`); the caller's stream
waits for the last copy out in wait(), as with NCCL. Buffers come from torch's cache of pinned memory.

Copies are no part of anybody's graph: callers hand over tensors that want gradients (a pipeline's receive buffers do)
and tensors made in inference mode, and the thread that copies has a mode of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from hpc_accel.mpi.device_times import event_on, times_of
from hpc_accel.mpi.timeline import Record

CHUNK_BYTES = 4 * 2**20
LARGE_CHUNK_BYTES = 8 * 2**20
"""Of messages of at least LARGE_BYTES: 5 % faster at 25 MiB and 7 % at 128 MiB than 4 MiB, two ranks on one H200."""
LARGE_BYTES = 16 * 2**20
OWN_THREADS = "mpi4py:"
"""How the names of this package's threads begin."""
Communicate = Callable[[list[Tensor], list[Tensor]], None]
"""Communicates on contiguous tensors: those it reads, those it writes."""


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


def outside_graph(tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
    """The mode in which `tensors` may be copied to and from, whatever mode the calling thread is in."""
    return torch.inference_mode() if any(tensor.is_inference() for tensor in tensors) else torch.no_grad()


def through_contiguous(communicate: Communicate, reads: Sequence[Tensor], writes: Sequence[Tensor]) -> None:
    """Run `communicate` on contiguous stand-ins for strided host tensors."""
    written = {id(tensor) for tensor in writes}
    stand_in: dict[int, Tensor] = {}
    with outside_graph([*reads, *writes]):
        for tensor in reads:
            stand_in[id(tensor)] = tensor.detach().contiguous()
        for tensor in writes:
            if id(tensor) not in stand_in:
                fits = tensor.is_contiguous()
                stand_in[id(tensor)] = tensor if fits else torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        communicate([stand_in[id(tensor)] for tensor in reads], [stand_in[id(tensor)] for tensor in writes])
        for tensor in writes:
            if id(tensor) in written and not tensor.is_contiguous():
                tensor.detach().copy_(stand_in[id(tensor)])


class CopyStreams:
    """A group's two streams on each device. Groups do not share any, or one would wait for the other's copies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pairs: dict[torch.device, tuple[Any, Any]] = {}

    def pair(self, device: torch.device) -> tuple[Any, Any]:
        """Objects for copy-in and copy-out, new ones at every call.

        A Stream object remembers what to restore when it is left. Entered by two threads at once it restores the
        other's, or raises (torch 2.11), so no two threads may have the same object.
        """
        with self._lock:
            if device not in self._pairs:
                self._pairs[device] = new_stream(device), new_stream(device)
            copy_in, copy_out = self._pairs[device]
        return same_stream(copy_in), same_stream(copy_out)


def new_stream(device: torch.device) -> Any:
    """A stream of the device."""
    return torch.Stream(device=device)


def same_stream(stream: Any) -> Any:
    """Another object for the same stream."""
    return torch.Stream(stream_id=stream.stream_id, device_index=stream.device_index, device_type=stream.device_type)


def staying_on(device: torch.device) -> AbstractContextManager[Any]:
    """The calling thread works on `device` inside.

    A thread of this package stays there: going back to device 0, where threads begin, would make a context on it, half
    a gigabyte from every rank of the node.
    """
    if threading.current_thread().name.startswith(OWN_THREADS):
        torch.accelerator.set_device_index(device.index)
        return nullcontext()
    return torch.accelerator.device_index(device.index)


def pinned(like: Tensor) -> Tensor:
    """Pinned host memory of the same shape and dtype. Torch's allocator caches it and knows pending copies.

    On the CPU by name: the program may have set another default device.
    """
    return torch.empty(like.shape, dtype=like.dtype, device="cpu", pin_memory=True)


def keep(tensor: Tensor, *streams: Any) -> None:
    """The allocator must not hand the tensor's memory out again before these streams are done with it."""
    for stream in streams:
        tensor.record_stream(stream)


class DeviceCall:
    """One operation on device tensors. Made in the calling thread, run where the collective runs.

    `record` is the timeline's, which then learns when the inputs and the results were there.
    """

    def __init__(
        self, streams: CopyStreams, device: torch.device, reads: Sequence[Tensor], writes: Sequence[Tensor],
        record: Record | None = None,
    ) -> None:  # fmt: skip
        # By identity, because a tensor that is read and written is one tensor.
        plain = {id(tensor): tensor.detach() for tensor in (*reads, *writes)}
        self.reads = [plain[id(tensor)] for tensor in reads]
        self.writes = [plain[id(tensor)] for tensor in writes]
        self.device, self.record = device, record
        self.copy_in, self.copy_out = streams.pair(device)
        current = torch.accelerator.current_stream(device)
        if record is None:
            self.ready = event_on(current)
        else:
            record.times = times_of(device)
            self.ready = record.ready = record.times.mark(current)
        for tensor in plain.values():
            keep(tensor, self.copy_in, self.copy_out)

    def run(self, communicate: Communicate, *, elementwise: bool) -> Any:
        """Execute and return the event after which the results are on the device.

        `elementwise`: `communicate` may be applied to corresponding pieces of its one tensor, one after the other.
        """
        with staying_on(self.device), outside_graph([*self.reads, *self.writes]):
            self.copy_in.wait_event(self.ready)
            self.copy_out.wait_event(self.ready)
            if elementwise:
                self._run_chunks(communicate)
            else:
                self._run_whole(communicate)
            return self.done()

    def done(self) -> Any:
        """An event after the copies out so far; the timeline's record learns of it."""
        event = event_on(self.copy_out, timed=self.record is not None)
        if self.record is not None:
            self.record.done = event
        return event

    def _run_whole(self, communicate: Communicate) -> None:
        host: dict[int, Tensor] = {}
        with self.copy_in:
            for tensor in self.reads:
                host[id(tensor)] = pinned(tensor).copy_(tensor, non_blocking=True)
        for tensor in self.writes:
            if id(tensor) not in host:
                host[id(tensor)] = pinned(tensor)
        event_on(self.copy_in).synchronize()
        communicate([host[id(tensor)] for tensor in self.reads], [host[id(tensor)] for tensor in self.writes])
        with self.copy_out:
            for tensor in self.writes:
                tensor.copy_(host[id(tensor)], non_blocking=True)

    def _run_chunks(self, communicate: Communicate) -> None:
        """Pieces are cut from the elements in order, never from the memory: strides may differ from rank to rank."""
        tensor = (self.reads or self.writes)[0]
        with self.copy_in:
            source = tensor.reshape(-1)  # a copy of a strided tensor, on this stream
        keep(source, self.copy_out)
        is_large = source.numel() * source.element_size() >= LARGE_BYTES
        per_chunk = max(1, (LARGE_CHUNK_BYTES if is_large else CHUNK_BYTES) // source.element_size())
        chunks = list(source.split(per_chunk))
        hosts = list(pinned(source).split(per_chunk))
        landed = []
        if self.reads:
            with self.copy_in:
                for chunk, host in zip(chunks, hosts, strict=True):
                    host.copy_(chunk, non_blocking=True)
                    landed.append(event_on(self.copy_in))
        elif not tensor.is_contiguous():
            self.copy_out.wait_event(event_on(self.copy_in))
        for index, (chunk, host) in enumerate(zip(chunks, hosts, strict=True)):
            if self.reads:
                landed[index].synchronize()
            communicate([host] if self.reads else [], [host] if self.writes else [])
            if self.writes:
                with self.copy_out:
                    chunk.copy_(host, non_blocking=True)
        if self.writes and not tensor.is_contiguous():
            with self.copy_out:
                tensor.copy_(source.view(tensor.shape), non_blocking=True)

    def run_on_device(self, communicate: Communicate) -> Any:
        """For a GPU-aware MPI: device memory straight in, when the producer has finished."""
        with staying_on(self.device), outside_graph([*self.reads, *self.writes]):
            self.copy_out.wait_event(self.ready)
            event_on(self.copy_out).synchronize()
            with self.copy_out:
                communicate(self.reads, self.writes)
            return self.done()


class DeviceMessage:
    """The host side of one message: copied in before a send, copied out after a receive."""

    def __init__(self, streams: CopyStreams, tensor: Tensor, record: Record | None = None) -> None:
        self.call = DeviceCall(streams, tensor.device, [tensor], [tensor], record)
        (self.tensor,) = self.call.reads
        self.host = pinned(self.tensor)

    def to_host(self) -> Tensor:
        """Wait for the producer and copy. Blocks the host: MPI needs the bytes."""
        stream = self.call.copy_in
        with staying_on(self.call.device), outside_graph([self.tensor]):
            stream.wait_event(self.call.ready)
            with stream:
                self.host.copy_(self.tensor, non_blocking=True)
            event_on(stream).synchronize()
        return self.host

    def to_device(self) -> Any:
        """Copy what came; the event after which it is there."""
        stream = self.call.copy_out
        with staying_on(self.call.device), outside_graph([self.tensor]):
            stream.wait_event(self.call.ready)
            with stream:
                self.tensor.copy_(self.host, non_blocking=True)
            return self.call.done()
