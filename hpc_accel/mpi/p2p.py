"""Messages between two ranks: Isend and Irecv at once, completed by whoever waits.

Two threads that both send first would deadlock above MPI's eager limit; a started Irecv cannot.
`Messages` keeps a started message alive until MPI is done with its memory, even if the caller drops the work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from hpc_accel.mpi import staging, threads, watchdog
from hpc_accel.mpi.buffers import moving, nbytes
from hpc_accel.mpi.collectives import SHIFT_TAG
from hpc_accel.mpi.launch import mpi
from hpc_accel.mpi.staging import CopyStreams, DeviceMessage, outside_graph
from hpc_accel.mpi.timeline import Record
from hpc_accel.mpi.work import INLINE_MIN_TIMEOUT_S, MPIWork

MPI = mpi()
FIRST_PAUSE_S, LONGEST_PAUSE_S = 20e-6, 1e-3
SWEEP_AT = 64
"""From so many messages under way, those that are done are looked for before one more is started."""


class MessageWork(MPIWork):
    """A started message."""

    def __init__(
        self,
        op: str,
        tensor: Tensor,
        request: Any,
        host: Tensor,
        timeout_s: float,
        record: Record | None,
        staged: DeviceMessage | None,
        forget: Callable[[MessageWork], None],
    ) -> None:
        super().__init__(op, [tensor], timeout_s, record)
        self.request = request
        self._staged = staged
        self._forget = forget
        self.host: Tensor | None = host
        """The contiguous memory MPI uses: the tensor's own, or a copy."""
        self.copy_back = op == "recv" and host is not tensor
        self._num_bytes = nbytes(host)
        self._source = -1
        self._status = MPI.Status()
        self._completing = threading.Lock()

    def is_completed(self) -> bool:
        if not self.done and self._completing.acquire(blocking=False):
            try:
                if not self.done:
                    self._attempt(self._test)
            finally:
                self._completing.release()
        return self.done

    def _block(self, timeout_s: float) -> None:
        if timeout_s >= INLINE_MIN_TIMEOUT_S and not threads.REDUCED:
            with self._completing:
                if not self.done:
                    self._attempt(self._wait)
            return
        deadline, pause_s = time.monotonic() + timeout_s, FIRST_PAUSE_S
        while not self.is_completed():
            if time.monotonic() > deadline:
                raise dist.DistBackendError(
                    f"{self.op}: Timed out after {timeout_s:g} s; rule: the peer must post its side within the "
                    "timeout; remedy: look at what the peer does, or raise the timeout"
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _test(self) -> bool:
        with threads.gate():
            return bool(self.request.Test(self._status))

    def _wait(self) -> bool:
        watchdog.begin(id(self), self.op, self._timeout_s)
        try:
            self.request.Wait(self._status)
        finally:
            watchdog.end(id(self))
        return True

    def _attempt(self, step: Any) -> None:
        try:
            if not step():
                return
            self._complete()
        except Exception as error:
            self._settle(dist.DistBackendError(f"{self.op}: {error}"))
        else:
            self._settle(None)

    def _complete(self) -> None:
        if self.op != "recv":
            return
        self._source = self._status.Get_source()
        came = int(self._status.Get_elements(MPI.BYTE))
        if came != self._num_bytes:
            raise ValueError(
                f"{came} bytes came from rank {self._source}, the tensor has {self._num_bytes}; "
                "rule: both sides must agree in size; remedy: give the receiver the sender's shape and dtype"
            )
        if self._staged is not None:
            self.on_device = self._staged.to_device()
        elif self.copy_back:
            assert self.host is not None
            with outside_graph(self._result):
                self._result[0].detach().copy_(self.host)

    def _settle(self, error: Exception | None) -> None:
        self.host = None
        self._forget(self)
        self.finish(error)

    def source_rank(self) -> int:
        return self._source

    def _source_rank(self) -> int:
        return self._source

    def get_future(self) -> Future[list[Tensor]]:
        if threads.REDUCED:
            self.wait()
        future = super().get_future()
        if not self.done:
            _poller.watch(self)
        return future


class Poller:
    """Completes messages whose future was taken: nobody else would call MPI for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works: list[MessageWork] = []
        self._thread: threading.Thread | None = None

    def watch(self, work: MessageWork) -> None:
        with self._lock:
            self._works.append(work)
            if self._thread is None:
                self._thread = threading.Thread(target=self._poll, name="mpi4py:poller", daemon=True)
                self._thread.start()

    def _poll(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            with self._lock:
                works = list(self._works)
            finished = {id(work) for work in works if work.is_completed()}
            with self._lock:
                self._works = [work for work in self._works if id(work) not in finished]
                if not self._works:
                    self._thread = None
                    return
            pause_s = FIRST_PAUSE_S if finished else min(2 * pause_s, LONGEST_PAUSE_S)
            time.sleep(pause_s)


_poller = Poller()


class Messages:
    """The started messages of a group."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._under_way: dict[int, MessageWork] = {}

    def start(
        self, op: str, tensor: Tensor, peer: int, tag: int, timeout_s: float, record: Record | None,
        streams: CopyStreams,
    ) -> MessageWork:  # fmt: skip
        """Start a "send" or a "recv"; a device tensor is staged on `streams`."""
        if len(self._under_way) >= SWEEP_AT:
            self.num_under_way()
        device = staging.on_device([tensor])
        staged = DeviceMessage(streams, tensor, record) if device is not None else None
        if op == "send":
            host = staged.to_host() if staged is not None else tensor.detach().contiguous()
            with threads.gate():
                request = self._comm.Isend(moving(host), dest=peer, tag=tag)
        else:
            host = staged.host if staged is not None else _contiguous_like(tensor)
            with threads.gate():
                request = self._comm.Irecv(moving(host), source=peer, tag=tag)
        work = MessageWork(op, tensor, request, host, timeout_s, record, staged, self._forget)
        self._under_way[id(work)] = work
        return work

    def num_under_way(self) -> int:
        """How many are not done yet; all are looked at."""
        for work in list(self._under_way.values()):
            work.is_completed()
        return len(self._under_way)

    def _forget(self, work: MessageWork) -> None:
        self._under_way.pop(id(work), None)


def check_tag(tag: int) -> None:
    """Refuse tags that this MPI does not have, or that collectives use."""
    if not 0 <= tag < SHIFT_TAG:
        raise ValueError(f"tag {tag}: rule: this MPI has tags from 0 to {SHIFT_TAG - 1}; remedy: choose a smaller one")


def _contiguous_like(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.new_empty(tensor.shape)
