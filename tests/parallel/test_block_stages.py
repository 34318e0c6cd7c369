"""Stages of blocks compute what the whole model computes, and models are cut only where nothing else crosses."""

import importlib.util

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.errors import ConfigError
from hpc_accel.parallel.block_stages import block_stage, boundaries_of
from hpc_accel.parallel.seen import chain_without_values, see
from hpc_accel.workloads.block_chain import find_chain
from hpc_accel.workloads.workload import Workload

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs the extra llm (make extras)"
)
BLOCKS = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}


class Tied(nn.Module):
    """Parameters outside of modules, one that both ends use, residuals and a module outside of blocks."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(16, 8))
        self.shift = nn.Parameter(torch.randn(8))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.between = nn.Linear(8, 8)
        self.tail = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def forward(self, ids, *, scale):
        states = self.table[ids] + self.shift
        for index, layer in enumerate(self.layers):
            states = states + torch.tanh(layer(states)) * scale[:, None, None]
            if index == 1:
                states = self.between(states)
        return self.tail(states.mean(1)) @ self.table.T


class Bottlenecks(nn.Module):
    """A ResNet's form: stem, several lists, pooling, head; with running statistics."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.layer1 = nn.Sequential(Bottleneck(), Bottleneck())
        self.layer2 = nn.Sequential(Bottleneck(), Bottleneck(), Bottleneck())
        self.fc = nn.Linear(4, 2)

    def forward(self, images):
        return self.fc(self.layer2(self.layer1(self.stem(images))).mean((2, 3)))


class Bottleneck(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, states):
        return states + torch.relu(self.norm(self.conv(states)))


class Skips(nn.Module):
    """The head takes what the stem made, past all blocks."""

    def __init__(self, *, conditioned=False):
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.condition = conditioned

    def forward(self, inputs):
        states = first = self.stem(inputs)
        for layer in self.layers:
            states = layer(states) + (first if self.condition else 0)
        return self.head(states if self.condition else states + first)


def in_stages(model, sizes, args, kwargs=None, blocks=""):
    """Outputs of the stages one after the other, the chain, and the names of each stage's parameters."""
    given = (args, kwargs or {})
    chain = find_chain(model, lambda whole: whole(*given[0], **given[1]), blocks)
    assert chain is not None
    seen = see(model, chain, given, None)
    boundaries = boundaries_of(chain, sizes, seen)
    states, names = (), []
    for index, size in enumerate(sizes):
        start = sum(sizes[:index])
        stage = block_stage(model, chain, seen, range(start, start + size))
        stage.enter_first()
        outputs = stage(*states, given=given)
        assert (outputs.shape, outputs.dtype) == (boundaries[index + 1][0].shape, boundaries[index + 1][0].dtype)
        names.append({name for name, _ in stage.named_parameters()})
        states = (outputs,)
    return states[0], chain, names


def test_what_each_stage_uses_it_has_and_nothing_else():
    model = Tied()
    args, kwargs = (torch.randint(0, 16, (2, 5)),), {"scale": torch.tensor([1.0, 2.0])}
    outputs, chain, names = in_stages(model, (1, 1, 2), args, kwargs, "layers")
    assert torch.equal(outputs, model(*args, **kwargs))
    assert names[0] == {"table", "shift", "layers.0.weight", "layers.0.bias"}
    assert names[1] == {"layers.1.weight", "layers.1.bias", "between.weight", "between.bias"}
    assert {name for name in names[2] if not name.startswith("layers.")} == {"table", "tail.0.weight", "tail.0.bias"}
    assert chain.tied == [(0, 3)]


def test_gradients_of_stages_are_those_of_the_whole():
    model = Tied()
    args, kwargs = (torch.randint(0, 16, (2, 5)),), {"scale": torch.ones(2)}
    model(*args, **kwargs).square().sum().backward()
    whole = {name: each.grad.clone() for name, each in model.named_parameters()}
    model.zero_grad()
    in_stages(model, (2, 2), args, kwargs, "layers")[0].square().sum().backward()
    for name, each in model.named_parameters():
        assert torch.allclose(each.grad, whole[name], rtol=1e-5), name


class Routing(nn.Module):
    """Rows go through the expert or past it, by their values."""

    def __init__(self):
        super().__init__()
        self.expert = nn.Linear(8, 8)

    def forward(self, states):
        chosen = torch.where(states[:, 0] > 0)[0]
        return states.index_add(0, chosen, self.expert(states[chosen]))


class Routed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        self.layers = nn.ModuleList(Routing() for _ in range(3))

    def forward(self, inputs):
        states = self.stem(inputs)
        for layer in self.layers:
            states = layer(states)
        return self.head(states)


def test_blocks_that_look_at_values_are_cut():
    model, inputs = Routed(), torch.randn(6, 8)
    workload = Workload(model=model, loss=nn.functional.mse_loss, dataset=TensorDataset(inputs, inputs[:, :2]))
    chain = chain_without_values(workload, workload.batch_of(range(6)))
    assert chain is not None
    assert chain.names == ("layers.0", "layers.1", "layers.2")
    assert torch.equal(in_stages(model, (1, 2), (inputs,))[0], model(inputs))


def test_a_resnet_is_cut_between_all_its_blocks():
    model = Bottlenecks()
    images = torch.randn(4, 3, 8, 8)
    outputs, chain, names = in_stages(model, (5, 2), (images,))
    assert [name for name in chain.names if name.startswith("layer")] == [
        "layer1.0",
        "layer1.1",
        "layer2.0",
        "layer2.1",
        "layer2.2",
    ]
    assert outputs.shape == (4, 2)
    assert not names[0] & names[1]


def test_the_list_can_be_named():
    model = Bottlenecks()
    _, chain, names = in_stages(model, (1, 2), (torch.randn(2, 3, 8, 8),), blocks="layer2")
    assert chain.names == ("layer2.0", "layer2.1", "layer2.2")
    assert any(name.startswith("layer1.1") for name in names[0])
    with pytest.raises(ConfigError, match="lists there"):
        find_chain(Tied(), lambda model: model, "nowhere")


@pytest.mark.parametrize("conditioned", [False, True])
def test_what_crosses_a_cut_forbids_it(conditioned):
    model = Skips(conditioned=conditioned)
    assert find_chain(model, lambda whole: whole(torch.randn(2, 8))) is None


@needs_transformers
def test_masks_of_a_dict_and_class_tokens_reach_every_stage():
    from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForMaskedLM

    class Logits(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model.eval()

        def forward(self, *args, **kwargs):
            return self.model(*args, **kwargs).logits

    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 4:] = 0
    bert = Logits(AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", vocab_size=64, **BLOCKS)))
    kwargs = {"input_ids": torch.randint(0, 64, (2, 8)), "attention_mask": mask}
    assert torch.equal(in_stages(bert, (1, 1, 1), (), kwargs)[0], bert(**kwargs))
    config = AutoConfig.for_model("vit", image_size=16, patch_size=8, **BLOCKS)
    vit, images = Logits(AutoModelForImageClassification.from_config(config)), torch.randn(2, 3, 16, 16)
    assert torch.equal(in_stages(vit, (1, 1, 1), (images,))[0], vit(images))
