"""Every c10d collective against values computed without communication: dtypes, operations, uneven and odd shapes."""

from __future__ import annotations

import torch
import torch.distributed as dist

from tests.mpi.cases import case, main

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
COMPLEX = [torch.complex64, torch.complex128]
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]
WIRE = [torch.bool, *INTEGERS, *FLOATS, *COMPLEX, *FP8]
FOLD = {
    "SUM": lambda v: sum(v[1:], v[0]),
    "PRODUCT": lambda v: torch.stack(v).prod(0),
    "MIN": lambda v: torch.stack(v).amin(0),
    "MAX": lambda v: torch.stack(v).amax(0),
}
# More elements than the limit below which a low-precision sum is widened, and not divisible by 2, 3 or 4.
LARGE = 40_001

# torch 2.11 has the second names only, 2.13 warns about them.
all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def rank_size() -> tuple[int, int]:
    return dist.get_rank(), dist.get_world_size()


def values(rank: int, dtype: torch.dtype, numel: int = 7) -> torch.Tensor:
    """Small whole numbers that differ by rank and place, exact in every dtype, sums included."""
    base = (torch.arange(numel) + 3 * rank) % 5 + 1
    if dtype is torch.bool:
        return base % 2 == 0
    if dtype.is_complex:
        return torch.complex(base.double(), -base.double()).to(dtype)
    return base.to(torch.float32).to(dtype)


def wide(dtype: torch.dtype) -> torch.dtype:
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else torch.int64


def equal(mine: torch.Tensor, expected: torch.Tensor) -> None:
    assert mine.shape == expected.shape, (mine.shape, expected.shape)
    a, b = mine.to(wide(mine.dtype)), expected.to(mine.dtype).to(wide(mine.dtype))
    assert torch.equal(a, b), f"{mine.dtype}: {a.flatten()[:8]} is not {b.flatten()[:8]}"


def folded(op: str, dtype: torch.dtype, numel: int = 7) -> torch.Tensor:
    return FOLD[op]([values(r, dtype, numel).to(wide(dtype)) for r in range(dist.get_world_size())])


@case
def all_reduce_every_dtype_and_operation() -> None:
    rank, _ = rank_size()
    for dtype in [*INTEGERS, *FLOATS]:
        for op in FOLD:
            tensor = values(rank, dtype)
            dist.all_reduce(tensor, getattr(dist.ReduceOp, op))
            equal(tensor, folded(op, dtype))
    for dtype in [*COMPLEX, *FP8]:
        tensor = values(rank, dtype)
        dist.all_reduce(tensor)
        equal(tensor, folded("SUM", dtype))


@case
def all_reduce_bits_and_booleans() -> None:
    rank, size = rank_size()
    for op, fold in (("BAND", torch.bitwise_and), ("BOR", torch.bitwise_or), ("BXOR", torch.bitwise_xor)):
        for dtype in (torch.uint8, torch.int32, torch.int64, torch.bool):
            tensor = values(rank, dtype)
            expected = values(0, dtype)
            for other in range(1, size):
                expected = fold(expected, values(other, dtype))
            dist.all_reduce(tensor, getattr(dist.ReduceOp, op))
            equal(tensor, expected)
    tensor = values(rank, torch.bool)
    dist.all_reduce(tensor)
    equal(tensor, torch.stack([values(r, torch.bool) for r in range(size)]).any(0))


@case
def all_reduce_average_and_premultiplied() -> None:
    rank, size = rank_size()
    for dtype in FLOATS:
        tensor = values(rank, dtype)
        dist.all_reduce(tensor, dist.ReduceOp.AVG)
        equal(tensor, folded("SUM", dtype) / size)
    tensor = values(rank, torch.float32)
    dist.all_reduce(tensor, torch._C._distributed_c10d._make_nccl_premul_sum(0.5))
    equal(tensor, folded("SUM", torch.float32) * 0.5)


