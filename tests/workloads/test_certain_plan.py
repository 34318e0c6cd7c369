"""A tensor plan is found for models of transformers as people build and wrap them, and only where it covers all."""

import pytest
import torch
from torch import nn

from hpc_accel.workloads.certain_plan import plan_inside
from hpc_accel.workloads.linears import sections_of
from hpc_accel.workloads.tensor_plan import planned

transformers = pytest.importorskip("transformers", reason="needs the extra llm (make extras)")
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SIZES, "vocab_size": 32, "max_position_embeddings": 16}


def llama(**more):
    config = transformers.LlamaConfig(**{**TEXT, "num_key_value_heads": 2, **more})
    return transformers.LlamaForCausalLM(config)


def gpt2():
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2, n_embd=16, n_head=4, vocab_size=32))


def phi3():
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**TEXT, num_key_value_heads=2, pad_token_id=None))


def bert():
    return transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT))


def vit():
    return transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, image_size=16, patch_size=8))


def mixtral():
    config = transformers.MixtralConfig(**TEXT, num_key_value_heads=2, num_local_experts=2)
    return transformers.MixtralForCausalLM(config)


class Wrapped(nn.Module):
    def __init__(self, **models):
        super().__init__()
        self.inner = nn.ModuleDict(models)
        self.score = nn.Linear(16, 2)


@pytest.mark.parametrize("build", [llama, gpt2, phi3, bert, vit])
def test_every_layer_of_every_block_is_divided(build):
    whole = Wrapped(model=build())
    cuts = planned(whole, plan_inside(whole))
    inside = [
        name
        for name, each in whole.named_modules()
        if any(part.isdigit() for part in name.split(".")) and any(p.dim() > 1 for p in each.parameters(recurse=False))
    ]
    assert inside
    assert set(inside) <= set(cuts)
    assert "score" not in cuts


def test_heads_stay_whole_and_what_is_computed_at_once_is_divided_by_sections():
    model = phi3()
    assert plan_inside(model)
    attention = model.model.layers[0].self_attn
    assert attention.head_width == 4
    assert sections_of(attention.qkv_proj) == (16, 8, 8)
    assert sections_of(model.model.layers[0].mlp.gate_up_proj) == (32, 32)


def test_the_plan_is_one_of_fewer_blocks_too():
    model = llama()
    plan = plan_inside(model)
    before = len(planned(model, plan))
    del model.model.layers[1]
    assert len(planned(model, plan)) == (before - 2) / 2 + 2, "an embedding and a head stay"


class OwnPerceptron(nn.Module):
    """What transformers' plan does not know: a layer between columns and rows, of the same name."""

    def __init__(self):
        super().__init__()
        self.fc1, self.mixes, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 16)

    def forward(self, states):
        return self.fc2(self.mixes(torch.relu(self.fc1(states))))


def with_own_perceptron():
    model = vit()
    model.vit.layers[1].mlp = OwnPerceptron()
    return model


def with_a_bias_of_its_own():
    model = llama()
    model.model.layers[0].self_attn.mixes = nn.Parameter(torch.ones(4))
    return model


def of_no_known_architecture():
    """The names are those of BERT, and still nobody has seen that it computes the same."""
    model = bert()
    model.config.model_type = "mra"
    return model


@pytest.mark.parametrize("build", [mixtral, with_own_perceptron, with_a_bias_of_its_own, of_no_known_architecture])
def test_half_a_plan_is_none(build):
    assert plan_inside(build()) == {}


def test_one_model_that_is_not_covered_leaves_all_whole():
    assert plan_inside(Wrapped(one=bert(), other=mixtral())) == {}
    assert plan_inside(Wrapped(one=bert(), other=gpt2()))


def test_a_weight_shared_with_what_is_beside_the_model_leaves_all_whole():
    whole = Wrapped(model=llama())
    whole.score = nn.Linear(16, 32, bias=False)
    whole.score.weight = whole.inner["model"].lm_head.weight
    assert plan_inside(whole) == {}
