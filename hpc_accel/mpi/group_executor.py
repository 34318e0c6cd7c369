"""A group's executor on this rank: every collective takes one way through it, to MPI and into a work with a future.

    Collective  ->  staged, if MPI cannot take its tensors as they are  ->  CollectiveWork  ->  CollectiveQueue

The queue calls the work in its turn, and the work calls `communicate`. Messages are started here, too; they need no
queue, because a started message waits for nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import Tensor

from hpc_accel.mpi import buffers, debug, gpu_aware, p2p, staging, threads, timeline, watchdog
from hpc_accel.mpi.all_reduce import AllReducer
from hpc_accel.mpi.buffers import nbytes
from hpc_accel.mpi.collective_queue import CollectiveQueue
from hpc_accel.mpi.launch import mpi
from hpc_accel.mpi.reductions import Reduction
from hpc_accel.mpi.staging import Communicate
from hpc_accel.mpi.timeline import Record
from hpc_accel.mpi.work import INLINE_MIN_TIMEOUT_S, CollectiveWork, JoinedWork, MPIWork, seconds

MPI = mpi()
SHUTDOWN_TIMEOUT_S = 30.0


@dataclass(slots=True)
class Collective:
    """One call of a collective: what is communicated, and from and into which tensors."""

    op: str
    communicate: Communicate
    """Gets `reads` and `writes`, or contiguous host tensors that stand in for them."""
    reads: list[Tensor]
    writes: list[Tensor]
    detail: str = ""
    """What else must be the same on all ranks, for debug mode."""
    result: list[Tensor] | None = None
    """What the future holds, if not `writes`."""
    elementwise: bool = False
    """Whether `communicate` may be applied to corresponding pieces of its one tensor, one after the other."""
    device_memory: bool = False
    """Whether it hands its tensors to MPI as they are and computes nothing before: a GPU-aware MPI takes them."""


class GroupExecutor:
    """What one group does on this rank."""

    def __init__(self, name: str, comm: Any, timeout_s: float) -> None:
        self.name = name
        self.comm = comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self.timeout_s = timeout_s
        self.queue = CollectiveQueue(name)
        self.reducer = AllReducer(comm)
        self.num_collectives = 0
        self.debug = debug.enabled()
        self._messages = p2p.Messages(comm)
        self._streams = staging.CopyStreams()
        self._coalescing: list[MPIWork] | None = None
        # A host's tensor goes whole: where some ranks have no accelerator, none sends its own in chunks.
        self.gpu_aware, self.chunks = gpu_aware.agreed(comm)
        threads.warn_if_reduced()
        watchdog.start()

    # --- collectives

    def start(self, collective: Collective, opts: Any) -> MPIWork:
        """Execute in its turn: here and now if the caller waits and the queue is idle, else in the queue's thread.

        `opts` is c10d's options object, of which `asyncOp` and `timeout` are read; None for a default one.
        """
        self.num_collectives += 1
        op, reads, writes = collective.op, collective.reads, collective.writes
        record = self._record(op, reads or writes, None) if timeline.enabled else None
        staged: Callable[[], Any]
        if staging.direct(reads) and staging.direct(writes):
            staged = partial(collective.communicate, reads, writes)
        else:
            staged = self._staged(collective, record)
        if self.debug:
            what = debug.describe(op, collective.detail, reads or writes)
            staged = partial(self._compared, debug.Call(self.num_collectives, what, debug.calling_line(op)), staged)
        result = writes if collective.result is None else collective.result
        timeout_s = seconds(getattr(opts, "timeout", None), self.timeout_s)
        work = CollectiveWork(self.queue, op, staged, result, timeout_s, record)
        coalescing = self._coalescing
        work.start(waits_at_once=coalescing is None and not getattr(opts, "asyncOp", True))
        if coalescing is not None:
            coalescing.append(work)
        return work

    def _staged(self, collective: Collective, record: Record | None) -> Callable[[], Any]:
        """`communicate` on what stands in for strided or device tensors; returns the device's event."""
        communicate, reads, writes = collective.communicate, collective.reads, collective.writes
        device = staging.on_device([*reads, *writes])
        if device is None:
            return partial(staging.through_contiguous, communicate, reads, writes)
        device_call = staging.DeviceCall(self._streams, device, reads, writes, record)
        if self.gpu_aware and collective.device_memory and all(t.is_contiguous() for t in (*reads, *writes)):
            return partial(device_call.run_on_device, communicate)
        return partial(device_call.run, communicate, elementwise=collective.elementwise and self.chunks)

    def _compared(self, mine: debug.Call, staged: Callable[[], Any]) -> Any:
        debug.compare(self.comm, mine)
        return staged()

    def try_all_reduce_here(self, tensor: Tensor, reduction: Reduction) -> bool:
        """The short way for the most frequent call; False where it does not apply and nothing was done.

        Small all-reduces take a few microseconds in MPI; the general way would cost several times that.
        """
        applies = (
            tensor.is_cpu
            and tensor.is_contiguous()
            and tensor.numel() <= buffers.MAX_COUNT
            and self.timeout_s >= INLINE_MIN_TIMEOUT_S
            and not (timeline.enabled or self.debug or threads.REDUCED)
        )
        if not applies or not self.queue.enter_if_idle():
            return False
        self.num_collectives += 1
        key = id(tensor)
        watchdog.begin(key, "all_reduce", self.timeout_s)
        try:
            self.reducer.all_reduce(tensor, reduction)
        except MPI.Exception as error:
            raise dist.DistBackendError(debug.explained("all_reduce", [tensor], error)) from error
        finally:
            watchdog.end(key)
            self.queue.leave()
        return True

    # --- messages

    def message(self, op: str, tensor: Tensor, peer: int, tag: int) -> MPIWork:
        """Start a "send" or a "recv". `peer` may be MPI.ANY_SOURCE."""
        p2p.check_tag(tag)
        record = self._record(op, [tensor], peer) if timeline.enabled else None
        work = self._messages.start(op, tensor, peer, tag, self.timeout_s, record, self._streams)
        if self._coalescing is not None:
            self._coalescing.append(work)
        return work

    # --- coalescing: what is started between the two is one work to the caller

    def start_coalescing(self) -> None:
        """Collect the works from here on."""
        self._coalescing = []

    def end_coalescing(self) -> MPIWork:
        """The works since `start_coalescing`, as one."""
        works, self._coalescing = self._coalescing or [], None
        return JoinedWork(works)

    def _record(self, op: str, tensors: Sequence[Tensor], peer: int | None) -> Record:
        record = Record(op, self.name, sum(map(nbytes, tensors)), peer, time.perf_counter_ns())
        timeline.add(record)
        return record

    # --- end of life

    def drain(self, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """Wait until nothing is queued or under way, or the time is over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self._messages.num_under_way() and self.queue.is_idle():
                return
            time.sleep(0.001)

    def close(self) -> None:
        """Finish what is queued and give the communicator back. All members call this."""
        if self.comm == MPI.COMM_NULL:
            return
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT_S
        self.drain()
        queue_ended = self.queue.close(max(0.0, deadline - time.monotonic()))
        num_messages = self._messages.num_under_way()
        if not queue_ended or num_messages:
            raise dist.DistBackendError(
                f"group {self.name}: {num_messages} message(s) or a collective unfinished at its end; "
                "rule: a group ends when all its operations have; remedy: wait() for every work before destroying it"
            )
        self.reducer.free()
        self.comm.Free()