@case
def low_precision_sums_round_once() -> None:
    """A bf16 sum of 256 and ones loses every one of them unless it accumulates wider."""
    rank, size = rank_size()
    for dtype, big in ((torch.bfloat16, 256.0), (torch.float16, 2048.0)):
        for numel in (5, LARGE):
            tensor = torch.full((numel,), big if rank == 0 else 1.0, dtype=dtype)
            dist.all_reduce(tensor)
            equal(tensor, torch.full((numel,), big + size - 1, dtype=torch.float64))
            average = values(rank, dtype, numel)
            dist.all_reduce(average, dist.ReduceOp.AVG)
            equal(average, folded("SUM", dtype, numel) / size)


@case
def all_reduce_is_identical_on_all_ranks() -> None:
    torch.manual_seed(dist.get_rank())
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.randn(LARGE).to(dtype)
        dist.all_reduce(tensor)
        copies = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(copies, tensor)
        assert all(torch.equal(copies[0], other) for other in copies)


@case
def strided_and_empty_tensors() -> None:
    rank, size = rank_size()
    whole = torch.zeros(4, 6)
    whole[:, ::2] = rank + 1
    dist.all_reduce(whole[:, ::2])
    assert whole[:, ::2].eq(size * (size + 1) / 2).all()
    assert whole[:, 1::2].eq(0).all()
    transposed = torch.arange(6.0).view(2, 3).t() * (rank == 0)
    dist.broadcast(transposed, 0)
    equal(transposed, torch.arange(6.0).view(2, 3).t())
    parts = [torch.zeros(3, 2).t() for _ in range(size)]
    dist.all_gather(parts, torch.full((2, 3), float(rank)).t().contiguous().t())
    for other, part in enumerate(parts):
        equal(part, torch.full((2, 3), float(other)))
    if rank == 0:
        dist.send(torch.arange(6.0).view(2, 3).t(), 1)
    elif rank == 1:
        strided = torch.zeros(6, 3)[::2, ::2][:3].requires_grad_()  # as the buffers of pipeline stages do
        dist.recv(strided, 0)
        equal(strided.detach(), torch.arange(6.0).view(2, 3).t())
    empty = torch.empty(0, 3)
    dist.all_reduce(empty)
    dist.broadcast(empty, 0)
    dist.all_gather([torch.empty(0) for _ in range(size)], torch.empty(0))
    all_gather_single(torch.empty(0), torch.empty(0))
    reduce_scatter_single(torch.empty(0), torch.empty(0))
    dist.all_to_all_single(torch.empty(0), torch.empty(0))
    if rank == 0:
        dist.send(torch.empty(0), 1)
    elif rank == 1:
        dist.recv(torch.empty(0), 0)


@case
def broadcast_every_dtype_from_every_root() -> None:
    rank, size = rank_size()
    for dtype in WIRE:
        for root in range(size):
            tensor = values(rank, dtype)
            dist.broadcast(tensor, root)
            equal(tensor, values(root, dtype))


@case
def reduce_to_every_root_leaves_the_others() -> None:
    rank, size = rank_size()
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        for root in range(size):
            tensor = values(rank, dtype)
            dist.reduce(tensor, root)
            equal(tensor, folded("SUM", dtype) if rank == root else values(rank, dtype))


@case
def all_gather_lists_tensors_uneven() -> None:
    rank, size = rank_size()
    for dtype in WIRE:
        parts = [torch.zeros(7, dtype=torch.uint8).to(dtype) for _ in range(size)]
        dist.all_gather(parts, values(rank, dtype))
        for other, part in enumerate(parts):
            equal(part, values(other, dtype))
        whole = torch.zeros(7 * size, dtype=torch.uint8).to(dtype)
        all_gather_single(whole, values(rank, dtype))
        equal(whole.view(torch.uint8), torch.cat([values(r, dtype).view(torch.uint8) for r in range(size)]))
    uneven = [torch.zeros(r + 1) for r in range(size)]
    dist.all_gather(uneven, torch.full((rank + 1,), float(rank)))
    for other, part in enumerate(uneven):
        equal(part, torch.full((other + 1,), float(other)))


