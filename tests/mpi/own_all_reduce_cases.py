"""Our own all-reduce, inside a node and between nodes, against the library's: every dtype and operation, shapes that
divide by nothing, several groups. Chunks are made small, so that small tensors take many steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import hpc_accel.mpi
from hpc_accel.mpi import all_reduce, collectives, node_exchange, node_memory, shared_all_reduce
from hpc_accel.mpi.all_reduce import AllReducer
from hpc_accel.mpi.elementwise import LOW, can
from hpc_accel.mpi.node_memory import PRETENDED
from hpc_accel.mpi.reductions import resolve
from tests.mpi.c10d_cases import COMPLEX, FLOATS, FP8, INTEGERS, equal, rank_size, values
from tests.mpi.cases import case, main
from tests.mpi.group_cases import raises

# Elements: nothing, fewer than ranks, one step, a last step of one element, many steps, none a multiple of the ranks.
SIZES = (0, 1, 3, 257, 1025, 4097, 10_007)
OPERATIONS = ("SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR")

shared_all_reduce.CHUNK_BYTES = node_exchange.CHUNK_BYTES = 4096
shared_all_reduce.MIN_BYTES = shared_all_reduce.LOW_MIN_BYTES = all_reduce.SHARE_FROM_BYTES = 0


def own_way(group: Any = None) -> AllReducer:
    """The group's reducer, whose own way is opened by an all-reduce if it is not yet."""
    dist.all_reduce(torch.ones(8), group=group)
    reducer: AllReducer = (group or dist.group.WORLD).executor.reducer
    assert has_own_way(reducer)
    return reducer


def has_own_way(reducer: AllReducer) -> bool:
    return reducer.shared is not None or reducer.exchange is not None


def library(tensor: torch.Tensor, operation: str) -> torch.Tensor:
    """The library's result for a copy of `tensor`."""
    copy = tensor.clone()
    reduction = resolve(getattr(dist.ReduceOp, operation), tensor.dtype)
    collectives.all_reduce(dist.group.WORLD.executor.comm, copy, reduction)
    return copy


def same_on_all(tensor: torch.Tensor) -> None:
    copies = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(copies, tensor)
    assert all(torch.equal(copies[0].view(torch.uint8), other.view(torch.uint8)) for other in copies)


@case
def every_dtype_and_operation_equals_the_library() -> None:
    rank, _ = rank_size()
    own_way()
    taken = set()
    for dtype in [torch.bool, *INTEGERS, *FLOATS, *COMPLEX, *FP8]:
        for operation in OPERATIONS:
            if operation == "AVG" and not dtype.is_floating_point and not dtype.is_complex:
                continue  # torch itself cannot divide every integer; those that it can are never taken
            try:
                reduction = resolve(getattr(dist.ReduceOp, operation), dtype)
            except ValueError:
                continue
            for numel in SIZES:
                tensor = values(rank, dtype, numel)
                expected = library(tensor, operation)
                if can(dtype, reduction):
                    taken.add((dtype, operation))
                dist.group.WORLD.executor.reducer.all_reduce(tensor, reduction)
                equal(tensor, expected)
    assert len(taken) == 8 * 7 + 4 * 5 + 2 * 2, sorted(map(str, taken))


@case
def random_sums_have_the_same_bits_everywhere() -> None:
    rank, _ = rank_size()
    own_way()
    torch.manual_seed(rank)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for numel in SIZES[1:]:
            tensor = torch.randn(numel).to(dtype)
            expected = library(tensor, "SUM").double()
            dist.all_reduce(tensor)
            same_on_all(tensor)
            assert torch.allclose(tensor.double(), expected, rtol=1e-2 if dtype in LOW else 1e-5, atol=1e-5)
    # Of -0 and +0, and of two NaNs, the order of the operands decides.
    for operation in (dist.ReduceOp.SUM, dist.ReduceOp.MIN, dist.ReduceOp.MAX, dist.ReduceOp.PRODUCT):
        zeros = torch.full((3001,), -0.0 if rank % 2 else 0.0)
        dist.all_reduce(zeros, operation)
        same_on_all(zeros)
        nans = torch.full((3001,), 0x7FC00000 + 1 + rank, dtype=torch.int32).view(torch.float32)
        assert nans.isnan().all()
        dist.all_reduce(nans, operation)
        same_on_all(nans)


@case
def low_precision_rounds_once() -> None:
    """256 and ones in bf16: every one is lost unless they are added wider."""
    rank, size = rank_size()
    own_way()
    for dtype, big in ((torch.bfloat16, 256.0), (torch.float16, 2048.0)):
        tensor = torch.full((5001,), big if rank == 0 else 1.0, dtype=dtype)
        dist.all_reduce(tensor)
        equal(tensor, torch.full((5001,), big + size - 1, dtype=torch.float64))
    # The sum is beyond fp16, the mean is not.
    tensor = torch.full((5001,), 60_000.0, dtype=torch.float16)
    dist.all_reduce(tensor, dist.ReduceOp.AVG)
    equal(tensor, torch.full((5001,), 60_000.0))


