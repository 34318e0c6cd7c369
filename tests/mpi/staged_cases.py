"""The way of device tensors: on a GPU where there is one, else on a pretended device. Run under mpirun."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist
from torch import nn

from hpc_accel.measure.phases import exposed_ns
from hpc_accel.mpi import staging, timeline
from hpc_accel.mpi.launch import world
from tests.mpi import stand_in
from tests.mpi.c10d_cases import all_gather_single, equal, rank_size, reduce_scatter_single
from tests.mpi.cases import case, main
from tests.mpi.parallel_cases import assert_gradients, batch, mlp, my_rows

NUMEL = 2 * staging.CHUNK_BYTES // 4 + 17
"""Several chunks, and a last one that is not full."""


@case
def tensors_that_want_gradients() -> None:
    """A pipeline's receive buffer wants gradients and is used again at every step; so do parameters."""
    rank, size = rank_size()
    other = (rank + 1) % size
    buffer = torch.zeros(1000, requires_grad=True)
    for step in range(3):
        sent = torch.full((1000,), rank + 10.0 * step) * nn.Parameter(torch.ones(1000))
        for each in (dist.isend(sent, other), dist.irecv(buffer, (rank - 1) % size)):
            each.wait()
        assert buffer.detach().eq((rank - 1) % size + 10.0 * step).all()
    parameter = nn.Parameter(torch.full((NUMEL,), float(rank)))
    dist.broadcast(parameter, 1)
    assert parameter.detach().eq(1).all()
    assert parameter.is_leaf
    loss = (nn.Parameter(torch.ones(4)) * (rank + 1.0)).sum()
    with torch.no_grad():
        dist.all_reduce(loss, async_op=True).wait()
    assert loss.item() == 4 * size * (size + 1) / 2


@case
def tensors_of_inference_mode() -> None:
    """The queue's thread is in no mode of the caller's."""
    rank, size = rank_size()
    with torch.inference_mode():
        tensor = torch.full((NUMEL,), rank + 1.0)
    dist.all_reduce(tensor, async_op=True).wait()
    assert tensor[-1].item() == size * (size + 1) / 2


@case
def strides_may_differ_between_ranks() -> None:
    """One rank's tensor lies channels last, the other's does not: both send the same number of pieces."""
    rank, size = rank_size()
    values = torch.arange(2 * 8 * 512 * 257, dtype=torch.float32).view(2, 8, 512, 257) / 1e6
    own = values.contiguous(memory_format=torch.channels_last) if rank == 0 else values.clone()
    dist.all_reduce(own)
    equal(own.cpu(), (values * size).cpu())
    own = (values * (rank + 1)).contiguous(memory_format=torch.channels_last) if rank else values.clone()
    dist.broadcast(own, 0)
    equal(own.cpu(), values.cpu())


@case
def threads_do_not_share_a_stream_object() -> None:
    """A group's own thread copies for collectives while the caller's copies for messages."""
    rank, size = rank_size()
    works = []
    for step in range(200):
        reduced = torch.full((100,), rank + 1.0)
        works.append((dist.all_reduce(reduced, async_op=True), reduced))
        got = torch.zeros(100)
        for each in (
            dist.isend(torch.full((100,), float(step)), (rank + 1) % size),
            dist.irecv(got, (rank - 1) % size),
        ):
            each.wait()
        assert got.eq(step).all()
    for work, reduced in works:
        work.wait()
        assert reduced.eq(size * (size + 1) / 2).all()
    assert not stand_in.clashes


@case
def a_future_of_nothing() -> None:
    """gather gives the ranks other than the root no tensor, and their future is fulfilled all the same."""
    rank, size = rank_size()
    parts = [torch.zeros(3) for _ in range(size)] if rank == 0 else None
    work = dist.gather(torch.full((3,), float(rank)), parts, dst=0, async_op=True)
    assert len(work.get_future().wait()) == (size if rank == 0 else 0)
    dist.barrier()


@case
def collectives_and_ddp() -> None:
    rank, size = rank_size()
    whole = torch.full((5 * size,), -1.0)
    all_gather_single(whole, torch.full((5,), float(rank)))
    equal(whole.cpu(), torch.arange(float(size)).repeat_interleave(5).cpu())
    share = torch.zeros(5)
    reduce_scatter_single(share, torch.full((5 * size,), 2.0))
    assert share.eq(2 * size).all()
    here = torch.get_default_device()
    with torch.device("cpu"):  # the same numbers as the serial model's, whatever the device draws
        model, (x, y) = nn.parallel.DistributedDataParallel(mlp().to(here)), batch()
        rows = my_rows(rank, size)
        nn.functional.mse_loss(model(x[rows].to(here)), y[rows].to(here)).backward()
        assert_gradients(model.module.cpu())


def compute_for_50_ms() -> None:
    if not torch.cuda.is_available():
        stand_in.busy_s(0.05)
        return
    clock_khz = torch.cuda.get_device_properties().clock_rate
    torch.cuda._sleep(round(0.05 * clock_khz * 1e3))


@case
def computing_is_not_communication() -> None:
    """The device still computes an all-reduce's input for 50 ms when the host calls: that is no waiting."""
    timeline.enable()
    dist.all_reduce(torch.ones(10), async_op=True).wait()
    dist.all_reduce(torch.ones(10))  # makes the anchor while the device is idle
    timeline.drain()
    for wait_later in (False, True):
        dist.barrier()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begin = time.perf_counter_ns()
        compute_for_50_ms()
        work = dist.all_reduce(torch.ones(10), async_op=wait_later)
        if work is not None:
            work.wait()
        (event,) = [each for each in timeline.drain() if each.op == "all_reduce"]
        seen = exposed_ns([event], begin, time.perf_counter_ns())
        assert event.enqueued_ns - begin >= 49e6, event
        assert seen.collective_ns < 30e6, (wait_later, seen)
        assert seen.overlapped_ns < 30e6, (wait_later, seen)
    timeline.disable()


if __name__ == "__main__":
    if torch.cuda.is_available():
        torch.set_default_device(world().device())
        torch.cuda.set_device(world().device())
    else:
        stand_in.pretend()
    main()