@case
def all_gather_into_its_own_input() -> None:
    """FSDP2 hands a slice of the output as input."""
    rank, size = rank_size()
    whole = torch.full((size * 5,), -1.0)
    mine = whole.narrow(0, rank * 5, 5)
    mine.fill_(float(rank))
    all_gather_single(whole, mine)
    equal(whole.view(size, 5), torch.arange(float(size)).view(size, 1).expand(size, 5))
    shifted = torch.arange(float(size * 5))
    expected = torch.arange(5.0).repeat(size)
    all_gather_single(shifted, shifted.narrow(0, 0, 5))
    equal(shifted, expected)


@case
def reduce_scatter_lists_tensors_uneven() -> None:
    rank, size = rank_size()
    for dtype in (torch.float32, torch.bfloat16, torch.int32, torch.float64, torch.float16):
        for op, fold in FOLD.items():
            output = torch.zeros(7, dtype=dtype)
            dist.reduce_scatter(output, [values(rank + r, dtype) for r in range(size)], getattr(dist.ReduceOp, op))
            expected = fold([values(other + rank, dtype).to(wide(dtype)) for other in range(size)])
            equal(output, expected)
            output.zero_()
            source = torch.cat([values(rank + r, dtype) for r in range(size)])
            reduce_scatter_single(output, source, getattr(dist.ReduceOp, op))
            equal(output, expected)
    output = torch.zeros(3)
    reduce_scatter_single(output, torch.ones(3 * size) * rank, dist.ReduceOp.AVG)
    equal(output, torch.full((3,), (size - 1) / 2))
    uneven = torch.zeros(rank + 2)
    dist.reduce_scatter(uneven, [torch.full((r + 2,), float(r)) for r in range(size)])
    equal(uneven, torch.full((rank + 2,), float(rank * size)))


@case
def premultiplied_reduce_scatter_keeps_its_input() -> None:
    size = dist.get_world_size()
    for dtype in (torch.float32, torch.bfloat16):
        source, output = torch.ones(4 * size, dtype=dtype), torch.zeros(4, dtype=dtype)
        reduce_scatter_single(output, source, torch._C._distributed_c10d._make_nccl_premul_sum(0.25))
        equal(output, torch.full((4,), size / 4))
        equal(source, torch.ones(4 * size))


@case
def gather_and_scatter_from_every_root() -> None:
    rank, size = rank_size()
    for dtype in WIRE:
        for root in range(size):
            here = rank == root
            parts = [torch.zeros(7, dtype=torch.uint8).to(dtype) for _ in range(size)] if here else None
            dist.gather(values(rank, dtype), parts, root)
            for other, part in enumerate(parts or []):
                equal(part, values(other, dtype))
            mine = torch.zeros(7, dtype=torch.uint8).to(dtype)
            dist.scatter(mine, [values(r + root, dtype) for r in range(size)] if here else None, root)
            equal(mine, values(rank + root, dtype))


@case
def all_to_all_even_and_uneven() -> None:
    rank, size = rank_size()
    for dtype in WIRE:
        output = torch.zeros(size * 2, dtype=torch.uint8).to(dtype)
        source = torch.cat([values(rank * size + r, dtype, 2) for r in range(size)])
        dist.all_to_all_single(output, source)
        for other in range(size):
            equal(output[2 * other : 2 * other + 2], values(other * size + rank, dtype, 2))
    output = torch.zeros(sum(r + 1 for r in range(size)), 2)
    source = torch.full((size * (rank + 1), 2), float(rank))
    dist.all_to_all_single(output, source, [r + 1 for r in range(size)], [rank + 1] * size)
    equal(output, torch.cat([torch.full((r + 1, 2), float(r)) for r in range(size)]))
    outputs = [torch.zeros(rank + 1) for _ in range(size)]
    dist.all_to_all(outputs, [torch.full((r + 1,), float(rank)) for r in range(size)])
    for other, part in enumerate(outputs):
        equal(part, torch.full((rank + 1,), float(other)))


@case
def sparse_sums() -> None:
    rank, size = rank_size()
    places = torch.tensor([[0, rank + 1], [rank, 1]])
    tensor = torch.sparse_coo_tensor(places, torch.tensor([1.0, 2.0]), (size + 1, size + 1))
    expected = torch.zeros(size + 1, size + 1)
    for other in range(size):
        expected[0, other] += 1.0
        expected[other + 1, 1] += 2.0
    dist.all_reduce(tensor)
    equal(tensor.to_dense(), expected)


