"""Messages, groups, handles, errors and the timeline. Run under mpirun."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

import hpc_accel.mpi
from hpc_accel.mpi import buffers, debug, timeline
from hpc_accel.mpi.group_executor import Collective
from hpc_accel.mpi.launch import mpi
from tests.mpi.c10d_cases import WIRE, all_gather_single, equal, rank_size, reduce_scatter_single, values
from tests.mpi.cases import case, main


def raises(kind: type[Exception], words: str, call: Callable[[], object]) -> None:
    try:
        call()
    except kind as error:
        assert words in str(error), str(error)
    else:
        raise AssertionError(f"no {kind.__name__} with {words!r}")


@case
def messages_of_every_dtype() -> None:
    rank, size = rank_size()
    right, left = (rank + 1) % size, (rank - 1) % size
    for dtype in WIRE:
        got = torch.zeros(7, dtype=torch.uint8).to(dtype)
        sent = dist.isend(values(rank, dtype), right)
        assert dist.recv(got, left) == left
        sent.wait()
        equal(got, values(left, dtype))


@case
def everybody_sends_first() -> None:
    """Above any eager limit; blocking sends would deadlock."""
    rank, size = rank_size()
    big, got = torch.full((1 << 20,), float(rank)), torch.zeros(1 << 20)
    works = [dist.isend(big, (rank + 1) % size), dist.irecv(got, (rank - 1) % size)]
    for work in works:
        work.wait()
    assert got.eq((rank - 1) % size).all()


@case
def tags_and_any_source() -> None:
    rank, size = rank_size()
    if rank:
        dist.send(torch.tensor([float(rank)]), 0, tag=2)
        dist.send(torch.tensor([float(-rank)]), 0, tag=1)
    else:
        for other in range(1, size):
            got = torch.zeros(1)
            dist.recv(got, other, tag=1)
            assert got.item() == -other
        seen = set()
        for _ in range(1, size):
            source = dist.recv(got, tag=2)
            assert got.item() == source
            seen.add(source)
        assert seen == set(range(1, size))


@case
def batched_messages() -> None:
    rank, size = rank_size()
    send, got = torch.full((3,), float(rank)), torch.zeros(3)
    ops = [dist.P2POp(dist.isend, send, (rank + 1) % size), dist.P2POp(dist.irecv, got, (rank - 1) % size)]
    for work in dist.batch_isend_irecv(ops):
        work.wait()
    assert got.eq((rank - 1) % size).all()


@case
def dropped_works_complete() -> None:
    rank, size = rank_size()
    got = [torch.zeros(1000) for _ in range(200)]
    for index in range(200):
        dist.isend(torch.full((1000,), float(index)), (rank + 1) % size, tag=index)
    for index in reversed(range(200)):
        dist.irecv(got[index], (rank - 1) % size, tag=index).wait()
        assert got[index].eq(index).all()
    gc.collect()
    for _ in range(50):
        dist.all_reduce(torch.ones(10), async_op=True)
    dist.barrier()


@case
def a_short_message_is_an_error() -> None:
    rank, _ = rank_size()
    if rank == 0:
        dist.send(torch.ones(2), 1, tag=7)
    elif rank == 1:
        raises(RuntimeError, "8 bytes came from rank 0", lambda: dist.recv(torch.zeros(5), 0, tag=7))
    raises(ValueError, "tag", lambda: dist.isend(torch.ones(1), 0, tag=2**31 - 1))


@case
def groups_of_every_shape() -> None:
    rank, size = rank_size()
    for members in ([0], [size - 1, 0], list(range(size))):
        group = dist.new_group(members)
        if rank in members:
            total = torch.tensor([float(rank)])
            dist.all_reduce(total, group=group)
            assert total.item() == sum(set(members))
            source = torch.tensor([float(rank)])
            dist.broadcast(source, max(members), group=group)
            assert source.item() == max(members)
            dist.destroy_process_group(group)
    ordered = dist.new_group([1, 0], sort_ranks=False)
    if rank < 2:
        assert dist.get_rank(ordered) == 1 - rank
    beside = dist.new_group([0, 1], backend="gloo")
    if rank < 2:
        one = torch.ones(1)
        dist.all_reduce(one, group=beside)
        assert one.item() == 2
    mine = [r for r in range(size) if r % 2 == rank % 2]
    local = dist.new_group(mine, use_local_synchronization=True)
    count = torch.ones(1)
    dist.all_reduce(count, group=local)
    assert count.item() == len(mine)


@case
def split_group_of_the_default() -> None:
    rank, size = rank_size()
    members = [r for r in range(size) if r % 2 == rank % 2]
    child = dist.group.WORLD.split_group(members, group_name=f"halves-{rank % 2}")
    total = torch.ones(2)
    child.allreduce([total]).wait()
    assert total.tolist() == [float(len(members))] * 2
    assert child.group_name == f"halves-{rank % 2}"
    child.shutdown()


@case
def groups_entered_in_different_order() -> None:
    """One queue per group: asynchronous collectives of two groups may be queued in any order."""
    rank, size = rank_size()
    one, other = dist.new_group(list(range(size))), dist.new_group(list(range(size)))
    order = [one, other] if rank % 2 else [other, one]
    tensors = [torch.ones(100_000) for _ in order]
    works = [dist.all_reduce(tensor, group=group, async_op=True) for tensor, group in zip(tensors, order, strict=True)]
    for work in works:
        work.wait()
    assert all(tensor.eq(size).all() for tensor in tensors)


@case
def futures_complete_and_chain() -> None:
    rank, size = rank_size()
    work = dist.all_reduce(torch.full((3,), float(rank)), async_op=True)
    doubled = work.get_future().then(lambda done: done.value()[0] * 2)
    assert doubled.wait().eq(size * (size - 1)).all()
    got = torch.zeros(3)
    receive, send = dist.irecv(got, (rank - 1) % size), dist.isend(torch.full((3,), float(rank)), (rank + 1) % size)
    assert receive.get_future().wait()[0].eq((rank - 1) % size).all()
    send.wait()
    assert work.is_completed()
    assert work.is_success()


@case
def a_callback_may_wait_for_the_next_collective() -> None:
    """It runs on the group's own thread, the one that would have to execute that collective (PowerSGD)."""
    size = dist.get_world_size()

    def next_one(_: object) -> torch.Tensor:
        return dist.all_reduce(torch.ones(2), async_op=True).get_future().wait()[0]

    for _ in range(5):
        first = dist.all_reduce(torch.ones(200_000), async_op=True)
        assert first.get_future().then(next_one).wait().eq(size).all()


