"""Ranks for test_exchange.py: each exchange's backward beside differences of the loss of all ranks together.

Every rank computes its own part of one loss. A difference moves one element, on one rank where each has states of its
own, on all where they hold the same, and looks at the whole loss. Rank 0 prints the largest relative errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
import torch.distributed as dist

import hpc_accel.mpi
from hpc_accel.parallel import exchange

STEP = 1e-4
"""The losses are linear, so a difference is exact but for rounding."""
SHAPE = (4, 6)


def states_of(rank: int, *, is_shared: bool) -> torch.Tensor:
    """The input of a rank; the same on all where it is shared."""
    generator = torch.Generator().manual_seed(0 if is_shared else rank)
    return torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def loss_of(output: torch.Tensor, *, is_alike: bool) -> torch.Tensor:
    """This rank's part of the loss; where all compute the same with the output, each has the whole loss."""
    generator = torch.Generator().manual_seed(100 if is_alike else 100 + dist.get_rank())
    return (output * torch.randn(output.shape, generator=generator, dtype=torch.float64)).sum()


def largest_error(operation: Callable[[torch.Tensor], torch.Tensor], *, is_shared: bool, is_alike: bool) -> float:
    """Of the gradients of this rank's input, relative to the largest."""
    rank, size = dist.get_rank(), dist.get_world_size()
    states = states_of(rank, is_shared=is_shared).requires_grad_()
    loss_of(operation(states), is_alike=is_alike).backward()

    def whole_loss(moved: torch.Tensor) -> float:
        value = loss_of(operation(moved), is_alike=is_alike)
        if not is_alike:
            dist.all_reduce(value)
        return float(value)

    expected = torch.zeros(SHAPE, dtype=torch.float64)
    for mover in [None] if is_shared else range(size):
        for index in range(states.numel()):
            values = []
            for sign in (1, -1):
                moved = states.detach().clone()
                if mover is None or mover == rank:
                    moved.view(-1)[index] += sign * STEP
                values.append(whole_loss(moved))
            if mover is None or mover == rank:
                expected.view(-1)[index] = (values[0] - values[1]) / (2 * STEP)
    assert states.grad is not None
    return float((states.grad - expected).abs().max() / expected.abs().max())


def main() -> None:
    """All exchanges along both dimensions."""
    hpc_accel.mpi.init()
    group = dist.group.WORLD
    found = {
        "copy": largest_error(lambda x: exchange.copy(x, group), is_shared=True, is_alike=False),
        "total": largest_error(lambda x: exchange.total(x, group), is_shared=False, is_alike=True),
    }
    for dim in (0, 1):
        cases = {
            "gather": (lambda x, d=dim: exchange.gather(x, group, d, partial_gradient=False), False, True),
            "gather_partial": (lambda x, d=dim: exchange.gather(x, group, d, partial_gradient=True), False, False),
            "scatter": (lambda x, d=dim: exchange.scatter(x, group, d), False, False),
            "part": (lambda x, d=dim: exchange.part(x, group, d), True, False),
        }
        for name, (operation, is_shared, is_alike) in cases.items():
            found[f"{name}{dim}"] = largest_error(operation, is_shared=is_shared, is_alike=is_alike)
    gathered: list[dict[str, float]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, found)
    if dist.get_rank() == 0:
        print("RESULT", json.dumps({name: max(each[name] for each in gathered) for name in found}))
    hpc_accel.mpi.shutdown()


if __name__ == "__main__":
    main()