@case
def coalesced_forms() -> None:
    rank, size = rank_size()
    total = size * (size + 1) / 2
    with dist.distributed_c10d._coalescing_manager() as _:
        tensors = [torch.full((n + 1,), float(rank + 1)) for n in range(3)]
        for tensor in tensors:
            dist.all_reduce(tensor)
    for tensor in tensors:
        assert tensor.eq(total).all()
    with dist.distributed_c10d._coalescing_manager(async_ops=True) as manager:
        wholes = [torch.zeros(size * (n + 1)) for n in range(3)]
        for n, whole in enumerate(wholes):
            all_gather_single(whole, torch.full((n + 1,), float(rank)))
    manager.wait()
    for n, whole in enumerate(wholes):
        equal(whole, torch.arange(float(size)).repeat_interleave(n + 1))
    with dist.distributed_c10d._coalescing_manager() as _:
        shares = [torch.zeros(n + 1) for n in range(3)]
        for n, share in enumerate(shares):
            reduce_scatter_single(share, torch.ones(size * (n + 1)))
    for share in shares:
        assert share.eq(size).all()
    with dist.distributed_c10d._coalescing_manager(device=torch.device("cpu"), async_ops=True) as manager:
        one = torch.ones(2)
        dist.broadcast(one, 0, async_op=True)
    manager.wait()
    lists = [[torch.zeros(2), torch.zeros(3)] for _ in range(size)]
    dist.all_gather_coalesced(lists, [torch.full((2,), float(rank)), torch.full((3,), float(-rank))])
    for other, (two, three) in enumerate(lists):
        equal(two, torch.full((2,), float(other)))
        equal(three, torch.full((3,), float(-other)))


@case
def functional_collectives() -> None:
    import torch.distributed._functional_collectives as funcol

    rank, size = rank_size()
    group = dist.group.WORLD
    tensor = torch.full((size,), float(rank + 1))
    equal(funcol.all_reduce(tensor, "sum", group).clone(), torch.full((size,), size * (size + 1) / 2))
    equal(funcol.all_reduce(tensor, "avg", group).clone(), torch.full((size,), (size + 1) / 2))
    gathered = funcol.all_gather_tensor(torch.full((2,), float(rank)), 0, group)
    equal(gathered.clone(), torch.arange(float(size)).repeat_interleave(2))
    equal(funcol.reduce_scatter_tensor(torch.ones(size * 2), "sum", 0, group).clone(), torch.full((2,), float(size)))
    swapped = funcol.all_to_all_single(torch.full((size,), float(rank)), None, None, group)
    equal(swapped.clone(), torch.arange(float(size)))
    equal(funcol.broadcast(tensor, 0, group).clone(), torch.ones(size))
    several = funcol.all_reduce_coalesced([torch.ones(2), torch.ones(3)], "sum", group)
    assert [t.sum().item() for t in several] == [2.0 * size, 3.0 * size]
    several = funcol.all_gather_into_tensor_coalesced([torch.ones(2), torch.ones(3)], group)
    assert [t.numel() for t in several] == [2 * size, 3 * size]
    several = funcol.reduce_scatter_tensor_coalesced([torch.ones(2 * size)], "sum", [0], group)
    assert several[0].tolist() == [float(size)] * 2


@case
def objects() -> None:
    rank, size = rank_size()
    gathered: list[object] = [None] * size
    dist.all_gather_object(gathered, {"rank": rank, "text": "x" * rank})
    assert gathered == [{"rank": r, "text": "x" * r} for r in range(size)]
    shared = [{"a": 1}, "b"] if rank == 1 else [None, None]
    dist.broadcast_object_list(shared, src=1)
    assert shared == [{"a": 1}, "b"]
    mine: list[object] = [None]
    dist.scatter_object_list(mine, [f"for {r}" for r in range(size)] if rank == 0 else None, src=0)
    assert mine == [f"for {rank}"]
    at_root = [None] * size if rank == 0 else None
    dist.gather_object(rank, at_root, dst=0)
    assert at_root is None or at_root == list(range(size))


if __name__ == "__main__":
    main()