@case
def a_failing_operation_raises_in_wait_and_future() -> None:
    executor = dist.group.WORLD.executor

    def broken(reads: list[torch.Tensor], writes: list[torch.Tensor]) -> None:
        raise RuntimeError("the wire is cut")

    def start(tensor: torch.Tensor) -> Any:
        return executor.start(Collective("broken", broken, [tensor], [tensor]), None)

    work = start(torch.ones(1))
    raises(RuntimeError, "the wire is cut", work.wait)
    raises(RuntimeError, "the wire is cut", work.wait)
    assert not work.is_success()
    raises(RuntimeError, "the wire is cut", lambda: work.get_future().wait())
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    model.register_comm_hook(
        None,
        lambda state, bucket: start(bucket.buffer()).get_future().then(lambda done: done.value()[0]),
    )
    raises(RuntimeError, "the wire is cut", lambda: model(torch.ones(1, 2)).sum().backward())


@case
def wrong_arguments_raise_at_the_call() -> None:
    size = dist.get_world_size()
    raises(ValueError, "no meaning", lambda: dist.all_reduce(torch.ones(2), dist.ReduceOp.BAND))
    raises(ValueError, "no meaning", lambda: dist.all_reduce(torch.ones(2).bool(), dist.ReduceOp.AVG))
    raises(ValueError, "elements", lambda: all_gather_single(torch.ones(size + 1), torch.ones(1)))
    raises(ValueError, "elements", lambda: reduce_scatter_single(torch.ones(1), torch.ones(size + 1)))
    raises(ValueError, "equal parts", lambda: dist.all_to_all_single(torch.ones(size), torch.ones(size + 1)))
    raises(ValueError, "tensors", lambda: dist.all_gather([torch.ones(1)] * (size + 1), torch.ones(1)))
    dist.barrier()


@case
def a_timeout_raises_and_the_group_goes_on() -> None:
    """Rank 0 comes late: the others' wait() raises, the operation itself completes."""
    rank, size = rank_size()
    group = dist.new_group(list(range(size)), timeout=timedelta(seconds=0.5))
    tensor = torch.ones(2)
    if rank == 0:
        time.sleep(1.5)
        dist.all_reduce(tensor, group=group)
    else:
        raises(RuntimeError, "Timed out after 0.5 s", lambda: dist.all_reduce(tensor, group=group))
    dist.barrier()
    again = torch.ones(2)
    work = dist.all_reduce(again, group=group, async_op=True)
    work.wait(timedelta(seconds=60))
    assert again.eq(size).all()
    assert tensor.eq(size).all()