@case
def premultiplied_averaged_strided_and_asynchronous() -> None:
    rank, size = rank_size()
    own_way()
    total = size * (size + 1) / 2
    tensor = torch.full((3001,), rank + 1.0)
    dist.all_reduce(tensor, torch._C._distributed_c10d._make_nccl_premul_sum(0.5))
    equal(tensor, torch.full((3001,), total / 2))
    parameter = torch.nn.Parameter(torch.full((3001,), rank + 1.0))
    dist.all_reduce(parameter)
    equal(parameter.detach(), torch.full((3001,), total))
    whole = torch.full((50, 60), rank + 1.0)
    dist.all_reduce(whole[:, ::2], dist.ReduceOp.AVG)
    assert whole[:, ::2].eq(total / size).all()
    assert whole[:, 1::2].eq(rank + 1).all()
    tensors = [torch.full((n,), rank + 1.0) for n in (5000, 3, 1234)]
    works = [dist.all_reduce(one, async_op=True) for one in tensors]
    for work in works:
        assert work.get_future().wait()[0].eq(total).all()


@case
def groups_in_turn_and_at_once() -> None:
    """Two queues filled in different order on different ranks, and groups of other members in between."""
    rank, size = rank_size()
    one, other = dist.new_group(list(range(size))), dist.new_group(list(range(size))[::-1], sort_ranks=False)
    for _ in range(3):
        order = [one, other] if rank % 2 else [other, one]
        tensors = [torch.ones(20_011) for _ in range(6)]
        works = [dist.all_reduce(t, group=order[i % 2], async_op=True) for i, t in enumerate(tensors)]
        for work in works:
            work.wait()
        assert all(tensor.eq(size).all() for tensor in tensors)
    own_way(one)
    own_way(other)
    pair = dist.new_group([0, 1])
    if rank < 2:
        tensor = torch.full((9999,), rank + 1.0)
        dist.all_reduce(tensor, group=pair)
        assert tensor.eq(3).all()
        dist.destroy_process_group(pair)
    alone = [dist.new_group([r]) for r in range(size)][rank]
    tensor = torch.full((9999,), 7.0)
    dist.all_reduce(tensor, group=alone)
    assert tensor.eq(7).all()
    assert not has_own_way(alone.executor.reducer)
    dist.destroy_process_group(one)
    tensor = torch.ones(9999)
    dist.all_reduce(tensor, group=other)
    assert tensor.eq(size).all()


@case
def different_calls_raise_on_all_ranks_and_the_group_goes_on() -> None:
    rank, size = rank_size()
    own_way()
    raises(RuntimeError, "the ranks differ", lambda: dist.all_reduce(torch.ones(9000 if rank else 8000)))
    raises(
        RuntimeError,
        "the ranks differ",
        lambda: dist.all_reduce(torch.ones(9000, dtype=torch.float64 if rank else torch.float32)),
    )
    work = dist.all_reduce(torch.ones(9000), dist.ReduceOp.MAX if rank else dist.ReduceOp.SUM, async_op=True)
    raises(RuntimeError, "the ranks differ", work.wait)
    for _ in range(3):
        tensor = torch.ones(9000)
        dist.all_reduce(tensor)
        assert tensor.eq(size).all()


@case
def without_the_memory_the_library_does_it() -> None:
    """One rank cannot have it, or the user does not want it: no rank uses it, and nothing is left behind.

    One rank per node needs none.
    """
    rank, size = rank_size()
    needs_none = os.environ.get(PRETENDED) == "1"
    before = set(Path("/dev/shm").glob("hpc-accel-*"))
    directory = node_memory.DIRECTORY
    if rank == 0:
        node_memory.DIRECTORY = Path("/nowhere")
    missing = dist.new_group(list(range(size)))
    tensor = torch.ones(9999)
    dist.all_reduce(tensor, group=missing)
    assert tensor.eq(size).all()
    assert has_own_way(missing.executor.reducer) == needs_none
    node_memory.DIRECTORY = directory
    os.environ[node_memory.SWITCH] = "0"
    unwanted = dist.new_group(list(range(size)))
    dist.all_reduce(tensor, group=unwanted)
    assert tensor.eq(size * size).all()
    assert has_own_way(unwanted.executor.reducer) == needs_none
    del os.environ[node_memory.SWITCH]
    dist.barrier()
    assert set(Path("/dev/shm").glob("hpc-accel-*")) <= before


@case
def nodes_are_told_apart() -> None:
    _, size = rank_size()
    reducer, per_node = own_way(), int(os.environ.get(PRETENDED, size))
    assert (reducer.exchange is not None) == (per_node < size)
    node = reducer._node
    assert node is not None
    assert node.num_nodes == -(-size // per_node)
    assert node.num_owners == (size % per_node or per_node)


@case
def memory_after_a_second_start() -> None:
    """Last: it replaces the default group."""
    for _ in range(2):
        hpc_accel.mpi.shutdown()
        dist.init_process_group("mpi4py")
        tensor = torch.ones(9999)
        dist.all_reduce(tensor)
        assert tensor.eq(dist.get_world_size()).all()
        own_way()


if __name__ == "__main__":
    main()
