"""Facts for the planner of models no memory here could hold: the same numbers, without the weights."""

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.study.schema import Workload
from hpc_accel.workloads import entry, planned
from hpc_accel.workloads.inspect import describe

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
    return Workload(name=name, entry=f"hpc_accel.workloads.{name}:build", args=args, global_batch_size=4)


@pytest.mark.parametrize("name", ["digits", "lm", "mlp"])
def test_without_values_the_facts_are_the_same(name, monkeypatch):
    expected = describe(entry.build(spec(name), seed=0))
    assert planned.facts_of(spec(name), seed=0) == expected
    monkeypatch.setattr(planned, "LARGEST_WITH_VALUES_BYTES", 0)
    assert planned.facts_of(spec(name), seed=0) == expected


def test_a_small_model_is_built_once_and_with_values(monkeypatch):
    built = []
    monkeypatch.setattr(entry, "build", lambda *args, real=entry.build: built.append(real(*args)) or built[-1])
    planned.facts_of(spec("mlp"), seed=0)
    assert len(built) == 1
    assert built[0].model[0].weight.abs().sum().item() > 0


@pytest.fixture
def users_model(tmp_path, monkeypatch):
    (tmp_path / "reads_values.py").write_text(READS_VALUES)
    monkeypatch.syspath_prepend(tmp_path)
    return Workload(name="u", entry="reads_values:build", global_batch_size=4)


def test_a_build_that_reads_values_is_done_for_real_where_it_fits(users_model, monkeypatch):
    expected = describe(entry.build(users_model, seed=0))
    monkeypatch.setattr(planned, "LARGEST_WITH_VALUES_BYTES", 0)
    assert planned.facts_of(users_model, seed=0) == expected


def test_a_build_that_reads_values_and_does_not_fit_is_refused(users_model, monkeypatch):
    monkeypatch.setattr(planned, "LARGEST_WITH_VALUES_BYTES", 0)
    monkeypatch.setattr(planned, "_free_memory_bytes", lambda: 100)
    with pytest.raises(ConfigError, match=r"must not read any") as caught:
        planned.facts_of(users_model, seed=0)
    assert "reads_values" in caught.value.value
