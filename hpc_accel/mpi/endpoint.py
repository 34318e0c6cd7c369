"""A group's end on this rank: its communicator, its lane, and the way an operation takes into them."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import Tensor

from hpc_accel.errors import ConfigError
from hpc_accel.mpi import buffers, collectives, debug, gpu_aware, p2p, staging, threads, timeline, watchdog
from hpc_accel.mpi.buffers import nbytes
from hpc_accel.mpi.collectives import SHIFT_TAG
from hpc_accel.mpi.lane import Lane
from hpc_accel.mpi.launch import mpi, refuse_copies
from hpc_accel.mpi.reductions import Reduction
from hpc_accel.mpi.shared_memory import LOW_MIN_BYTES, SharedMemory, find_node, open_shared
from hpc_accel.mpi.timeline import Record
from hpc_accel.mpi.work import INLINE_MIN_TIMEOUT_S, CollectiveWork, MPIWork

MPI = mpi()
SWEEP_AT = 64
SHARE_FROM_BYTES = LOW_MIN_BYTES
"""The first all-reduce of this size takes the memory to share; a group without any takes none."""
SHUTDOWN_TIMEOUT_S = 30.0


def make_comm(ranks: Sequence[int], rank: int, size: int, parent: Any = None) -> Any:
    """The group's own communicator. Only members call this.

    `ranks` are those of `parent`, or torch's global ranks; empty for the default group.
    """
    if not ranks:
        refuse_copies(MPI.COMM_WORLD.Get_size())
        if MPI.COMM_WORLD.Get_size() != size:
            raise ConfigError(
                f"world_size {size}, MPI has {MPI.COMM_WORLD.Get_size()} rank(s)",
                "the default group spans all ranks MPI started",
                f"start {size} ranks with mpirun or srun, or leave RANK, WORLD_SIZE and MASTER_ADDR unset",
            )
        return MPI.COMM_WORLD.Split(0, key=rank)
    # The tag must be the same on all members without asking: str's hash differs from process to process, and torch's
    # name of a group made with use_local_synchronization counts the groups of each rank. The members are the same.
    tag = zlib.crc32(",".join(map(str, ranks)).encode()) % 32767
    parent = parent if parent is not None else default_comm()
    subset = parent.Get_group().Incl(list(ranks))
    try:
        return parent.Create_group(subset, tag)
    finally:
        subset.Free()


def default_comm() -> Any:
    """The communicator whose ranks are torch's global ranks."""
    default = dist.distributed_c10d._get_default_group() if dist.is_initialized() else None
    end = getattr(default, "endpoint", None)
    return end.comm if end is not None else MPI.COMM_WORLD


