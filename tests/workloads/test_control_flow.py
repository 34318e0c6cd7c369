"""What a step may leave idle is seen in two samples, and whether two samples can show it is seen too."""

import random

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

from hpc_accel.workloads import control_flow
from hpc_accel.workloads.workload import Workload

F = nn.functional


class Routed(nn.Module):
    """Each sample goes to one expert."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 2), nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, states):
        chosen, result = self.gate(states).argmax(1), states
        for index, expert in enumerate(self.experts):
            if len(rows := (chosen == index).nonzero().flatten()):
                result = result.index_add(0, rows, expert(states[rows]))
        return result


class Spare(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.spare, self.frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)


class Dropped(nn.ModuleList):
    """Layers that are left out at random."""

    def __init__(self, draw):
        super().__init__(nn.Linear(4, 4) for _ in range(2))
        self.draw, self.count = draw, 0

    def forward(self, states):
        self.count += 1
        for layer in self:
            states = layer(states) if self.draw() < 0.5 else states
        return states


class Masked(nn.Module):
    """Looks whether there is a mask to apply, as transformers do; all layers run all the same."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, states):
        mask = states > 0
        states = states if mask.all() else states * mask
        for layer in self.layers:
            states = layer(states)
        return states


class Reentrant(nn.Linear):
    def forward(self, states):
        return states + checkpoint(super().forward, states, use_reentrant=True)


MODELS = {
    "plain": (nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)), (), False, False),
    "spare": (nn.Sequential(Spare()), ("0.spare",), False, False),
    "routed in a block": (nn.Sequential(Routed(), nn.Linear(4, 4)), None, True, False),
    "routed between blocks": (Routed(), None, True, True),
    "dropped by torch": (nn.Sequential(Dropped(lambda: torch.rand(()))), None, True, False),
    "dropped by random": (nn.Sequential(Dropped(random.random)), None, True, False),
    "blocks dropped": (Dropped(lambda: torch.rand(())), None, True, True),
    "mask": (Masked(), (), True, False),
}


def seen(model):
    data = TensorDataset(torch.linspace(-1, 1, 16).view(4, 4), torch.zeros(4, dtype=torch.long))
    return control_flow.control_flow_of(Workload(model=model, loss=F.cross_entropy, dataset=data))


@pytest.mark.parametrize("limit", [10**8, 0], ids=["with values", "without values"])
@pytest.mark.parametrize("name", MODELS)
def test_looks_at_values_are_seen(monkeypatch, name, limit):
    monkeypatch.setattr(control_flow, "LARGEST_WITH_VALUES_BYTES", limit)
    model, unused, looks, between = MODELS[name]
    flow = seen(model)
    assert (flow.looks_at_values, flow.skips_blocks) == (looks, between)
    assert unused is None or flow.unused == unused
    assert flow.may_idle == bool(looks or unused)


def test_samples_that_use_different_parameters_are_seen():
    torch.manual_seed(0)
    assert seen(nn.Sequential(Routed())).varies
    assert not seen(Masked()).varies
    assert not seen(nn.Sequential(Spare())).varies


def test_a_reentrant_part_is_seen():
    flow = seen(nn.Sequential(nn.Linear(4, 4), Reentrant(4, 4)))
    assert flow.reentrant
    assert not flow.may_idle


def test_nothing_is_left_behind():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Dropped(random.random))
    before = {name: each.clone() for name, each in model.state_dict().items()}
    states = random.getstate(), torch.get_rng_state()
    seen(model)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert all(each.grad is None for each in model.parameters())
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert model[2].count == 0
    assert not any(each._forward_hooks for each in model.modules())
