"""Device tensors through the backend; two ranks may share one GPU. Run under mpirun where a CUDA device is."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from hpc_accel.mpi import staging
from hpc_accel.mpi.launch import world
from tests.mpi.c10d_cases import all_gather_single, equal, rank_size, reduce_scatter_single
from tests.mpi.cases import case, main
from tests.mpi.parallel_cases import assert_gradients, batch, mlp, my_rows


def on_gpu(*shape: int, value: float) -> torch.Tensor:
    return torch.full(shape, value, device=world().device())


@case
def collectives_on_the_device() -> None:
    rank, size = rank_size()
    total = size * (size + 1) / 2
    # Several chunks, and a last one that is not full.
    numel = 3 * staging.CHUNK_BYTES // 4 + 17
    for dtype in (torch.float32, torch.bfloat16):
        tensor = on_gpu(numel, value=rank + 1.0).to(dtype)
        dist.all_reduce(tensor)
        equal(tensor.cpu(), torch.full((numel,), total))
    tensor = on_gpu(numel, value=float(rank))
    dist.broadcast(tensor, 1)
    assert tensor.eq(1).all()
    whole = on_gpu(5 * size, value=-1.0)
    all_gather_single(whole, on_gpu(5, value=float(rank)))
    equal(whole.cpu(), torch.arange(float(size)).repeat_interleave(5))
    share = on_gpu(5, value=0.0)
    reduce_scatter_single(share, on_gpu(5 * size, value=2.0))
    assert share.eq(2 * size).all()
    strided = on_gpu(4, 6, value=rank + 1.0)[:, ::2]
    dist.all_reduce(strided)
    assert strided.eq(total).all()


@case
def messages_on_the_device() -> None:
    rank, size = rank_size()
    got = on_gpu(1000, value=-1.0)
    works = [dist.isend(on_gpu(1000, value=float(rank)), (rank + 1) % size), dist.irecv(got, (rank - 1) % size)]
    for work in works:
        work.wait()
    assert got.eq((rank - 1) % size).all()


@case
def results_wait_for_the_stream() -> None:
    """The input is still being computed when the call is made, and the result is used without a synchronisation."""
    _, size = rank_size()
    side = torch.Stream(device=world().device())
    with side:
        a = on_gpu(2048, 2048, value=1.0)
        for _ in range(20):
            a = a @ a / 2048
        work = dist.all_reduce(a, async_op=True)
        work.wait()
        b = a * 2
    side.synchronize()
    assert b.eq(2 * size).all()


@case
def ddp_on_the_device() -> None:
    model = nn.parallel.DistributedDataParallel(mlp().to(world().device()))
    x, y = (t.to(world().device()) for t in batch())
    rows = my_rows(*rank_size())
    nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
    assert_gradients(model.module.cpu())


if __name__ == "__main__":
    main()
