"""`mpirun -n 2 python overflow.py`: gradients overflow on one rank, and both skip the same step and scale alike."""

import torch
import torch.distributed as dist
from mpi4py import MPI

import hpc_accel.mpi
from hpc_accel.runtime.precision import make_scaler

CPU = torch.device("cpu")


def trained(rank, make, overflows_at):
    """This rank's weights after each of three steps, and the loss scale."""
    scaler = make_scaler("fp16", CPU)
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = make(weight, rank)
    found = []
    for step in range(3):
        weight.grad = torch.full((4,), float("inf") if (step, rank) == overflows_at else scaler.get_scale())
        scaler.step_together(optimizer)
        found.append(weight.detach().clone())
    return found, scaler.get_scale()


def nothing_on_rank_0(weight, rank):
    return torch.optim.SGD([weight], lr=0.1) if rank else None


def kinds():
    for fused in (False, True):
        yield lambda weight, rank, fused=fused: torch.optim.SGD([weight], lr=0.1, fused=fused)
        yield lambda weight, rank, fused=fused: torch.optim.AdamW([weight], lr=0.1, fused=fused)
    yield nothing_on_rank_0


hpc_accel.mpi.init("mpi4py", expected_size=2)
comm, mine = MPI.COMM_WORLD, dist.get_rank()
for make in kinds():
    (first, second, third), scale = trained(mine, make, (1, 1))
    assert comm.allgather(scale) == [2.0**11] * 2, "both halve the scale"
    assert torch.equal(first, second), "skipped"
    assert not torch.equal(second, third) or (make is nothing_on_rank_0 and mine == 0)
hpc_accel.mpi.shutdown()
