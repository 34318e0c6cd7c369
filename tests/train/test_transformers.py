"""Architectures of Hugging Face transformers compute in every layout what they compute serially; one launch each."""

import importlib.util

import pytest

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


def runs(directory, layouts, **architectures):
    found = []
    for architecture, overrides in architectures.items():
        args = {"architecture": architecture, "overrides": overrides, "sequence": 16}
        workload = {"name": "hf", "args": args, "global_batch_size": 8}
        found += write_runs(directory, workload, layouts, measure=SMALL)
    return found


def test_two_ranks(tmp_path):
    layouts = [{"dp": 2}, {"tp": 2}, {"dp": 2, "shard": "full"}, {"pp": 2, "accumulation_steps": 4}]
    assert_parity(train_all(2, runs(tmp_path, layouts, **CAUSAL), 480))


def test_four_ranks(tmp_path):
    layouts = [{"tp": 2, "dp": 2, "shard": "full"}]
    assert_parity(train_all(4, runs(tmp_path, layouts, **CAUSAL), 480))
