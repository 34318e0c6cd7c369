"""Works: the handles torch gives to callers. A failed one raises in wait() and in its future, never silently.

`Future.set_exception` stores the error as the value, which DDP's reducer reads as a list of tensors and crashes
on. So the future handed out is `raw.then(check)`, whose callback raises; then C++ sees a failed future.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from hpc_accel.mpi import debug, threads, watchdog
from hpc_accel.mpi.collective_queue import CollectiveQueue
from hpc_accel.mpi.launch import mpi
from hpc_accel.mpi.staging import new_stream, staying_on
from hpc_accel.mpi.timeline import Record

MPI = mpi()
INLINE_MIN_TIMEOUT_S = 300.0
"""A thread inside a blocking MPI call cannot time out. Callers with a shorter timeout wait outside of MPI."""

_publishing = threading.Lock()


def seconds(timeout: timedelta | None, default_s: float) -> float:
    """A c10d timeout in seconds; unset (negative) and `kNoTimeout` (0) mean the group's."""
    if timeout is None:
        return default_s
    value = timeout.total_seconds()
    return value if value > 0 else default_s


class MPIWork(dist.Work):
    """What collectives and messages have in common: completion, error, result, future."""

    # What a new work has stands here, once: setting it costs time on every call.
    done = False
    error: Exception | None = None
    on_device: Any = None
    """Event on the device after which the result is there; None on the CPU."""
    record: Record | None = None
    _timeout_s = 0.0
    _raw: Future[list[Tensor]] | None = None
    _future: Future[list[Tensor]] | None = None

    def __init__(self, op: str, result: list[Tensor], timeout_s: float, record: Record | None) -> None:
        dist.Work.__init__(self)
        self.op = op
        self.record = record
        self._result = result
        self._timeout_s = timeout_s

    def wait(self, timeout: timedelta | None = None) -> bool:
        if not self.done:
            began_ns = time.perf_counter_ns()
            reached = self.record.reached() if self.record is not None else None
            self._block(seconds(timeout, self._timeout_s))
            if self.record is not None:
                self.record.waits.append((began_ns, time.perf_counter_ns(), reached))
        if self.error is not None:
            raise self.error
        if self.on_device is not None:
            self.on_device.wait()
        return True

    def _block(self, timeout_s: float) -> None:
        raise NotImplementedError

    def synchronize(self) -> None:
        self.wait()

    def is_completed(self) -> bool:
        return self.done

    def is_success(self) -> bool:
        return self.is_completed() and self.error is None

    def exception(self) -> Exception | None:
        return self.error

    def result(self) -> list[Tensor]:
        return self._result

    def get_future(self) -> Future[list[Tensor]]:
        with _publishing:
            if self._future is not None:
                return self._future
            if self.record is not None:
                self.record.via_future = True
            devices: Any = [self._result[0].device] if self._result and not self._result[0].is_cpu else None
            self._raw = Future(devices=devices)
            self._future = self._raw.then(self._checked)
            done = self.done
        if done:
            self._fulfil()
        return self._future

    def _checked(self, raw: Future[list[Tensor]]) -> list[Tensor]:
        if self.error is not None:
            raise self.error
        return raw.value()

    def finish(self, error: Exception | None) -> None:
        """Mark as done; whoever waits on `done` sees everything that was set before."""
        if self.record is not None:
            self.record.ended_ns = time.perf_counter_ns()
        self.error = error
        with _publishing:
            self.done = True
            raw = self._raw
        if raw is not None:
            self._fulfil()

    def _fulfil(self) -> None:
        assert self._raw is not None
        if self.on_device is None or not self._result:  # gather gives nothing to ranks other than its root
            self._raw.set_result(self._result)
            return
        device = self._result[0].device
        # The future takes its device event from the current stream, so that stream waits for the result first.
        stream = new_stream(device)
        with staying_on(device), stream:
            stream.wait_event(self.on_device)
            self._raw.set_result(self._result)


