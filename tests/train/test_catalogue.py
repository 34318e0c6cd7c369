"""What a study may name beyond dp, pp and tp computes what the serial run computes, and leaves its trace."""

import json

import pytest

from tests.mpirun import ROOT
from tests.train.test_layouts import FP32, LM, assert_parity, train_all, write_runs

SKIPS = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from hpc_accel.workloads.workload import Metric, Workload

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.head = nn.Linear(16, 2)
    def forward(self, inputs):
        states = first = self.stem(inputs)
        for layer in self.layers:
            states = states + torch.tanh(layer(states))
        return self.head(states + first)

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8, padding_idx=3)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embed.weight
    def forward(self, ids):
        states = self.embed(ids)
        for layer in self.layers:
            states = states + torch.tanh(layer(states))
        return self.head(states)

def tied():
    ids = torch.randint(0, 16, (96, 6), generator=torch.Generator().manual_seed(1))
    loss = lambda outputs, targets: nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())
    plan = {"embed": "vocabulary", "head": "gather"}
    return Workload(model=Tied(), loss=loss, dataset=TensorDataset(ids, (ids + 1) % 16), tensor_plan=plan)

def sequence():
    embed = nn.Embedding(16, 8)
    model = nn.Sequential(embed, nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 16, bias=False))
    model[3].weight = embed.weight
    made = tied()
    return model, made.loss, made.dataset

def build():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(203, 8, generator=generator)
    targets = (inputs.sum(1) > 0).long()
    metric = Metric(
        name="accuracy",
        compute=lambda outputs, targets: (outputs.argmax(1) == targets).float().mean().item(),
        higher_is_better=True,
        dataset=TensorDataset(inputs[150:], targets[150:]),
    )
    data = TensorDataset(inputs[:150], targets[:150])
    return Workload(model=Net(), loss=nn.functional.cross_entropy, dataset=data, metric=metric)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Summaries of layouts, and of recipes with the recipe, in one launch. `make catalogue` trains all there are."""
    layouts = [
        {"dp": 2, "shard": ["optimizer", "full"], "accumulation_steps": 2},
        {"tp": 2, "sequence_parallel": True},
        {"pp": 2, "schedule": ["interleaved_1f1b", "zbv_zero_bubble"], "accumulation_steps": 4},
    ]
    directory = tmp_path_factory.mktemp("catalogue")
    paths = write_runs(directory, {**LM, "args": {**LM["args"], "layers": 4}}, layouts)
    # 1,500 samples: the last batch of an epoch has 300 of 400, so of a rank's micro-batches one is short and one empty.
    kept = {"name": "digits", "args": {"width": 8}, "global_batch_size": 400, "last_batch": "keep"}
    paths += write_runs(directory, kept, [{"dp": 2, "accumulation_steps": 5}, {"pp": 2, "accumulation_steps": 5}])
    unequal = [{"dp": 2, "shares": [48, 16], "shard": ["none", "full"], "accumulation_steps": 2}]
    paths += write_runs(directory, {"name": "digits"}, unequal)
    recipes = [
        {"compression": ["bf16", "powersgd"]},
        {"overlap": False, "compression": ["none", "fp16"]},
        {"static_graph": True},
        {"average_every": 3},
        {"data_workers": 1},
        {"channels_last": True, "fused_optimizer": True, "recompute": "full", "bucket_mb": 1},
    ]
    digits = {"name": "digits", "args": {"width": 8}}
    by_option = [path for recipe in recipes for path in write_runs(directory, digits, [{"dp": 2}], recipe=recipe)]
    found = train_all(2, [*paths, *by_option])
    of_recipes = [(json.loads(path.read_text())["recipe"], found[path.parent.name]) for path in by_option]
    return {path.parent.name: found[path.parent.name] for path in paths}, of_recipes


@pytest.mark.mpi
def test_layouts_on_two_ranks(trained):
    summaries, _ = trained
    assert_parity(summaries, FP32)
    for run_id, summary in summaries.items():
        if "digits-" in run_id and "1f1b" not in run_id and "+" not in run_id:
            assert summary.steps.samples_dropped_per_epoch.value == 0
        if "zero_bubble" in run_id:
            assert summary.bubble_ideal.value is None


@pytest.mark.mpi
def test_recipes_on_two_ranks(trained):
    _, of_recipes = trained
    assert_parity({summary.run_id: summary for _, summary in of_recipes})
    for recipe, summary in of_recipes:
        error = summary.parity.max_rel_err
        changes_numbers = recipe["compression"] in ("bf16", "fp16")
        assert (error > 1e-5) == changes_numbers, (recipe, error)
        without_a_twin = recipe["compression"] == "powersgd" or recipe["average_every"] > 1
        assert ("has no serial twin" in " ".join(summary.parity.found.told)) == without_a_twin
        assert summary.metric.name == "accuracy"
        assert 0 < summary.metric.value <= 1
        if not recipe["overlap"]:
            assert summary.phases_ms.comm_overlapped.value == 0


@pytest.mark.mpi
def test_a_model_that_is_no_sequence_is_cut_by_the_tracer(tmp_path, monkeypatch):
    (tmp_path / "skips_model.py").write_text(SKIPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    workload = {"entry": "skips_model:build", "global_batch_size": 32}
    layouts = [
        {"pp": 2, "schedule": ["gpipe", "1f1b"], "accumulation_steps": 4},
        {"pp": 2, "accumulation_steps": 4, "split": "measured"},
        {"dp": 2, "shard": "full"},
    ]
    paths = write_runs(tmp_path, workload, layouts, ("fp32", "bf16"))
    shared = {"global_batch_size": 32, "name": "tied"}
    tied = write_runs(tmp_path, {**shared, "entry": "skips_model:tied"}, [{"tp": 2}])
    tied += write_runs(tmp_path, {**shared, "entry": "skips_model:sequence"}, [{"dp": 2, "shard": "full"}])
    paths += tied
    summaries = train_all(2, paths, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert_parity(summaries)
    exact = {summary.metric.value for run, summary in summaries.items() if "fp32" in run and "tied" not in run}
    assert len(exact) == 1
    assert_parity({path.parent.name: summaries.pop(path.parent.name) for path in tied}, FP32)
    for run_id, summary in summaries.items():
        assert summary.metric.num_samples == 53
        assert summary.split is None or (sum(summary.split) == 4 and len(summary.split) == 2), run_id


@pytest.mark.mpi
def test_four_ranks_in_two_dimensions(tmp_path, monkeypatch):
    """One of each kind; `make catalogue` trains the others, and those on eight ranks."""
    layouts = [
        {"dp": 2, "pp": 2, "shares": [6, 2], "accumulation_steps": 2},
        {"dp": 2, "tp": 2, "shard": "full", "order": "pp.tp.dp"},
        {"pp": 2, "tp": 2, "sequence_parallel": True, "accumulation_steps": 2},
        {"dp": 4, "shard": "full", "shard_ranks": 2, "accumulation_steps": 2},
    ]
    paths = write_runs(tmp_path, LM, layouts)
    (tmp_path / "skips_model.py").write_text(SKIPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    traced = [{"dp": 2, "pp": 2, "accumulation_steps": 4}]
    paths += write_runs(tmp_path, {"entry": "skips_model:build", "global_batch_size": 32}, traced)
    assert_parity(train_all(4, paths, PYTHONPATH=f"{ROOT}:{tmp_path}"), FP32)
