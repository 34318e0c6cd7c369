"""What counts as a block, which blocks share parameters, and what the planner is told of it."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.parallel.pipeline import stage_layers
from hpc_accel.workloads.blocks import blocks_of, blocks_with_parameters, parameters_of_blocks, tied_blocks
from hpc_accel.workloads.chain import Chain, is_sequence
from hpc_accel.workloads.count_facts import describe
from hpc_accel.workloads.tensor_plan import half_divided
from hpc_accel.workloads.workload import Workload


class Tied(nn.Module):
    """An embedding whose weight is the head's too, and layers that are Sequentials."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))
        self.spare = nn.Linear(8, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        states = self.embed(ids)
        for layer in self.layers:
            states = states + layer(states)
        return self.head(states)


class Residual(nn.Sequential):
    def forward(self, states):
        for layer in self:
            states = states + layer(states)
        return states


def described(model, inputs):
    targets = torch.zeros(4, dtype=torch.long)
    data = TensorDataset(inputs, targets)
    return describe(Workload(model=model, loss=lambda outputs, _: outputs.square().mean(), dataset=data))


def test_items_of_lists_are_blocks_and_not_cut_further():
    model = Tied()
    assert [name for name, _ in blocks_of(model)] == ["layers.0", "layers.1", "layers.2"]
    assert tied_blocks(model) == [(0, 2)]
    assert "embed.weight" in parameters_of_blocks(model)[0]
    facts = described(model, torch.zeros(4, 6, dtype=torch.long))
    assert len(facts.layers) == 3
    assert facts.tied_layers == ((0, 2),)
    assert facts.unused_parameters == ("spare.weight", "spare.bias")
    assert not facts.has_channels
    assert facts.num_parameters == sum(each.numel() for each in model.parameters())


def test_tied_weights_are_divided_alike_or_not_at_all():
    model = Tied()
    assert half_divided(model, {"head": "gather"}) == ("head",)
    assert half_divided(model, {"embed": "vocabulary", "head": "gather"}) == ()
    assert half_divided(model, {"layers.0.0": "columns"}) == ()


def test_a_layer_that_stands_twice_runs_twice():
    layer, act = nn.Linear(4, 4), nn.ReLU()
    for kind in (nn.Sequential, Chain):
        model = kind(layer, act, layer, act, nn.Linear(4, 2))
        inputs = torch.randn(4, 4)
        assert [name for name, _ in blocks_of(model)] == ["0", "1", "2", "3", "4"]
        assert blocks_with_parameters(model) == [layer, model[4]]
        assert tied_blocks(model) == [(0, 2)]
        facts = described(model, inputs)
        assert facts.forward_flops_per_sample == 2 * (16 + 16 + 8)
        states = inputs
        for stage in range(2):
            states = stage_layers(model, (3, 2), stage)(states)
        assert torch.equal(states, nn.Sequential(*model)(inputs))
        assert torch.equal(states, model(inputs))


def test_a_sequential_with_a_forward_of_its_own_is_no_sequence():
    model = Residual(nn.Linear(4, 4), nn.Linear(4, 4))
    assert is_sequence(nn.Sequential())
    assert not is_sequence(model)
    facts = described(model, torch.randn(4, 4))
    assert facts.sequential, "its layers still run one after the other, each with what the model does between them"
    assert len(facts.layers) == 2


class Wrapped(nn.Module):
    """A Sequential inside a module, as MONAI's U-Net is, whose own children are Sequentials again."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 1))


def test_lists_inside_a_block_are_no_blocks_of_their_own():
    assert [name for name, _ in blocks_of(Wrapped())] == ["model.0", "model.1", "model.2"]


def test_every_parameter_belongs_to_one_block():
    model = Wrapped()
    found = [name for block in parameters_of_blocks(model) for name in block]
    assert sorted(found) == sorted(name for name, _ in model.named_parameters())