class CollectiveWork(MPIWork):
    """A collective in its group's queue."""

    _failure: Exception | None = None
    _latch: Any = None
    """A lock that opens when the collective is done; None where it is executed in the calling thread."""

    def __init__(
        self,
        queue: CollectiveQueue,
        op: str,
        staged: Callable[[], Any],
        result: list[Tensor],
        timeout_s: float,
        record: Record | None,
    ) -> None:
        super().__init__(op, result, timeout_s, record)
        self._queue = queue
        self._staged: Callable[[], Any] | None = staged
        """Communicates, where needed on tensors that stand in; returns the event on the device, None on the CPU."""

    def start(self, *, waits_at_once: bool) -> None:
        """Execute here and now if the caller would wait anyway, else queue."""
        if threads.REDUCED:
            with threads.gate():
                self.communicate_watched()
            self.publish()
            return
        if waits_at_once and self._timeout_s >= INLINE_MIN_TIMEOUT_S and self._queue.execute_here(self):
            if self.record is not None and self.record.ended_ns is not None:
                self.record.waits.append((self.record.started_ns, self.record.ended_ns, None))
            return
        self._latch = threading.Lock()
        self._latch.acquire()
        self._queue.enqueue(self)

    def communicate_watched(self) -> None:
        """Communicate under the eyes of the watchdog; an error is kept for `publish`."""
        staged, self._staged = self._staged, None  # afterwards nobody needs what it holds
        assert staged is not None
        if self.record is not None:
            self.record.started_ns = time.perf_counter_ns()
        watchdog.begin(id(self), self.op, self._timeout_s)
        try:
            event = staged()
            if event is not None:
                self.on_device = event
        except Exception as error:
            if isinstance(error, MPI.Exception) or not isinstance(error, RuntimeError | ValueError):
                error = dist.DistBackendError(debug.explained(self.op, self._result, error))
            self._failure = error
        finally:
            watchdog.end(id(self))

    def publish(self) -> None:
        """Fulfil the future and free whoever waits."""
        self.finish(self._failure)
        if self._latch is not None:
            self._latch.release()

    def get_future(self) -> Future[list[Tensor]]:
        # A callback on the queue's thread may wait for this future in C++ (PowerSGD does): nobody else would serve it.
        if not self.done and self._queue.is_own_thread():
            self._queue.execute_up_to(self)
        return super().get_future()

    def _block(self, timeout_s: float) -> None:
        if timeout_s >= INLINE_MIN_TIMEOUT_S or self._queue.is_own_thread():
            self._queue.execute_up_to(self)
        if self.done:
            return
        if not self._latch.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX)):
            raise dist.DistBackendError(
                f"{self.op}: Timed out after {timeout_s:g} s; rule: every rank of the group must call it within "
                "the timeout; remedy: look at what the other ranks do, or raise the timeout"
            )
        self._latch.release()


class DoneWork(MPIWork):
    """Of an operation that succeeded before the call returned."""

    op = "done"
    done = True

    def __init__(self, result: list[Tensor]) -> None:
        dist.Work.__init__(self)
        self._result = result

    def wait(self, timeout: timedelta | None = None) -> bool:
        return True


class JoinedWork(MPIWork):
    """Several works as one: what a coalescing block returns."""

    def __init__(self, works: list[MPIWork]) -> None:
        super().__init__("coalesced", [t for work in works for t in work.result()], 0.0, None)
        self._works = works

    def wait(self, timeout: timedelta | None = None) -> bool:
        for work in self._works:
            work.wait(timeout) if timeout is not None else work.wait()
        self.done = True
        return True

    def is_completed(self) -> bool:
        return all(work.is_completed() for work in self._works)

    def is_success(self) -> bool:
        return all(work.is_success() for work in self._works)

    def get_future(self) -> Future[list[Tensor]]:
        if self._future is None:
            parts = torch.futures.collect_all([work.get_future() for work in self._works])
            self._future = parts.then(lambda done: [t for part in done.value() for t in part.value()])
        return self._future