class Endpoint:
    """What one group does on this rank."""

    def __init__(self, name: str, comm: Any, timeout_s: float) -> None:
        self.name = name
        self.comm = comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self.timeout_s = timeout_s
        self.lane = Lane(name)
        self.num_collectives = 0
        self.debug = debug.enabled()
        self._streams = staging.CopyStreams()
        self._messages: dict[int, p2p.MessageWork] = {}
        self._node = None if threads.REDUCED else find_node(comm)
        self._shared: SharedMemory | None = None
        self._may_share = self._node is not None
        # A host's tensor goes whole: where some ranks have no accelerator, none sends its own in chunks.
        self.gpu_aware, self.chunks = gpu_aware.agreed(comm)
        threads.warn_if_reduced()
        watchdog.start()

    def collective(
        self,
        op: str,
        call: staging.Call,
        reads: Sequence[Tensor],
        writes: Sequence[Tensor],
        *,
        waits_at_once: bool,
        timeout_s: float,
        detail: str = "",
        result: list[Tensor] | None = None,
        elementwise: bool = False,
        device_memory: bool = False,
    ) -> MPIWork:
        """Run `call(reads, writes)` in its turn, on contiguous host tensors.

        `elementwise`: `call` may be applied to corresponding pieces; `device_memory`: it hands its tensors to MPI as
        they are and computes nothing before, so that a GPU-aware MPI may have device tensors.
        """
        self.num_collectives += 1
        record = self._record(op, reads or writes, None) if timeline.enabled else None
        run: Callable[[MPIWork], None]
        if staging.direct(reads) and staging.direct(writes):
            run = partial(_run_direct, call, reads, writes)
        else:
            device = staging.on_device([*reads, *writes])
            if device is None:
                run = partial(_run_strided, call, reads, writes)
            else:
                staged = staging.DeviceCall(self._streams, device, reads, writes, record)
                straight = self.gpu_aware and device_memory and all(t.is_contiguous() for t in (*reads, *writes))
                run = (
                    partial(_run_aware, staged, call)
                    if straight
                    else partial(_run_staged, staged, call, elementwise and self.chunks)
                )
        if self.debug:
            run = partial(self._run_compared, self.num_collectives, debug.describe(op, detail, reads or writes), run)
        work = CollectiveWork(self.lane, op, run, list(writes) if result is None else result, timeout_s, record)
        work.start(waits_at_once=waits_at_once)
        return work

    def all_reduce_at_once(self, tensor: Tensor, reduction: Reduction) -> bool:
        """The straight way for the most frequent call; False where it does not apply and nothing was done.

        Small all-reduces take a few microseconds in MPI; the general way would cost several times that.
        """
        applies = (
            tensor.is_cpu
            and tensor.is_contiguous()
            and tensor.numel() <= buffers.MAX_COUNT
            and self.timeout_s >= INLINE_MIN_TIMEOUT_S
            and not (timeline.enabled or self.debug or threads.REDUCED)
        )
        if not applies or not self.lane.enter():
            return False
        self.num_collectives += 1
        key = id(tensor)
        watchdog.begin(key, "all_reduce", self.timeout_s)
        try:
            self.all_reduce(tensor, reduction)
        except MPI.Exception as error:
            raise dist.DistBackendError(f"all_reduce: {error}") from error
        finally:
            watchdog.end(key)
            self.lane.leave()
        return True

    def all_reduce(self, tensor: Tensor, reduction: Reduction) -> None:
        """Through the node's shared memory where that is faster, else the library's own. Called in the lane."""
        if self._may_share and nbytes(tensor) >= SHARE_FROM_BYTES and tensor.is_cpu:
            if self._shared is None and self._node is not None:
                self._shared = open_shared(self._node)
                self._may_share = self._shared is not None
            if self._shared is not None and self._shared.takes(tensor, reduction):
                self._shared.all_reduce(tensor, reduction)
                return
        collectives.all_reduce(self.comm, tensor, reduction)

    def message(self, op: str, tensor: Tensor, peer: int, tag: int) -> MPIWork:
        """Start a send or a receive. `peer` may be MPI.ANY_SOURCE."""
        if not 0 <= tag < SHIFT_TAG:
            raise ValueError(
                f"tag {tag}: rule: this MPI has tags from 0 to {SHIFT_TAG - 1}; remedy: choose a smaller one"
            )
        if len(self._messages) >= SWEEP_AT:
            self._sweep()
        record = self._record(op, [tensor], peer) if timeline.enabled else None
        device = staging.on_device([tensor])
        staged = staging.DeviceMessage(self._streams, tensor, record) if device is not None else None
        if op == "send":
            host = staged.to_host() if staged is not None else tensor.detach().contiguous()
            request = p2p.send(self.comm, host, peer, tag)
        else:
            host = staged.host if staged is not None else _landing(tensor)
            request = p2p.receive(self.comm, host, peer, tag)
        work = p2p.MessageWork(op, tensor, request, host, self.timeout_s, record, staged, self._forget)
        self._messages[id(work)] = work
        return work

    def _run_compared(self, number: int, mine: str, run: Callable[[MPIWork], None], work: MPIWork) -> None:
        debug.compare(self.comm, number, mine)
        run(work)

    def _record(self, op: str, tensors: Sequence[Tensor], peer: int | None) -> Record:
        record = Record(op, self.name, sum(map(nbytes, tensors)), peer, time.perf_counter_ns())
        timeline.add(record)
        return record

    def _forget(self, work: p2p.MessageWork) -> None:
        self._messages.pop(id(work), None)

    def _sweep(self) -> None:
        for work in list(self._messages.values()):
            work.is_completed()

    def drain(self, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """Wait until nothing is queued or under way, or the time is over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._sweep()
            if not self._messages and self.lane.idle():
                return
            time.sleep(0.001)

    def close(self) -> None:
        """Finish what is queued and give the communicator back. All members call this."""
        if self.comm == MPI.COMM_NULL:
            return
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT_S
        self.drain()
        if not self.lane.close(max(0.0, deadline - time.monotonic())) or self._messages:
            raise dist.DistBackendError(
                f"group {self.name}: {len(self._messages)} message(s) or a collective unfinished at its end; "
                "rule: a group ends when all its operations have; remedy: wait() for every work before destroying it"
            )
        self._shared = None
        if self._node is not None:
            self._node.free()
        self.comm.Free()


def _landing(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.new_empty(tensor.shape)


def _run_direct(call: staging.Call, reads: Sequence[Tensor], writes: Sequence[Tensor], _: MPIWork) -> None:
    call(list(reads), list(writes))


def _run_strided(call: staging.Call, reads: Sequence[Tensor], writes: Sequence[Tensor], _: MPIWork) -> None:
    staging.through_contiguous(call, reads, writes)


def _run_staged(staged: staging.DeviceCall, call: staging.Call, elementwise: bool, work: MPIWork) -> None:
    work.on_device = staged.run(call, elementwise=elementwise)


def _run_aware(staged: staging.DeviceCall, call: staging.Call, work: MPIWork) -> None:
    work.on_device = staged.run_on_device(call)
