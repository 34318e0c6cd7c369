"""Architectures of Hugging Face transformers compute in every layout what they compute serially; one launch each."""

import importlib.util

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.builtin import hf
from tests.train.test_layouts import assert_parity, train_all, write_runs

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra llm (make extras)"),
]
LLAMA = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 256,
    "pad_token_id": None,
}
CAUSAL = {
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 256},
    "llama": LLAMA,
    "phi3": LLAMA,
    "qwen3": {**LLAMA, "head_dim": 16, "tie_word_embeddings": True},
    "gpt_neox": {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"},
}
SMALL = {"warmup_steps": 1, "steps": 2, "parity_steps": 5, "metric_samples": 16}


BLOCKS = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
OTHERS = {
    "masked": {"architecture": "bert", "overrides": {**BLOCKS, "vocab_size": 257}},
    "parts": {"architecture": "bert", "overrides": {**BLOCKS, "vocab_size": 256, "num_labels": 4}},
    "images": {"architecture": "vit", "overrides": {**BLOCKS, "image_size": 16, "patch_size": 8, "num_labels": 4}},
}


def runs(directory, layouts, **architectures):
    found = []
    for name, given in architectures.items():
        args = {"task": name, **given} if name in OTHERS else {"architecture": name, "overrides": given}
        workload = {"name": "hf", "args": {**args, "sequence": 16}, "global_batch_size": 8}
        found += write_runs(directory, workload, layouts, measure=SMALL)
    return found


def test_two_ranks(tmp_path):
    """Every architecture in tensor parts and in stages; replicas and shards, which know nothing of it, for some."""
    divided = runs(tmp_path, [{"tp": 2}, {"pp": 2, "accumulation_steps": 4}], **CAUSAL, **OTHERS)
    replicas = runs(tmp_path, [{"dp": 2}], gpt2=CAUSAL["gpt2"], images=OTHERS["images"])
    shards = runs(tmp_path, [{"dp": 2, "shard": "full"}], llama=CAUSAL["llama"], masked=OTHERS["masked"])
    assert_parity(train_all(2, [*divided, *replicas, *shards], 480))


def users_own(directory, name, layouts):
    """Runs of a model that a user builds, without a plan; it returns its own loss."""
    entry = f"tests.zoo.models.hugging_face:{name}"
    workload = {"name": name.replace("_", "-"), "entry": entry, "global_batch_size": 8}
    return write_runs(directory, workload, layouts, measure=SMALL)


def test_four_ranks(tmp_path):
    """Weights tied over stages are divided in each."""
    stages = runs(tmp_path, [{"tp": 2, "pp": 2, "accumulation_steps": 2}], gpt2=CAUSAL["gpt2"], qwen3=CAUSAL["qwen3"])
    shards = runs(tmp_path, [{"tp": 2, "dp": 2, "shard": "full"}], phi3=CAUSAL["phi3"])
    sharded = {"pp": 2, "dp": 2, "shard": "full", "accumulation_steps": 2}
    shards += runs(tmp_path, [sharded], gpt2=CAUSAL["gpt2"])
    both = [{"tp": 2, "pp": 2, "accumulation_steps": 2}, {"dp": 2, "tp": 2}]
    hybrids = runs(tmp_path, both, llama=CAUSAL["llama"], masked=OTHERS["masked"], images=OTHERS["images"])
    own = users_own(tmp_path, "own_loss_of_llama", both[:1])
    assert_parity(train_all(4, [*stages, *shards, *hybrids, *own], 480))


def test_the_metric_of_outputs_that_hold_more_than_the_loss(tmp_path):
    """Stages that pass on the loss alone give all outputs where the metric asks for them, padding cut off."""
    found = train_all(2, users_own(tmp_path, "scored_bert", [{"dp": 2}, {"pp": 2, "accumulation_steps": 2}]))
    assert_parity(found)
    one, other = (summary.metric for summary in found.values())
    assert one.num_samples == other.num_samples == 6
    assert one.value == pytest.approx(other.value, rel=1e-3)


def test_a_models_own_tokens(tmp_path):
    """A tokenizer file replaces bytes; tokens beyond the vocabulary are refused."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    (tmp_path / "text.txt").write_text("one two three two one " * 40)
    words = Tokenizer(models.WordLevel({"one": 0, "two": 1, "three": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    args = {"text": str(tmp_path / "text.txt"), "tokenizer": str(tmp_path / "tokenizer.json"), "sequence": 5}
    built = hf.build(overrides={"n_layer": 1, "n_embd": 8, "n_head": 1, "vocab_size": 3}, **args)
    assert [each.tolist() for each in built.dataset[0]] == [[0, 1, 2, 1, 0], [1, 2, 1, 0, 0]]
    assert built.metric.name == "bits_per_token"
    with pytest.raises(ConfigError, match="vocab_size 2"):
        hf.build(overrides={"n_layer": 1, "n_embd": 8, "n_head": 1, "vocab_size": 2}, **args)
