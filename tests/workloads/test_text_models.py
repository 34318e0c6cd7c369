"""Language models: sizes by name, the user's own text, and Hugging Face architectures that see no future."""

import importlib.util
import json
import math

import pytest
import torch

from hpc_accel.errors import ConfigError
from hpc_accel.study.builtin_workloads import BUILTIN
from hpc_accel.study.run import WorkloadSpec
from hpc_accel.workloads import entry
from hpc_accel.workloads.builtin.lm import SIZES
from hpc_accel.workloads.builtin.text import bits_per_byte
from hpc_accel.workloads.count_facts import describe

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed (make extras)"
)
LLAMA = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 256,
}
GPT2 = {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 256}
BERT = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 256,
}


def built(name, **args):
    spec = WorkloadSpec(name=name, entry=BUILTIN[name].entry, args=args, global_batch_size=4)
    return entry.build(spec, seed=0)


def test_sizes_are_those_their_names_say():
    for name, (layers, hidden, heads, sequence) in SIZES.items():
        assert hidden % heads == 0
        if name[0].isdigit():
            stated = float(name[:-1]) * {"M": 1e6, "B": 1e9}[name[-1]]
            # The published figure counts about 50,000 tokens where this model has 256.
            with_words = 12 * layers * hidden**2 + (50257 + sequence) * hidden
            assert with_words == pytest.approx(stated, rel=0.08), name


def test_own_text_is_cut_into_windows_and_its_end_is_held_out(tmp_path):
    text = bytes(range(256)) * 4
    (tmp_path / "mine.txt").write_bytes(text)
    workload = built("lm", text=str(tmp_path / "mine.txt"), sequence=16, stride=4)
    inputs, targets = workload.dataset[3]
    assert bytes(inputs.tolist()) == text[12:28]
    assert bytes(targets.tolist()) == text[13:29]
    last, _ = workload.dataset[len(workload.dataset) - 1]
    cut = len(text) - len(text) // 10
    assert len(workload.dataset) == (cut - 17) // 4 + 1
    assert bytes(workload.metric.dataset[0][0].tolist()) == text[cut : cut + 16]
    assert bytes(last.tolist()) in text[: cut - 1]


def test_knowing_nothing_is_eight_bits_a_byte():
    assert bits_per_byte(torch.zeros(2, 3, 256), torch.ones(2, 3, dtype=torch.long)) == pytest.approx(8)
    certain = torch.full((1, 1, 256), -math.inf)
    certain[0, 0, 7] = 0
    assert bits_per_byte(certain, torch.tensor([[7]])) == 0


@needs_transformers
@pytest.mark.parametrize(("architecture", "overrides"), [("gpt2", GPT2), ("llama", LLAMA), ("bert", BERT)])
def test_an_architecture_sees_no_future(architecture, overrides):
    model = built("hf", architecture=architecture, overrides=overrides, sequence=8).model
    assert model.training
    model.eval()  # dropout stays as the configuration has it
    tokens = torch.arange(8)[None]
    changed = torch.cat([tokens[:, :-1], tokens[:, -1:] + 1], dim=1)
    with torch.no_grad():
        logits, other = model(tokens), model(changed)
    assert torch.allclose(logits[:, :-1], other[:, :-1], atol=1e-6)
    assert not torch.allclose(logits[:, -1], other[:, -1], atol=1e-6)


@needs_transformers
def test_a_tensor_plan_counts_heads(tmp_path):
    plan = {"*.q_proj": "columns", "*.k_proj": "columns", "*.v_proj": "columns", "*.o_proj": "rows"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **LLAMA}))
    workload = built("hf", config=str(tmp_path / "config.json"), sequence=8, tensor_plan=plan)
    assert describe(workload).tp_units == 4


@needs_transformers
def test_local_weights_are_loaded(tmp_path):
    first = built("hf", overrides=GPT2, sequence=8)
    first.model.model.save_pretrained(tmp_path)
    loaded = built("hf", weights=str(tmp_path), sequence=8)
    tokens = torch.arange(8)[None]
    assert torch.equal(first.model.eval()(tokens), loaded.model.eval()(tokens))


@needs_transformers
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"architecture": "nope"}, "nope"),
        ({"architecture": "t5"}, "AutoModelForCausalLM"),
        ({"config": "openai-community/gpt2"}, "nothing is downloaded"),
        ({"weights": "openai-community/gpt2"}, "nothing is downloaded"),
        ({"overrides": {"n_layers": 2}}, "it has: "),
        ({"overrides": {"vocab_size": 100}}, "vocab_size: 256"),
    ],
)
def test_what_is_not_here_is_refused(args, expected):
    with pytest.raises(ConfigError) as caught:
        built("hf", **args)
    assert expected in str(caught.value)