@case
def mismatches_are_named_in_debug_mode() -> None:
    rank = dist.get_rank()
    executor = dist.group.WORLD.executor
    executor.debug = True
    try:
        dist.all_reduce(torch.ones(3))
        raises(RuntimeError, "rank(s) [0] in call", lambda: dist.all_reduce(torch.ones(3 if rank else 4)))
        if rank == 0:
            raises(RuntimeError, "broadcast(root 0)", lambda: dist.broadcast(torch.ones(3), 0))
        else:
            raises(RuntimeError, "broadcast(root 0)", lambda: dist.all_reduce(torch.ones(3)))
        raises(
            RuntimeError,
            "torch.float64",
            lambda: dist.all_reduce(torch.ones(3, dtype=torch.float64 if rank == 0 else torch.float32)),
        )
    finally:
        executor.debug = debug.enabled()
    dist.barrier()


@case
def swapped_all_reduces_are_named_by_their_lines_in_debug_mode() -> None:
    rank = dist.get_rank()
    executor = dist.group.WORLD.executor

    def first() -> None:
        dist.all_reduce(torch.ones(3))

    def second() -> None:
        dist.all_reduce(torch.full((3,), 10.0))

    os.environ["HPC_ACCEL_MPI_DEBUG"] = "1"
    executor.debug = True
    try:
        first()
        second()
        for function in (first, second):
            line = f"group_cases.py:{function.__code__.co_firstlineno + 1}"
            raises(RuntimeError, line, first if rank == 0 else second)
    finally:
        del os.environ["HPC_ACCEL_MPI_DEBUG"]
        executor.debug = debug.enabled()
    dist.barrier()


@case
def large_counts_on_small_tensors() -> None:
    """The paths for more than 2**31 - 1 elements or bytes, by lowering the limit."""
    rank, size = rank_size()
    limit, buffers.MAX_COUNT = buffers.MAX_COUNT, 10
    buffers._blob.cache_clear()
    try:
        tensor = torch.arange(35.0) + rank
        dist.all_reduce(tensor)
        equal(tensor, torch.arange(35.0) * size + size * (size - 1) / 2)
        tensor = torch.arange(35.0) * (rank == 1)
        dist.broadcast(tensor, 1)
        equal(tensor, torch.arange(35.0))
        whole = torch.zeros(35 * size)
        all_gather_single(whole, torch.arange(35.0) + rank)
        equal(whole.view(size, 35), torch.arange(35.0) + torch.arange(float(size)).view(size, 1))
        share = torch.zeros(35)
        reduce_scatter_single(share, torch.arange(35.0 * size))
        equal(share, (torch.arange(35.0) + 35 * rank) * size)
        got = torch.zeros(35)
        sent = dist.isend(torch.arange(35.0) + rank, (rank + 1) % size)
        dist.recv(got, (rank - 1) % size)
        sent.wait()
        equal(got, torch.arange(35.0) + (rank - 1) % size)
        swapped = torch.zeros(35 * size)
        dist.all_to_all_single(swapped, torch.full((35 * size,), float(rank)))
        equal(swapped, torch.arange(float(size)).repeat_interleave(35))
    finally:
        buffers.MAX_COUNT = limit
        buffers._blob.cache_clear()


@case
def the_timeline_sees_what_happened() -> None:
    rank, size = rank_size()
    timeline.enable()
    dist.all_reduce(torch.ones(1000))
    work = dist.all_reduce(torch.ones(10), async_op=True)
    work.get_future()
    work.wait()
    sent = dist.isend(torch.ones(5), (rank + 1) % size)
    dist.recv(torch.ones(5), (rank - 1) % size)
    sent.wait()
    timeline.disable()
    dist.all_reduce(torch.ones(1))
    events = timeline.drain()
    assert [event.op for event in events] == ["all_reduce", "all_reduce", "send", "recv"], events
    assert [event.num_bytes for event in events] == [4000, 40, 20, 20]
    assert [event.peer for event in events] == [None, None, (rank + 1) % size, (rank - 1) % size]
    assert [event.via_future for event in events] == [False, True, False, False]
    assert all(event.enqueued_ns <= event.started_ns <= event.ended_ns for event in events)
    assert len(events[0].waited_ns) == 1
    assert timeline.drain() == []


@case
def a_second_start_after_the_end() -> None:
    """Last: it replaces the default group."""
    hpc_accel.mpi.shutdown()
    dist.init_process_group("mpi4py")
    one = torch.ones(1)
    dist.all_reduce(one)
    assert one.item() == dist.get_world_size()
    dist.destroy_process_group()
    place = hpc_accel.mpi.init("gloo")
    dist.all_reduce(one)
    assert one.item() == place.size**2
    dist.destroy_process_group()
    assert hpc_accel.mpi.init() == place == hpc_accel.mpi.world()
    assert place.local_size == place.size == mpi().COMM_WORLD.Get_size()


if __name__ == "__main__":
    main()
