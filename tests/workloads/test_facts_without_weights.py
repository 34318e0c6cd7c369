"""Facts for the planner of models no memory here could hold: the same numbers, without the weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hpc_accel.commands import plan_study
from hpc_accel.errors import ConfigError
from hpc_accel.study.run import WorkloadSpec
from hpc_accel.workloads import entry, facts_without_weights
from hpc_accel.workloads.count_facts import describe
from tests.plan.examples import machine_json

READS_VALUES = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
def build(width=8):
    labels = torch.arange(8) % 4
    model = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, int(labels.max().item()) + 1))
    return model, nn.functional.cross_entropy, TensorDataset(torch.randn(8, 2), labels)
"""


def spec(name, **args):
    return WorkloadSpec(name=name, entry=f"hpc_accel.workloads.builtin.{name}:build", args=args, global_batch_size=4)


@pytest.mark.parametrize("name", ["digits", "lm", "mlp"])
def test_without_values_the_facts_are_the_same(name, monkeypatch):
    with_values = facts_without_weights.facts_of(spec(name), seed=0)
    assert with_values.optimizer is not None
    assert replace(with_values, optimizer=None) == describe(entry.build(spec(name), seed=0))
    monkeypatch.setattr(facts_without_weights, "LARGEST_WITH_VALUES_BYTES", 0)
    assert facts_without_weights.facts_of(spec(name), seed=0) == with_values


def test_a_small_model_is_built_once_and_with_values(monkeypatch):
    built = []
    monkeypatch.setattr(
        entry, "build_at_once", lambda *args, real=entry.build_at_once: built.append(real(*args)) or built[-1]
    )
    facts_without_weights.facts_of(spec("mlp"), seed=0)
    assert len(built) == 1
    assert built[0].model[0].weight.abs().sum().item() > 0


@pytest.fixture
def users_model(tmp_path, monkeypatch):
    (tmp_path / "reads_values.py").write_text(READS_VALUES)
    monkeypatch.syspath_prepend(tmp_path)
    return WorkloadSpec(name="u", entry="reads_values:build", global_batch_size=4)


def test_a_build_that_reads_values_is_done_for_real_where_it_fits(users_model, monkeypatch):
    expected = facts_without_weights.facts_of(users_model, seed=0)
    monkeypatch.setattr(facts_without_weights, "LARGEST_WITH_VALUES_BYTES", 0)
    assert facts_without_weights.facts_of(users_model, seed=0) == expected


def test_a_build_that_reads_values_and_does_not_fit_is_refused(users_model, monkeypatch):
    monkeypatch.setattr(facts_without_weights, "LARGEST_WITH_VALUES_BYTES", 0)
    monkeypatch.setattr(facts_without_weights, "free_memory_bytes", lambda: 100)
    with pytest.raises(ConfigError, match=r"must not read any") as caught:
        facts_without_weights.facts_of(users_model, seed=0)
    assert "reads_values" in caught.value.value


def test_175_billion_parameters_are_planned_for_a_large_cluster(tmp_path, monkeypatch):
    gpu = {"device_memory_bytes": 80 * 10**9, "matmul_flops_per_s": {"fp32": 6e13, "bf16": 4e14, "fp16": 4e14}}
    hardware = machine_json(num_nodes=576, ranks_per_node=8, **gpu)
    study = {
        "workload": {"name": "lm", "args": {"size": "175B", "stride": 64}, "global_batch_size": 1152},
        "recipes": [{"precision": "bf16"}],
        "layouts": [{"dp": 36, "pp": 16, "tp": 8, "micro_batch_size": 1}],
        "resources": {"num_nodes": 576, "ranks_per_node": 8, "gpus_per_node": 8},
    }
    (tmp_path / "large.yaml").write_text(json.dumps(study))
    (tmp_path / "hardware.json").write_text(json.dumps(hardware))
    monkeypatch.chdir(tmp_path)
    described = []
    facts_of = facts_without_weights.facts_of
    monkeypatch.setattr(
        facts_without_weights, "facts_of", lambda *args: described.append(facts_of(*args)) or described[0]
    )
    plan = plan_study(Path("large.yaml"), Path("hardware.json"), Path("results/plan.json"))
    (candidate,) = plan["candidates"]
    assert candidate["chosen"]
    assert candidate["prediction"]["step_time_ms"] > 0
    (facts,) = described
    layers, hidden, sequence = 96, 12288, 2048
    per_block = 12 * hidden * hidden + 13 * hidden
    assert facts.num_parameters == layers * per_block + (256 + sequence) * hidden + 2 * hidden + hidden * 256 + 256
    assert len(facts.layers) == 98
