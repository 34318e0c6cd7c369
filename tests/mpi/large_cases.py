"""More than 2**31 - 1 elements for real: about 10 GiB of memory on two ranks, so not part of `make test`.

mpirun -n 2 python -m mpi4py tests/mpi/large_cases.py
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from tests.mpi.c10d_cases import rank_size
from tests.mpi.cases import case, main

NUMEL = 2**31 + 5


def check_ends(tensor: torch.Tensor, value: int) -> None:
    assert [int(tensor[i]) for i in (0, 2**30, 2**31 - 2, 2**31 + 4)] == [value] * 4


@case
def all_reduce_of_more_than_2_gib() -> None:
    rank, size = rank_size()
    tensor = torch.full((NUMEL,), rank + 1, dtype=torch.uint8)
    dist.all_reduce(tensor)
    check_ends(tensor, size * (size + 1) // 2)


@case
def broadcast_and_message_of_more_than_2_gib() -> None:
    rank, _ = rank_size()
    tensor = torch.full((NUMEL,), rank + 7, dtype=torch.uint8)
    dist.broadcast(tensor, 0)
    check_ends(tensor, 7)
    if rank == 0:
        dist.send(tensor.fill_(9), 1)
    elif rank == 1:
        dist.recv(tensor, 0)
        check_ends(tensor, 9)


@case
def all_gather_of_more_than_2_gib() -> None:
    rank, size = rank_size()
    part = NUMEL // size + 1
    whole = torch.zeros(part * size, dtype=torch.uint8)
    dist.all_gather_into_tensor(whole, torch.full((part,), rank + 1, dtype=torch.uint8))
    assert [int(whole[r * part]) for r in range(size)] == [r + 1 for r in range(size)]
    assert [int(whole[(r + 1) * part - 1]) for r in range(size)] == [r + 1 for r in range(size)]


if __name__ == "__main__":
    main()
