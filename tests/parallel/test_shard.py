"""What FSDP2 cannot divide stays whole; what a stage writes into is its own; idle gradients stay None."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from hpc_accel.parallel.boundary import own_inputs, own_written_inputs
from hpc_accel.parallel.gradients import ReplicaAverage
from hpc_accel.parallel.pipeline import boundary_tensors
from hpc_accel.parallel.shard import left_whole
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.sixteen_bits import autocast_problem
from hpc_accel.workloads.workload import Workload


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.scalar = nn.Parameter(torch.tensor(1.0))
        self.strided = nn.Parameter(torch.ones(4, 2).t())
        self.waves = nn.Parameter(torch.ones(4, dtype=torch.cfloat))
        self.wide = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(64, dtype=torch.bfloat16), requires_grad=False)
        self.table = nn.Embedding(5, 2, sparse=True)
        self.linear = nn.Linear(4, 4)


def test_what_cannot_be_divided_is_left_whole():
    model = Odd()
    whole = {id(each) for each in left_whole(model, list(model.parameters()))}
    names = [name for name, each in model.named_parameters() if id(each) in whole]
    assert names == ["scalar", "strided", "waves", "wide", "table.weight"]


def test_a_stage_that_writes_into_its_inputs_gets_copies():
    model = nn.Sequential(nn.Linear(4, 4), nn.SiLU(inplace=True), nn.Linear(4, 2))
    written: set[int] = set()
    boundary_tensors(model, (1, 2), (torch.ones(2, 4),), None, written)
    assert written == {1}
    stage = model[1:]
    received = torch.ones(2, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="in-place operation"):
        stage(received)
    own_inputs(stage)
    stage(received).sum().backward()
    assert received.grad is not None
    assert torch.equal(received, torch.ones(2, 4))


class Routed(nn.Module):
    def forward(self, states):
        chosen = torch.where(states[:, 0] > 0)[0]
        return states.index_add(0, chosen, states[chosen])


def test_boundaries_are_known_where_layers_look_at_values():
    found = boundary_tensors(
        nn.Sequential(nn.Linear(4, 3), Routed(), nn.Linear(3, 2)), (2, 1), (torch.ones(5, 4),), None
    )
    assert [tuple(state.shape) for (state,) in found] == [(5, 4), (5, 3), (5, 2)]
    assert all(state.is_meta for (state,) in found)


def test_a_unit_gets_copies_only_where_it_writes():
    for unit, written in ((nn.SiLU(inplace=True), True), (nn.SiLU(), False)):
        seen, view = [], torch.ones(4, requires_grad=True).view(2, 2)
        own_written_inputs(unit)
        unit.register_forward_hook(lambda _unit, inputs, outputs, seen=seen: seen.append(outputs))
        for _ in range(2):
            unit(view)
        assert torch.equal(view, torch.ones(2, 2))
        assert torch.equal(seen[0], seen[1])
        assert not torch.equal(seen[1], view), written


def test_a_gradient_that_no_replica_has_stays_away():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        used, idle, waves = (
            nn.Parameter(torch.ones(3, dtype=each)) for each in (torch.float, torch.float, torch.cfloat)
        )
        used.grad, waves.grad = torch.full((3,), 2.0), torch.full((3,), 1j)
        ReplicaAverage(dist.group.WORLD, wire_dtype=torch.bfloat16).gradients([used, idle, waves])
    finally:
        dist.destroy_process_group()
    assert torch.equal(used.grad, torch.full((3,), 2.0))
    assert idle.grad is None
    assert torch.equal(waves.grad, torch.full((3,), 1j)), "16 bits hold no complex numbers"


class Mixing(nn.Linear):
    def forward(self, states):
        rows = torch.arange(len(states))
        return torch.zeros(len(states), 2).index_add(0, rows, super().forward(states))


def test_what_autocast_breaks_is_found():
    def tried(model):
        workload = Workload(model=model, loss=nn.functional.mse_loss, dataset=None)
        batch = Batch(args=(torch.ones(2, 4),), kwargs={}, targets=torch.ones(2, 2), count=2)
        return autocast_problem(workload, batch)

    assert "scalar type" in tried(Mixing(4, 2))
    assert tried(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))) == ""
