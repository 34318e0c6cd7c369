"""Ranks for test_batch_norm.py: BatchNorm over unequal shares of a batch, beside torch's own on the whole batch.

Rank 0 prints by case the largest errors of outputs, gradients of inputs, weight and bias, and running statistics, each
relative to the largest value; and the same of outputs in evaluation.
"""

from __future__ import annotations

import copy
import json

import torch
import torch.distributed as dist
from torch import nn

import hpc_accel.mpi
from hpc_accel.parallel.batch_norm import synchronise_batch_norm
from hpc_accel.parallel.recompute import recompute_blocks

SHARES = (5, 1, 3)
STEPS = 3
KINDS = ((0.0, torch.float32, ""), (1e3, torch.float64, " far"), (0.0, torch.bfloat16, " bf16"))
"""The mean of the batch, its type, and what is added to the case's name."""
CASES = {
    "vectors": (nn.BatchNorm1d(6), (6,)),
    "signals": (nn.BatchNorm1d(6), (6, 7)),
    "images": (nn.BatchNorm2d(4), (4, 5, 3)),
    "volumes": (nn.BatchNorm3d(4), (4, 3, 2, 3)),
    "without weights": (nn.BatchNorm2d(4, affine=False), (4, 5, 3)),
    "cumulative": (nn.BatchNorm2d(4, momentum=None), (4, 5, 3)),
    "untracked": (nn.BatchNorm2d(4, track_running_stats=False), (4, 5, 3)),
}


def batch(shape: tuple[int, ...], step: int, offset: float = 0.0) -> torch.Tensor:
    """The whole batch of a step."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(sum(SHARES), *shape, generator=generator) * 2 + offset


def own(whole: torch.Tensor) -> torch.Tensor:
    """This rank's share."""
    return whole.split(SHARES)[dist.get_rank()]


def apart(mine: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference, relative to the largest value."""
    mine, wanted = mine.detach().double(), wanted.detach().double()
    return float((mine - wanted).abs().max() / wanted.abs().max())


def added(value: torch.Tensor) -> torch.Tensor:
    """Over the ranks."""
    value = value.clone()
    dist.all_reduce(value)
    return value


def compare(model: nn.Module, synced: nn.Module, shape: tuple[int, ...], offset: float, dtype: torch.dtype) -> float:
    """The largest error of some steps and of an evaluation."""
    found = []
    for step in range(STEPS):
        whole = batch(shape, step, offset).to(dtype)
        inputs, mine = whole.clone().requires_grad_(), own(whole).clone().requires_grad_()
        weights = batch(shape, 100 + step).to(dtype)
        outputs, own_outputs = model(inputs), synced(mine)
        (outputs * weights).sum().backward()
        (own_outputs * own(weights)).sum().backward()
        assert inputs.grad is not None
        assert mine.grad is not None
        found += [apart(own_outputs, own(outputs)), apart(mine.grad, own(inputs.grad))]
    for parameter, wanted in zip(synced.parameters(), model.parameters(), strict=True):
        assert parameter.grad is not None
        assert wanted.grad is not None
        found.append(apart(added(parameter.grad), wanted.grad))
    found += [apart(mine, wanted) for mine, wanted in zip(synced.buffers(), model.buffers(), strict=True)]
    model.eval(), synced.eval()
    inputs = own(batch(shape, 7, offset).to(dtype))
    found.append(apart(synced(inputs), model(inputs)))
    return max(found)


def main() -> None:
    """All cases: in fp32, in fp64 with a mean far above the spread, in bf16; and recomputed in backward."""
    hpc_accel.mpi.init()
    group = dist.group.WORLD
    assert group is not None
    found = {}
    for name, (layer, shape) in CASES.items():
        for offset, dtype, told in (
            (0.0, torch.float32, ""),
            (1e3, torch.float64, " far"),
            (0, torch.bfloat16, " bf16"),
        ):
            model = nn.Sequential(copy.deepcopy(layer))
            if dtype == torch.float64:
                model.double()
            synced = synchronise_batch_norm(copy.deepcopy(model), group)
            found[name + told] = compare(model, synced, shape, offset, dtype)
    convolved = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    for parameter in convolved.parameters():
        dist.broadcast(parameter.data, 0)
    for kind in ("full", "selective"):
        synced = synchronise_batch_norm(copy.deepcopy(convolved), group)
        recompute_blocks(synced, kind)
        model = copy.deepcopy(convolved)
        whole = batch((4, 5, 5), 1)
        model(whole).square().sum().backward()
        synced(own(whole)).square().sum().backward()
        pairs = zip(synced.parameters(), model.parameters(), strict=True)
        errors = [apart(added(mine.grad), wanted.grad) for mine, wanted in pairs if wanted.grad is not None]
        errors += [apart(mine, wanted) for mine, wanted in zip(synced.buffers(), model.buffers(), strict=True)]
        found[f"recomputed {kind}"] = max(errors[2:])  # a bias before BatchNorm has no gradient but rounding
    gathered: list[dict[str, float]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, found)
    if dist.get_rank() == 0:
        print("RESULT", json.dumps({name: max(each[name] for each in gathered) for name in found}))
    hpc_accel.mpi.shutdown()


if __name__ == "__main__":
    main()
