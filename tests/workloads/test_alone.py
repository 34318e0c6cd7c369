"""A loss that talks to other ranks is described by one process."""

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.workloads.alone import world_of_one
from hpc_accel.workloads.count_facts import describe
from hpc_accel.workloads.workload import Workload


def mean_of_all(outputs, targets):
    total = (outputs - targets).square().mean().clone()
    dist.all_reduce(total.detach())
    return total / dist.get_world_size()


def test_a_loss_of_all_ranks_is_described_alone():
    data = TensorDataset(torch.ones(8, 4), torch.ones(8, 2))
    assert len(describe(Workload(model=nn.Sequential(nn.Linear(4, 2)), loss=mean_of_all, dataset=data)).layers) == 1
    assert not dist.is_initialized()


def test_a_world_that_is_there_stays():
    with world_of_one():
        world = dist.group.WORLD
        with world_of_one():
            assert dist.group.WORLD is world
        assert dist.is_initialized()
    assert not dist.is_initialized()
